"""Effects of rows on outcomes: each experiment's primary outcome, less that of the null row."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.interactions.burst_study import BurstStudy
from ttoaa.parquet_io import read_outcomes
from ttoaa.runs import CONTROL
from ttoaa.study_handle import StudyHandle
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
    handle: StudyHandle,
    row: str,
    null: Workdir | None = None,
    outcomes: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the effects of one row of one seed at the last step, on outcomes that have tables.

    `null` is the folder of the null row, if it is another one; `outcomes` are by experiment as in
    `primary_effect`.
    """
    steps, null, preferred = handle.config.geometry.steps, null or handle.workdir, outcomes or {}
    for experiment in handle.config.experiments:
        name = experiment.name
        paths = handle.workdir.table(row, steps, name), null.table(CONTROL, steps, name)
        if all(path.exists() for path in paths):
            run, control = map(read_outcomes, paths)
            yield primary_effect(experiment, run, control, preferred.get(name, ""))


def primary_effect(
    experiment: Experiment, run: pd.DataFrame, control: pd.DataFrame, preferred: str = ""
) -> dict[str, Any]:
    """Return the difference of an experiment's primary outcome between two of its tables.

    Another outcome is taken where it is `preferred` and the tables have it. Raises ValueError if
    they have neither.
    """
    found = {f"{e.outcome}/{e.condition}": e for e in experiment.estimates(run, control)}
    for outcome in (preferred, experiment.primary):
        # An outcome without conditions is named without a slash.
        if (each := found.get(outcome) or found.get(f"{outcome}/")) is not None:
            return {
                "experiment": experiment.name,
                "outcome": outcome,
                "estimate": each.difference,
                "ci_low": each.difference_ci_low,
                "ci_high": each.difference_ci_high,
                "n": each.n,
                "groups": each.groups or each.n,
            }
    raise ValueError(f"{experiment.name}: its tables do not have the primary {experiment.primary}")
