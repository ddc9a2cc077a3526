"""Effects of rows on outcomes: each experiment's primary outcome, less that of the null row."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.interactions.burst_study import BurstHandle, BurstStudy
from ttoaa.parquet_io import read_outcomes
from ttoaa.runs import CONTROL
from ttoaa.workdir import Workdir

COLUMNS = (
    *("checkpoint", "seed", "row", "experiment", "outcome", "estimate", "ci_low", "ci_high"),
    *("n", "groups"),
)


def read_effects(bursts: BurstStudy, seeds: Sequence[int], rows: Sequence[str]) -> pd.DataFrame:
    """Return the effects of all rows that have tables, with the columns of `COLUMNS`.

    `estimate` is the difference of the experiment's primary outcome from the null row of the same
    seed; positive as the experiment expects. Its interval is over items, nan if they are too few.
    """
    found = [
        {"checkpoint": bursts.source.step, "seed": seed, "row": row, **effect}
        for seed in seeds
        for row in rows
        if row != CONTROL
        for effect in row_effects(bursts.handle(seed), row)
    ]
    return pd.DataFrame(found, columns=list(COLUMNS))


def row_effects(
    handle: BurstHandle, row: str, null: Workdir | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the effects of one row; `null` is the folder of the null row, if it is another one."""
    steps, null = handle.config.geometry.steps, null or handle.workdir
    for experiment in handle.config.experiments:
        name = experiment.name
        paths = handle.workdir.table(row, steps, name), null.table(CONTROL, steps, name)
        if all(path.exists() for path in paths):
            run, control = map(read_outcomes, paths)
            yield primary_effect(experiment, run, control)


def primary_effect(
    experiment: Experiment, run: pd.DataFrame, control: pd.DataFrame
) -> dict[str, Any]:
    """Return the difference of an experiment's primary outcome between two of its tables.

    Raises ValueError if the tables do not have that outcome.
    """
    outcome, _, condition = experiment.primary.partition("/")
    for each in experiment.estimates(run, control):
        if (each.outcome, each.condition) == (outcome, condition):
            found = dataclasses.asdict(each)
            return {
                "experiment": experiment.name,
                "outcome": experiment.primary,
                "estimate": found["difference"],
                "ci_low": found["difference_ci_low"],
                "ci_high": found["difference_ci_high"],
                "n": found["n"],
                "groups": found["groups"] or found["n"],
            }
    raise ValueError(f"{experiment.name}: its tables do not have the primary {experiment.primary}")
