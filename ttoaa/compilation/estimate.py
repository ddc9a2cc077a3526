"""Compiles once: text, memory and cost analysis of a lowered program, kept in a folder.

From compiled programs to what a step would cost: memory, seconds, and what bounds them.
"""

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

from ttoaa.compilation import collectives, hlo
from ttoaa.compilation.pods import CHIPS, Chip
from ttoaa.compilation.time_models import clocks, kernels
from ttoaa.workdir import write_bytes


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is left of a compiled program when its devices are not there."""

    text: str
    """HLO; empty where the program did not fit."""
    gib: float
    """Arguments, results and temporaries of one device, the larger of any moment."""
    optimal_seconds: float
    """XLA's own estimate; 0 where it gives none."""
    seconds: float
    """Taken by the compiler."""
    refused: str = ""
    """Its words where the program needs more memory than there is."""


def compile_cached(
    lowered: jax.stages.Lowered, options: Mapping[str, str], cache: pathlib.Path | None
) -> Compiled:
    """The same program under the same options and versions is compiled once, given a folder."""
    versions = [importlib.metadata.version(name) for name in ("jaxlib", *_libtpu())]
    text = lowered.as_text()
    key = hashlib.sha256(json.dumps([text, sorted(options.items()), versions]).encode())
    path = cache and cache / f"{key.hexdigest()[:32]}.json.gz"
    if path and path.exists():
        return Compiled(**json.loads(gzip.decompress(path.read_bytes())))
    made = _compile(lowered, options)
    if path:
        write_bytes(path, gzip.compress(json.dumps(dataclasses.asdict(made)).encode()))
    return made


def _libtpu() -> list[str]:
    return ["libtpu"] if importlib.util.find_spec("libtpu") else []


def _compile(lowered: jax.stages.Lowered, options: Mapping[str, str]) -> Compiled:
    started = time.perf_counter()
    try:
        program = lowered.compile(compiler_options=dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        needed = _needed_gib(str(error))
        if needed is None:
            raise ValueError(f"XLA refuses: {str(error).splitlines()[0]}") from error
        took = time.perf_counter() - started
        return Compiled("", needed, 0.0, took, str(error).splitlines()[0])
    memory: Any = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    held += memory.generated_code_size_in_bytes
    costs = program.cost_analysis() or {}
    return Compiled(
        program.as_text() or "",
        held / 2**30,
        float(costs.get("optimal_seconds", 0.0)),
        time.perf_counter() - started,
    )


def _needed_gib(message: str) -> float | None:
    """XLA:TPU says `Used 104.03G of 95.74G hbm` or `… HLO temporaries (800.00G) exceeds …`."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"(?:Used |\()([\d.]+)([KMGT])", message)
    units = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
    return float(found.group(1)) * units[found.group(2)] if found else None


ATTENTION = (0.4, 0.5, 0.6)
"""Shares of the peak that attention is taken to reach; the middle one is the estimate."""

Measures = dict[str, float]
"""Of one program on one device, each linear in the number of layers."""


def measure(program: Compiled, mesh: Mesh) -> Measures:
    """Seconds, bytes and FLOPs of one device; memory alone for a chip that is not in the table."""
    chip = CHIPS.get(mesh.devices.flat[0].device_kind)
    measures = {"hbm_gib": program.gib, "compile_seconds": program.seconds}
    if not program.text:
        return measures
    module = hlo.parse(program.text)
    unknown = [name for name, times in module.loops.items() if times is None]
    found = collectives.collectives(module, mesh.size)
    for kind, gib in collectives.gib_by_kind(found).items():
        measures[f"gib/{kind}"] = gib
    attention = kernels(module)
    measures |= {
        "attention_flops": attention.flops,
        "loops": float(len(module.loops)),
        "unknown_loops": float(len(unknown)),
        "unknown_kernels": float(len(attention.unknown)),
    }
    if chip is None:
        return measures
    counted = clocks(module, chip)
    waited, hidden = collectives.seconds(found, _coordinates(mesh), chip)
    return measures | {
        "roofline": counted.roofline,
        "cycles": counted.cycles,
        "mixed": counted.mixed,
        "products": counted.products,
        "optimal": program.optimal_seconds,
        "waited": waited,
        "hidden": hidden,
    }


def extrapolate(few: Measures, more: Measures, layers: tuple[int, int, int]) -> Measures:
    """From two numbers of layers to a third, along a line."""
    share = (layers[2] - layers[0]) / (layers[1] - layers[0])
    return {name: few[name] + share * (more.get(name, 0.0) - few[name]) for name in few}


def _coordinates(mesh: Mesh) -> np.ndarray:
    return np.array([device.coords for device in mesh.devices.flat])


def report(measures: Mapping[str, float], mesh: Mesh, model_flops: float) -> dict[str, Any]:
    """What the command prints of one program.

    Seconds are None where the chip is not known, or something in the program is not.
    """
    chip = CHIPS.get(mesh.devices.flat[0].device_kind)
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
    if any(unknown.values()):  # how often a loop runs, what a kernel does
        result["unknown"] = unknown
    elif chip and "roofline" in measures:
        result |= _times(measures, mesh.size, chip, model_flops)
    return result


def _times(measures: Mapping[str, float], devices: int, chip: Chip, model: float) -> dict[str, Any]:
    ideal = model / (devices * chip.peak_flops)

    def over(clock: str, efficiency: float) -> dict[str, float]:
        attention = measures["attention_flops"] / (efficiency * chip.peak_flops)
        seconds = measures[clock] + attention + measures["waited"]
        return {"seconds": round(seconds, 4), "mfu": round(ideal / seconds, 4)}

    def table(clock: str) -> dict[str, dict[str, float]]:
        return {str(efficiency): over(clock, efficiency) for efficiency in ATTENTION}

    estimate = over("roofline", ATTENTION[1])
    products = measures["products"]
    limits = {
        "matrix_products": products,
        "memory": measures["roofline"] - products,
        "attention": measures["attention_flops"] / (ATTENTION[1] * chip.peak_flops),
        "collectives": measures["waited"],
    }
    return {
        "estimated_seconds": estimate["seconds"],
        "implied_mfu": estimate["mfu"],
        "limits": {"ideal": round(ideal, 4)} | {k: round(v, 4) for k, v in limits.items()},
        "by_attention_efficiency": table("roofline"),
        "pessimistic": over("cycles", ATTENTION[0]) | {"by_attention_efficiency": table("cycles")},
        "clocks": {
            "roofline": round(measures["roofline"], 4),
            "cycles": round(measures["cycles"], 4),
            "mixed": round(measures["mixed"], 4),
            # Of use only where it is positive, and no loop is in the program.
            "xla_optimal": round(measures["optimal"], 4) if _sane(measures) else None,
        },
        "collective_seconds": {
            "waited": round(measures["waited"], 4),
            "hidden": round(measures["hidden"], 4),
        },
    }


def _sane(measures: Mapping[str, float]) -> bool:
    return measures["optimal"] > 0.5 * measures["roofline"] and not measures["loops"]
