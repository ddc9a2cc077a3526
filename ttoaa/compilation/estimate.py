"""Compile a program, with a cache, and estimate its memory and time on one device of a mesh."""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ttoaa.accelerators import CHIPS, Chip
from ttoaa.compilation import hlo
from ttoaa.compilation.collectives import collective_seconds, find_collectives, gib_by_kind
from ttoaa.compilation.time_models import estimate_times, kernel_flops
from ttoaa.workdir import write_bytes


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """The compiler's output for devices that are not at hand."""

    text: str
    """HLO; empty if the program does not fit into memory."""
    gib: float
    """Peak memory of one device: arguments, results, temporaries and code."""
    optimal_seconds: float
    """XLA's own time estimate; 0 if it gives none."""
    seconds: float
    """Compile time."""
    flops: float = 0.0
    """XLA's count on one device, which includes element-wise operations, but the body of a loop
    once and no Pallas kernel; 0 if it gives none."""
    refused: str = ""
    """XLA's message if the program does not fit into memory."""


def compile_cached(
    lowered: jax.stages.Lowered, options: Mapping[str, str], cache: pathlib.Path | None
) -> CompiledProgram:
    """Compile a program, or read it from the cache folder.

    The cache key covers the program, the XLA options and the versions of jaxlib and libtpu.

    Raises:
        ValueError: XLA refuses the program for a reason other than memory.
    """
    versions = [importlib.metadata.version(name) for name in ("jaxlib", *_libtpu())]
    text = lowered.as_text()
    key = hashlib.sha256(json.dumps([text, sorted(options.items()), versions]).encode())
    path = cache and cache / f"{key.hexdigest()[:32]}.json.gz"
    if path and path.exists():
        return CompiledProgram(**json.loads(gzip.decompress(path.read_bytes())))
    program = _compile(lowered, options)
    if path:
        write_bytes(path, gzip.compress(json.dumps(dataclasses.asdict(program)).encode()))
    return program


def _libtpu() -> list[str]:
    return ["libtpu"] if importlib.util.find_spec("libtpu") else []


def _compile(lowered: jax.stages.Lowered, options: Mapping[str, str]) -> CompiledProgram:
    started = time.perf_counter()
    try:
        program = lowered.compile(compiler_options=dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        needed, line = _needed_gib(str(error)), str(error).splitlines()[0]
        if needed is None:
            raise ValueError(f"XLA refuses: {line}") from error
        return CompiledProgram("", needed, 0.0, time.perf_counter() - started, refused=line)
    memory: Any = program.memory_analysis()
    size = memory.argument_size_in_bytes + memory.output_size_in_bytes
    size += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    size += memory.generated_code_size_in_bytes
    costs = program.cost_analysis() or {}
    return CompiledProgram(
        program.as_text() or "",
        size / 2**30,
        float(costs.get("optimal_seconds", 0.0)),
        time.perf_counter() - started,
        float(costs.get("flops", 0.0)),
    )


def _needed_gib(message: str) -> float | None:
    """Parse `Used 104.03G of 95.74G hbm` or `… HLO temporaries (800.00G) exceeds …` of XLA:TPU."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"(?:Used |\()([\d.]+)([KMGT])", message)
    units = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
    return float(found.group(1)) * units[found.group(2)] if found else None


ATTENTION_SHARES = (0.4, 0.5, 0.6)
"""Assumed shares of the peak that attention reaches; the middle one gives the estimate."""

Measures = dict[str, float]
"""Seconds, bytes and FLOPs of one program on one device; each is linear in the layers."""


def measure(program: CompiledProgram, mesh: Mesh) -> Measures:
    """Measure a program on one device; without time for a chip that is not in CHIPS."""
    chip = _chip_of(mesh)
    measures = {"hbm_gib": program.gib, "compile_seconds": program.seconds}
    measures["xla_flops"] = program.flops
    if not program.text:
        return measures
    module = hlo.parse(program.text)
    unknown = [name for name, times in module.loops.items() if times is None]
    found = find_collectives(module, mesh.size)
    for kind, gib in gib_by_kind(found).items():
        measures[f"gib/{kind}"] = gib
    attention = kernel_flops(module)
    measures |= {
        "attention_flops": attention.flops,
        "loops": float(len(module.loops)),
        "unknown_loops": float(len(unknown)),
        "unknown_kernels": float(len(attention.unknown)),
    }
    if chip is None:
        return measures
    times = estimate_times(module, chip)
    coordinates = np.array([device.coords for device in mesh.devices.flat])
    waited, hidden = collective_seconds(found, coordinates, chip)
    return measures | {
        "roofline": times.roofline,
        "cycles": times.cycles,
        "mixed": times.mixed,
        "products": times.products,
        "optimal": program.optimal_seconds,
        "waited": waited,
        "hidden": hidden,
    }


def extrapolate(few: Measures, more: Measures, layers: tuple[int, int, int]) -> Measures:
    """Extrapolate linearly from layers[0] and layers[1] layers to layers[2].

    Seconds of compilation are added instead, since they are spent on both.
    """
    share = (layers[2] - layers[0]) / (layers[1] - layers[0])
    whole = {name: few[name] + share * (more.get(name, 0.0) - few[name]) for name in few}
    return whole | {"compile_seconds": few["compile_seconds"] + more["compile_seconds"]}


def _chip_of(mesh: Mesh) -> Chip | None:
    return CHIPS.get(mesh.devices.flat[0].device_kind)


def report(measures: Mapping[str, float], mesh: Mesh, model_flops: float) -> dict[str, Any]:
    """Return the memory and time part of the command's JSON.

    Times are None for an unknown chip, and for a program with a kernel or a trip count that is
    unknown.

    Args:
        model_flops: of one step on all devices.
    """
    chip = _chip_of(mesh)
    gib = measures["hbm_gib"]
    result: dict[str, Any] = {
        "hbm_gib": float(f"{gib:.4g}"),
        "capacity_gib": chip and chip.hbm_gib,
        "fits": chip and gib <= chip.hbm_gib,
        "model_flops_per_step": model_flops,
        "estimated_seconds": None,
        "implied_mfu": None,
        "collective_gib": {
            name.removeprefix("gib/"): float(f"{value:.4g}")
            for name, value in measures.items()
            if name.startswith("gib/")
        },
        "limits": None,
    }
    unknown = {what: measures.get(f"unknown_{what}", 0.0) for what in ("loops", "kernels")}
    if any(unknown.values()):
        result["unknown"] = unknown
    elif chip and "roofline" in measures:
        result |= _report_times(measures, mesh.size, chip, model_flops)
    return result


def compare(
    plain: Mapping[str, float], noisy: Mapping[str, float], mesh: Mesh, model_flops: float
) -> dict[str, Any]:
    """Return what a step of a batch with noise costs: memory, FLOPs and time, and their ratios.

    `xla_flops` is XLA's count on one device (see `CompiledProgram.flops`). A ratio is None where
    one of the two is unknown.
    """
    both = [
        {**report(each, mesh, model_flops), "xla_flops": each["xla_flops"]}
        for each in (plain, noisy)
    ]
    names = ("hbm_gib", "xla_flops", "estimated_seconds")
    ratios = {
        name: round(both[1][name] / both[0][name], 4) if both[0][name] and both[1][name] else None
        for name in names
    }
    return {**{name: both[1][name] for name in names}, "fits": both[1]["fits"], "ratios": ratios}


def _report_times(
    measures: Mapping[str, float], devices: int, chip: Chip, model_flops: float
) -> dict[str, Any]:
    ideal = model_flops / (devices * chip.peak_flops)

    def attention_seconds(share: float) -> float:
        return measures["attention_flops"] / (share * chip.peak_flops)

    def step(time_model: str, share: float) -> dict[str, float]:
        seconds = measures[time_model] + attention_seconds(share) + measures["waited"]
        return {"seconds": round(seconds, 4), "mfu": round(ideal / seconds, 4)}

    def by_share(time_model: str) -> dict[str, dict[str, float]]:
        return {str(share): step(time_model, share) for share in ATTENTION_SHARES}

    estimate = step("roofline", ATTENTION_SHARES[1])
    products = measures["products"]
    limits = {
        "matrix_products": products,
        "memory": measures["roofline"] - products,
        "attention": attention_seconds(ATTENTION_SHARES[1]),
        "collectives": measures["waited"],
    }
    return {
        "estimated_seconds": estimate["seconds"],
        "implied_mfu": estimate["mfu"],
        "limits": {"ideal": round(ideal, 4)} | {k: round(v, 4) for k, v in limits.items()},
        "by_attention_efficiency": by_share("roofline"),
        "pessimistic": step("cycles", ATTENTION_SHARES[0])
        | {"by_attention_efficiency": by_share("cycles")},
        "clocks": {
            "roofline": round(measures["roofline"], 4),
            "cycles": round(measures["cycles"], 4),
            "mixed": round(measures["mixed"], 4),
            "xla_optimal": round(measures["optimal"], 4) if _is_plausible(measures) else None,
        },
        "collective_seconds": {
            "waited": round(measures["waited"], 4),
            "hidden": round(measures["hidden"], 4),
        },
    }


def _is_plausible(measures: Mapping[str, float]) -> bool:
    """XLA's estimate is negative for some chips, and counts the body of a loop once."""
    return measures["optimal"] > 0.5 * measures["roofline"] and not measures["loops"]
