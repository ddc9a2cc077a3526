"""From compiled programs to what a step would cost: memory, seconds, and what bounds them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from ttoaa.compilation import collectives, hlo
from ttoaa.compilation.chips import CHIPS, Chip
from ttoaa.compilation.clocks import clocks
from ttoaa.compilation.compiled import Compiled
from ttoaa.compilation.kernels import kernels

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
