"""The price of a study: tokens, FLOPs and chip-hours, and what its design can detect."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ttoaa.author_errors import blame
from ttoaa.config import Study
from ttoaa.model.decoder import abstract_params
from ttoaa.price.hardware import CHIP_TYPES, Hardware
from ttoaa.price.memory import least_memory
from ttoaa.price.published_mfu import comparable
from ttoaa.price.stand_in import expected_insertions
from ttoaa.reporting.findings import primary_title
from ttoaa.reporting.savings import SIDES, Cost, made_once, training_parts
from ttoaa.runs import CONTROL, REFERENCE, RUN, checks_pooling
from ttoaa.training.optimizer import bind_schedule
from ttoaa.training.reference import TrainedReference


def price(
    study: Study,
    mfu: float,
    hardware: Hardware | None = None,
    price_per_chip_hour: float | None = None,
    compiled: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the price of one seed of a study as a JSON object (docs/price.md).

    Args:
        mfu: the MFU at which chip-hours are stated.
        price_per_chip_hour: in any currency; it needs `hardware`.
        compiled: what `ttoaa compile` printed for the hardware.

    Raises:
        ValueError: the study does not fit the hardware, or a run of `Study.runs` is too short.
    """
    flops_per_token = study.model.flops_per_token(study.geometry.length)
    runs = _runs(study)
    flops = sum(run["flops"] for run in runs)
    parameters = study.model.num_params()
    found: dict[str, Any] = {
        "study": study.name,
        "parameters": parameters,
        "geometry": dataclasses.asdict(study.geometry),
        "flops_per_token": flops_per_token,
        "runs": runs,
        "tokens": sum(run["tokens"] for run in runs),
        "flops": flops,
        "mfu": mfu,
        "chips": [_chip(name, parameters, flops, mfu) for name in CHIP_TYPES],
        "storage": _storage(study, [run["name"] for run in runs]),
        "separate": _separate(study, runs),
        **_experiments(study),
    }
    if hardware:
        found["hardware"] = _on(hardware, study, flops, mfu, price_per_chip_hour, compiled)
    return found


def _runs(study: Study) -> list[dict[str, Any]]:
    """Return the name, tokens and FLOPs of every run that `ttoaa study` trains."""
    names = dict.fromkeys([CONTROL, *([RUN] if study.experiments else []), *study.runs])
    found = [(name, study) for name in names]
    if study.needs_reference and isinstance(study.reference, TrainedReference):
        found.insert(0, (REFERENCE, study.of_reference()))
    runs = []
    for name, of in found:
        begun = int(name.partition("@")[2] or 0)
        geometry = of.geometry
        if begun >= geometry.steps:
            raise ValueError(f"Study.runs: {name} begins after the last step, {geometry.steps}")
        tokens = (geometry.steps - begun) * geometry.batch * geometry.length
        flops = tokens * of.model.flops_per_token(geometry.length)
        runs.append({"name": name, "tokens": tokens, "flops": flops})
    return runs


def _storage(study: Study, runs: Sequence[str]) -> dict[str, int]:
    """Return how many checkpoints `Training.keep` leaves in the study, and the bytes of each."""
    params = abstract_params(study.model)
    optimizer = bind_schedule(study.training.optimizer, study.geometry.steps)
    leaves = jax.tree.leaves((params, jax.eval_shape(optimizer.init, params)))
    kept = 0
    for name in runs:
        of = study.of_reference() if name == REFERENCE else study
        begun = int(name.partition("@")[2] or 0)
        saved = [s for s in sorted(of.training.checkpoint_steps(of.geometry.steps)) if s > begun]
        kept += len(saved) - len(of.training.keep.surplus(saved, lambda step: True))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return {"checkpoints": kept, "bytes_per_checkpoint": size}


def chip_hours(flops: float, peak_flops: float, mfu: float) -> float:
    """Return the hours of one chip with this peak, in FLOP/s."""
    return flops / (peak_flops * mfu) / 3600


def _chip(name: str, parameters: int, flops: float, mfu: float) -> dict[str, Any]:
    peak = CHIP_TYPES[name].peak_flops
    return {
        "chip": name,
        "peak_flops": peak,
        "chip_hours": chip_hours(flops, peak, mfu),
        "published": [
            {**dataclasses.asdict(each), "chip_hours": chip_hours(flops, peak, each.mfu)}
            for each in comparable(name, parameters)
        ],
    }


def _on(
    hardware: Hardware,
    study: Study,
    flops: float,
    mfu: float,
    price_per_chip_hour: float | None,
    compiled: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return hours, money and memory on some chips, at the stated MFU and at published ones."""
    chip = hardware.chip
    shares = {"stated": mfu}
    published = comparable(chip.name, study.model.num_params())
    if published:
        shares |= {"published": published[0].mfu}
    if compiled and compiled.get("implied_mfu"):
        shares["upper bound"] = compiled["implied_mfu"]
    at = []
    for what, share in shares.items():
        used = chip_hours(flops, chip.peak_flops, share)
        money = None if price_per_chip_hour is None else used * price_per_chip_hour
        hours = used / hardware.chips
        at.append({"what": what, "mfu": share, "hours": hours, "chip_hours": used, "price": money})
    memory = least_memory(study, hardware)
    found = {
        "name": hardware.name,
        "chip": chip.name,
        "chips": hardware.chips,
        "topology": hardware.topology,
        "price_per_chip_hour": price_per_chip_hour,
        "at": at,
        "memory": {
            **dataclasses.asdict(memory),
            "total": memory.total,
            "fitting_microbatch": memory.fitting_microbatch,
        },
    }
    if compiled:
        found["compiled"] = dict(compiled)
    return found


def _separate(study: Study, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the training FLOPs of the pooled study and of separate ones, as the report does."""
    flops = {run["name"]: run["flops"] for run in runs if not checks_pooling(run["name"])}
    if RUN not in flops:
        return None
    once = {"reference model": flops.pop(REFERENCE, 0.0)}
    run, experiments = flops.pop(RUN), len(study.experiments)
    parts = *made_once(once), *training_parts(flops, run, run, "assumed")
    cost = Cost(experiments, parts, (), 0.0)
    return {
        "experiments": experiments,
        **{side: cost.seconds(side) for side in SIDES},
        "saving_shared": cost.net_saving("shared"),
        "saving_own": cost.net_saving("own"),
    }


def _experiments(study: Study) -> dict[str, Any]:
    """Return what each experiment inserts and can detect, and what tokenizer was used."""
    expected, own = expected_insertions(study)
    found = []
    for experiment, each in zip(study.experiments, expected, strict=True):
        row: dict[str, Any] = {"name": each.name, "unknown": each.unknown, "insertions": None}
        if each.insertions:
            row["insertions"] = each.insertions._asdict()
            row["insertions"]["share"] = each.insertions.tokens / study.geometry.tokens
        row |= {
            "primary": experiment.primary,
            "title": primary_title(experiment)[1],
            "smallest_effect": experiment.smallest_effect or None,
            "precision": None,
        }
        with blame(f"the precision of {experiment.name}"):
            precision = experiment.precision(study.geometry)
        if precision:
            row["precision"] = dataclasses.asdict(precision)
            row["precision"]["detectable"] = precision.detectable()
        found.append(row)
    return {"experiments": found, "tokenizer": "of the study" if own else "stand-in"}
