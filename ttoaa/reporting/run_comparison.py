"""Compare the training of the runs with that of the control run (paper, figures 5-8, tables 3-4).

The experiment run, and `sham`, `reordered` and `reinitialised` where they exist: differences from
the control run over training, and their mean over the last part, judged against margins.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ttoaa import parquet_io
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.contamination import ACCURACY, LIKELIHOOD, Contamination
from ttoaa.json_io import read_json_lines
from ttoaa.reporting.figures import binned
from ttoaa.reporting.number_formats import format_interval, format_number
from ttoaa.reporting.svg import BLUE, GREEN, GREY, ORANGE, PURPLE, Picture, draw
from ttoaa.runs import CONTROL, REINITIALISED, REORDERED, RUN, SHAM
from ttoaa.statistics.run_equivalence import (
    QUANTITIES,
    Compared,
    RunComparison,
    band_half_width,
    compare_seeds,
)
from ttoaa.training.run_records import ArmsLine
from ttoaa.workdir import Workdir

RUNS = (RUN, SHAM, REORDERED, REINITIALISED)
_COLOURS = {RUN: BLUE, SHAM: ORANGE, REORDERED: GREEN, REINITIALISED: PURPLE}
_TITLES = {
    "loss": "training loss",
    "corpus_loss": "training loss, corpus tokens only",
    "validation_loss": "validation loss",
    "grad_norm": "gradient norm",
    **{name: f"weight norm: {name[5:]}" for name in QUANTITIES if name.startswith("norm/")},
    "held_out_log_likelihood": "log-likelihood of held-out answers",
    "held_out_accuracy": "accuracy on held-out questions",
}
_HELD_OUT = {LIKELIHOOD: "held_out_log_likelihood", ACCURACY: "held_out_accuracy"}
_BINS = 40
_KEYS = ["quantity", "seed", "step"]
_COLUMNS = ["run", "seed", "step", "quantity", "value"]


@dataclasses.dataclass(frozen=True)
class ComparedQuantity:
    """One quantity on the page; `rows` are those of run_comparison.json, one for each run."""

    title: str
    unit: str
    rows: list[dict[str, Any]]
    picture: Picture


def compare_runs(
    root: pathlib.Path,
    losses: pd.DataFrame,
    experiments: Sequence[Experiment],
    rule: RunComparison,
    final_step: int,
    without: Collection[pathlib.Path] = (),
) -> list[ComparedQuantity]:
    """Compare all runs with the control run, for every quantity that both recorded.

    `losses` is the table of `figures.losses`. Outcome tables in `without` are left out.
    """
    found = run_differences(root, losses, experiments, final_step, without)
    seeds = [int(seed) for seed in losses["seed"].unique()]
    floor = _at_floor(root, seeds, experiments, final_step)
    rows = summarise(found, rule, final_step)
    return [
        ComparedQuantity(
            title=_TITLES[name],
            unit=unit,
            rows=[
                row | {"at_floor": floor if name in _HELD_OUT.values() else False}
                for row in rows
                if row["quantity"] == name
            ],
            picture=draw(
                functools.partial(paint_difference, found[found["quantity"] == name], rows, unit),
                f"compared-{name}",
                _message(name, unit, rows),
                height=2.7,
            ),
        )
        for name, unit in QUANTITIES.items()
        if any(row["quantity"] == name for row in rows)
    ]


def run_differences(
    root: pathlib.Path,
    losses: pd.DataFrame,
    experiments: Sequence[Experiment],
    final_step: int,
    without: Collection[pathlib.Path] = (),
) -> pd.DataFrame:
    """Return the table of `differences` for everything that the runs recorded up to a step.

    The arguments are those of `compare_runs`.
    """
    seeds = [int(seed) for seed in losses["seed"].unique()]
    measured = pd.concat(
        [
            _logged(losses),
            _corpus_losses(root, seeds),
            *(
                _held_out(Workdir(root, seed), experiment, without)
                for seed in seeds
                for experiment in experiments
                if isinstance(experiment, Contamination)
            ),
        ]
    )
    measured = measured[measured["step"] <= final_step]
    keys = ["run", *_KEYS]  # two sets of questions count as one
    return differences(measured.groupby(keys, as_index=False)["value"].mean())


def _logged(losses: pd.DataFrame) -> pd.DataFrame:
    """Turn the table of `figures.losses` into rows of run, seed, step, quantity and value."""
    known = [name for name in QUANTITIES if name in losses]
    keys = ["kind", "seed", "step"]
    long = losses.melt(keys, known, var_name="quantity", value_name="value").dropna()
    return long.rename(columns={"kind": "run"})


def _corpus_losses(root: pathlib.Path, seeds: Sequence[int]) -> pd.DataFrame:
    """Mean loss of the tokens that no experiment inserted; not of a batch without such tokens."""
    records = [
        (run, seed, line["step"], "corpus_loss", line["arms"]["0"][0] / line["arms"]["0"][1])
        for seed in seeds
        for run in (CONTROL, *RUNS)
        for line in read_json_lines(Workdir(root, seed).run(run) / "arms.jsonl", ArmsLine)
        if line["arms"].get("0", [None])[0] is not None
    ]
    return pd.DataFrame(records, columns=_COLUMNS)


def _held_out(
    folder: Workdir, experiment: Contamination, without: Collection[pathlib.Path]
) -> pd.DataFrame:
    """Means over the questions that no run trains on, by run and checkpoint."""
    records = []
    for run in (CONTROL, *RUNS):
        for path in sorted(folder.tables.glob(f"{run}/*/{experiment.name}.parquet")):
            if path in without:
                continue
            table = parquet_io.read_outcomes(path)
            means = table[table["condition"] == "0x"].groupby("outcome")["value"].mean()
            records += [
                (run, folder.seed, int(path.parent.name), _HELD_OUT[outcome], value)
                for outcome, value in means.items()
                if outcome in _HELD_OUT
            ]
    return pd.DataFrame(records, columns=_COLUMNS)


def _at_floor(
    root: pathlib.Path, seeds: Sequence[int], experiments: Sequence[Experiment], step: int
) -> bool:
    """Whether chance lies in the 95% interval of the control's accuracy on held-out questions."""
    above = []
    for folder in (Workdir(root, seed) for seed in seeds):
        for experiment in experiments:
            path = folder.table(CONTROL, step, experiment.name)
            if not isinstance(experiment, Contamination) or not path.exists():
                continue
            table = parquet_io.read_outcomes(path)
            right = table[(table["condition"] == "0x") & (table["outcome"] == ACCURACY)]
            items = parquet_io.read_parquet(
                folder.plan / "items" / f"{experiment.name}.parquet", ["id", "fields"]
            ).to_pandas()
            chance = {
                item: 1 / len(json.loads(fields)["continuations"])
                for item, fields in zip(items["id"], items["fields"], strict=True)
            }
            above += [*(right["value"] - right["item"].map(chance))]
    if len(above) < 2:
        return False
    return bool(abs(np.mean(above)) <= 1.96 * np.std(above, ddof=1) / math.sqrt(len(above)))


def differences(measured: pd.DataFrame) -> pd.DataFrame:
    """Pair each run's values with those of the control run at the same step of the same seed.

    `measured` has the columns run, seed, step, quantity and value. Returns a row for each pair,
    with the columns run, seed, step, quantity, control and difference, in the unit of the quantity.
    """
    control = measured[measured["run"] == CONTROL].rename(columns={"value": "control"})
    pairs = measured[measured["run"].isin(RUNS)].merge(control.drop(columns="run"), on=_KEYS)
    ratio = pairs["quantity"].map(QUANTITIES) == "log ratio"
    positive = (pairs["value"] > 0) & (pairs["control"] > 0)
    pairs = pairs[~ratio | positive]
    logs = np.log(pairs["value"].where(ratio, 1.0)) - np.log(pairs["control"].where(ratio, 1.0))
    plain = pairs["value"] - pairs["control"]
    return pairs.assign(difference=logs.where(ratio, plain)).drop(columns="value")


def summarise(found: pd.DataFrame, rule: RunComparison, steps: int) -> list[dict[str, Any]]:
    """Return the rows of run_comparison.json: one for each quantity and run.

    `found` is the table of `differences`; means are over the steps after the first 1 - `rule.last`
    of `steps`. The band of the reinitialised runs, where they set the margin, has no verdict.
    """
    last = found[found["step"] > (1 - rule.last) * steps]
    means = last.groupby(["quantity", "run", "seed"])[["control", "difference"]].mean()
    rows = []
    for quantity in QUANTITIES:
        margin, source = rule.margins.get(quantity), "config"
        if margin is None and (quantity, REINITIALISED) in means.index.droplevel("seed"):
            band = means.loc[(quantity, REINITIALISED), "difference"]
            margin, source = band_half_width(band.to_numpy()), REINITIALISED
        for run in RUNS:
            if (quantity, run) not in means.index.droplevel("seed"):
                continue
            seeds = means.loc[(quantity, run)]
            judged = None if run == source else margin
            compared = compare_seeds(seeds["difference"].to_numpy(), judged or None)
            rows.append(
                {
                    "quantity": quantity,
                    "unit": QUANTITIES[quantity],
                    "run": run,
                    "control": float(seeds["control"].mean()),
                    **_finite(compared),
                    "margin": margin,
                    "margin_from": source if margin else None,
                    "seeds": {str(s): float(d) for s, d in seeds["difference"].items()},
                }
            )
    return rows


def _finite(compared: Compared) -> dict[str, Any]:
    fields = dataclasses.asdict(compared)
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def paint_difference(
    table: pd.DataFrame, rows: Sequence[Mapping[str, Any]], unit: str, axes: Axes
) -> None:
    """Draw differences in bins of steps: a line for each run, the experiment run also by seed.

    The shaded band is the margin, over the steps that are compared.
    """
    quantity = table["quantity"].iloc[0]
    last = table["step"].max()
    margins = [
        row["margin"] for row in rows if row["quantity"] == quantity and (row["margin"] or 0) > 0
    ]
    if margins:
        axes.axhspan(-margins[0], margins[0], color=GREY, alpha=0.18, lw=0, label="margin")
    axes.axhline(0, color=GREY, lw=0.9)
    few = table["step"].nunique() <= _BINS
    for run in [name for name in reversed(RUNS) if (table["run"] == name).any()]:
        mine = table[table["run"] == run]
        style: dict[str, Any] = {"color": _COLOURS[run], "marker": "o" if few else None, "ms": 3}
        if run == RUN and mine["seed"].nunique() > 1:
            for _, seed in mine.groupby("seed"):
                axes.plot(*binned(seed, "difference", _BINS), **style | {"marker": None}, lw=0.8,
                          alpha=0.4)  # fmt: skip
        axes.plot(*binned(mine, "difference", _BINS), **style, label=run)
    late = table[table["step"] > last / 10]
    reach = max([*margins, late.groupby("run").apply(_reach, include_groups=False).max()])
    axes.set(xlabel="step", ylabel=f"difference ({unit})", title=_TITLES[quantity])
    axes.set_ylim(-1.15 * reach, 1.15 * reach)
    axes.legend()


def _message(quantity: str, unit: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """State the result of a figure, for its alternative text."""
    found = (
        f"{row['run']} {format_number(row['difference'])} {unit}"
        + (f" ({format_interval(row['low'], row['high'])})" if row["low"] is not None else "")
        + (f", {row['verdict']}" if row["verdict"] else "")
        for row in rows
        if row["quantity"] == quantity
    )
    return f"{_TITLES[quantity]}, difference from the control run over training: {'; '.join(found)}"


def _reach(rows: pd.DataFrame) -> float:
    """The largest binned difference, apart from the start of training."""
    values = [
        np.abs(binned(seed, "difference", _BINS)[1]).max() for _, seed in rows.groupby("seed")
    ]
    return max([1e-12, *values])
