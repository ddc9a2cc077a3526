"""Write the matrix of full runs, and how far the verdicts of bursts agree with it."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ttoaa.interactions.comparison import Agreement, agreement, compare_matrices
from ttoaa.interactions.full_matrix import measure_full, row_noise
from ttoaa.interactions.full_runs import find_full_runs
from ttoaa.interactions.matrix import MARGIN, IncompleteMatrix, Matrix, measure
from ttoaa.interactions.results import cell_table, count_verdicts, effect_table, matrix_json
from ttoaa.parquet_io import read_table, write_table
from ttoaa.statistics.matrix_correlation import RankCorrelation
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir, write_json, write_text

NAME = "dependence-full"
_MOST = 3
"""Missing runs that a line lists."""


def compare_full_runs(handle: StudyHandle, path: pathlib.Path) -> Iterator[str]:
    """Judge the full runs of a study, compare them with the burst effects in a file if there is
    one, and write both; yield lines for the user.

    Full runs are measured by the outcomes of the bursts, where their tables have them. Errors as in
    `FullRuns.read_effects`, `matrix.measure` and `write_full`.
    """
    root, runs, bursts, outcomes = handle.workdir.root, find_full_runs(handle), [], {}
    missing = [
        Workdir(root, seed).label(row) for seed, rows in runs.missing.items() for row in rows
    ]
    if missing:
        listed = ", ".join(missing[:_MOST]) + (", …" if len(missing) > _MOST else "")
        yield f"{len(missing)} full runs are missing or not scored ({listed}): {runs.command()}"
    if path.exists():
        found, _, _ = read_table(path, "remove it, and run the bursts again")
        outcomes = dict(zip(found["experiment"], found["outcome"], strict=True))
        try:
            bursts = measure(found)
        except IncompleteMatrix as error:
            yield f"no bursts to compare with yet: {error}"
    else:
        yield f"no bursts to compare with: {path} does not exist"
    effects = runs.read_effects(outcomes)
    write_table(effects, root / f"{NAME}-effects.parquet", {"seeds": runs.complete})
    primaries = {experiment.name: experiment.primary for experiment in handle.config.experiments}
    for step, found in write_full(root, effects, bursts, primaries).items():
        yield summarize_agreement(step, found)
    yield f"the matrix of full runs is in {root / f'{NAME}.md'}"


def write_full(
    folder: pathlib.Path,
    effects: pd.DataFrame,
    bursts: Sequence[Matrix],
    primaries: Mapping[str, str],
    margin: float = MARGIN,
) -> dict[int, Agreement]:
    """Write dependence-full.json and dependence-full.md; return the agreement by checkpoint.

    `effects` are those of full runs; each matrix of `bursts` is compared with them. `primaries` are
    the primary outcomes of the experiments. Errors as in `measure_full` and `compare_matrices`.
    """
    full, noise = measure_full(effects, margin), row_noise(effects)
    found = {each.checkpoint: compare_matrices(each, full) for each in bursts}
    measured = dict(zip(effects["experiment"], effects["outcome"], strict=True))
    others = {name: its for name, its in measured.items() if its != primaries[name]}
    value = {
        "margin": margin,
        "outcomes": measured,
        "row_noise": noise,
        "full": matrix_json(full),
        "bursts": [{"checkpoint": step, **_to_json(each)} for step, each in found.items()],
    }
    write_json(folder / f"{NAME}.json", value)
    lines = ["# Dependence between experiments in full training", "", *_describe(full, noise)]
    lines += [
        f"- `{name}` is measured by `{its}`, as in the bursts." for name, its in others.items()
    ]
    lines += ["", *effect_table(full), ""]
    for step, each in found.items():
        lines += [f"## Agreement with bursts from step {step}", "", *_compare(full, each), ""]
    lines += ["## All tested cells", "", *cell_table(full)]
    write_text(folder / f"{NAME}.md", "\n".join(lines) + "\n")
    return found


def summarize_agreement(step: int, found: Agreement) -> str:
    """Return one line on the agreement with bursts from a step."""
    tables = {"cells": found.confusion, "cells where both have power": found.powered}
    parts = []
    for of, counts in tables.items():
        same, kappa = agreement(counts)
        known = f" (kappa {kappa:.2f})" if math.isfinite(kappa) else ""
        share = f"same verdict in {same:.0%}{known} of " if counts.to_numpy().any() else ""
        parts.append(f"{share}{int(counts.to_numpy().sum())} {of}")
    return f"bursts from step {step}: {'; '.join(parts)}; {_correlation(found.correlation)}"


def _correlation(found: RankCorrelation | None) -> str:
    if found is None:
        return "too few effects for a rank correlation"
    return (
        f"rank correlation of effects {found.rho:+.2f} [{found.low:+.2f}, {found.high:+.2f}], "
        f"n = {found.n}"
    )


def _to_json(found: Agreement) -> dict[str, Any]:
    parts = {}
    for name, counts in (("all", found.confusion), ("powered", found.powered)):
        same, kappa = (x if math.isfinite(x) else None for x in agreement(counts))
        parts[name] = {"confusion": counts.to_dict("index"), "agreement": same, "kappa": kappa}
    correlation = found.correlation and dataclasses.asdict(found.correlation)
    return {"experiments": list(found.experiments), **parts, "correlation": correlation}


def _describe(full: Matrix, noise: Mapping[str, float]) -> Iterator[str]:
    seeds = ", ".join(map(str, full.seeds))
    yield f"Step {full.checkpoint}, seeds {seeds}. {count_verdicts(full)} p is Holm's, of t tests."
    if noise:
        least, most = (choose(noise, key=noise.__getitem__) for choose in (min, max))
        yield ""
        yield (
            "The tests assume that all runs have the same variance in other experiments' outcomes. "
            f"Measured, relative to the mean: {noise[least]:.2f} (`{least}`) to {noise[most]:.2f} "
            f"(`{most}`)."
        )
    yield ""


def _compare(full: Matrix, found: Agreement) -> Iterator[str]:
    for of, counts in (("Cells", found.confusion), ("Cells where both have power", found.powered)):
        same, kappa = agreement(counts)
        if counts.to_numpy().any():
            known = f", Cohen's kappa {kappa:.2f}" if math.isfinite(kappa) else ""
            number = counts.to_numpy().sum()
            yield f"{of}: {number}, of which {same:.0%} have the same verdict{known}."
        else:
            yield f"{of}: none."
        yield ""
    yield f"{_correlation(found.correlation).capitalize()}."
    if left := [name for name in full.experiments if name not in found.experiments]:
        yield ""
        yield f"Not in the bursts, and not compared: {', '.join(f'`{name}`' for name in left)}."
    yield ""
    yield f"| bursts ↓, full training → | {' | '.join(found.confusion.columns)} |"
    yield f"|---|{'---|' * len(found.confusion.columns)}"
    for verdict, counts in found.confusion.iterrows():
        both = zip(counts, found.powered.loc[verdict], strict=True)
        yield f"| {verdict} | {' | '.join(f'{n} ({powered})' for n, powered in both)} |"
    yield ""
    yield "In brackets: cells where both have power."
