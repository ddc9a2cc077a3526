"""The primary outcome of an experiment in the pooled run, against that in its run `alone/NAME`."""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.reporting.estimates import (
    ALL_SEEDS,
    FEWEST_RUNS,
    StudyEstimates,
    estimate_run,
    plain,
)
from ttoaa.runs import RUN
from ttoaa.statistics.bootstrap import across_seeds
from ttoaa.workdir import Workdir


def compare_alone(
    root: pathlib.Path, experiments: Sequence[Experiment], estimates: StudyEstimates
) -> dict[str, list[dict[str, Any]]]:
    """Return, by experiment, a row for each seed with a run `alone/NAME`, and one over several.

    `together` and `alone` are the differences of both runs from the control run, `difference` is
    the first less the second with `low` and `high`, its 95% interval over items: paired by item
    where the outcome's difference between both runs is the difference of its differences, else
    (contrasts within a run) as if both were independent, which is wider. The row over seeds has
    the interval over runs for three seeds or more (`over` is 'runs').
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for experiment in experiments:
        rows = [*_by_seed(root, experiment, estimates)]
        if rows:
            found[experiment.name] = rows + ([_over_seeds(rows)] if len(rows) > 1 else [])
    return {
        name: [{key: plain(value) for key, value in row.items()} for row in rows]
        for name, rows in found.items()
    }


def _by_seed(
    root: pathlib.Path, experiment: Experiment, estimates: StudyEstimates
) -> Iterator[dict[str, Any]]:
    name, step = f"alone/{experiment.name}", estimates.final_step
    together = _primary(estimates.table[estimates.table["step"] == step], experiment.name)
    others = _primary(estimates.others, experiment.name)
    for _, alone in others[others["run"] == name].iterrows():
        seed = int(alone["seed"])
        pooled = together[together["seed"] == seed].iloc[0]
        between = estimate_run(Workdir(root, seed), step, experiment, RUN, name)
        (direct,) = _primary(between, experiment.name).to_dict("records")
        difference = pooled["difference"] - alone["difference"]
        paired = math.isclose(direct["difference"], difference, rel_tol=1e-6, abs_tol=1e-9)
        if paired:
            low, high = direct["difference_ci_low"], direct["difference_ci_high"]
        else:
            low = difference - math.hypot(_reach(pooled, "low"), _reach(alone, "high"))
            high = difference + math.hypot(_reach(pooled, "high"), _reach(alone, "low"))
        yield {
            "seed": seed,
            "together": pooled["difference"],
            "alone": alone["difference"],
            "difference": difference,
            "low": low,
            "high": high,
            "over": "items",
            "paired": paired,
        }


def _primary(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table[(table["experiment"] == name) & table["primary"].astype(bool)]


def _reach(row: Mapping[str, Any], side: str) -> float:
    return abs(row[f"difference_ci_{side}"] - row["difference"])


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    table = pd.DataFrame(rows)
    whole = {
        "seed": ALL_SEEDS,
        **table[["together", "alone", "difference"]].mean().to_dict(),
        "paired": bool(table["paired"].all()),
    }
    if len(rows) >= FEWEST_RUNS:
        _, low, high = across_seeds(table["difference"].to_numpy())
        return whole | {"low": low, "high": high, "over": "runs"}
    # Items of the seeds are independent, so their variances add.
    reach = {
        side: math.hypot(*(table[side] - table["difference"])) / len(rows)
        for side in ("low", "high")
    }
    low, high = whole["difference"] - reach["low"], whole["difference"] + reach["high"]
    return whole | {"low": low, "high": high, "over": "items"}
