"""Training curves of the report: the loss of both runs, and the online loss of every arm."""

import functools
import pathlib
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ttoaa.experiments.base import Experiment
from ttoaa.json_io import read_json_lines
from ttoaa.planning.plan import Plan
from ttoaa.reporting.number_formats import format_number
from ttoaa.reporting.svg import BLUE, GREY, Picture, draw
from ttoaa.training.run_records import ArmsLine, MetricsLine
from ttoaa.workdir import RUNS, Workdir

WEIGHT_GROUPS = ("embedding", "attention", "mlp", "norms", "head")
_BINS = 120
_ARM_BINS = 24
_COLOURS = {"control": GREY, "run": BLUE}


def losses(root: pathlib.Path, seeds: Sequence[int]) -> pd.DataFrame:
    """Rows of metrics.jsonl of all runs of all seeds, with the columns that the report needs."""
    rows = [
        row | {"kind": kind, "seed": seed}
        for seed in seeds
        for kind in Workdir(root, seed).runs()
        for row in read_json_lines(Workdir(root, seed).run(kind) / "metrics.jsonl", MetricsLine)
    ]
    return pd.DataFrame(rows).reindex(
        columns=[
            *("kind", "seed", "step", "loss", "validation_loss", "tokens_per_second", "skipped"),
            *("grad_norm", *(f"norm/{name}" for name in WEIGHT_GROUPS)),
        ]
    )


def paint_losses(table: pd.DataFrame, axes: Axes) -> None:
    """Training loss in bins of steps, and validation loss as points; a line for each seed."""
    for kind in RUNS:
        for seed, rows in table[table["kind"] == kind].groupby("seed"):
            first = seed == table["seed"].min()
            steps, loss = binned(rows, "loss")
            axes.plot(steps, loss, color=_COLOURS[kind], alpha=0.9 if first else 0.4, lw=1.4,
                      label=f"{kind}, training" if first else None)  # fmt: skip
            held = rows.dropna(subset=["validation_loss"])
            axes.plot(held["step"], held["validation_loss"], color=_COLOURS[kind], ls="none",
                      marker="o", ms=4, mfc="none", alpha=1 if first else 0.4,
                      label=f"{kind}, validation" if first else None)  # fmt: skip
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.legend()


def binned(rows: pd.DataFrame, column: str, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray]:
    """Means of `column` over at most `bins` equal spans of steps, and the mean steps."""
    rows = rows.dropna(subset=[column])
    if rows.empty:
        return np.empty(0), np.empty(0)
    span = max(1, -(-int(rows["step"].max()) // bins))
    means = rows.groupby((rows["step"] - 1) // span)[["step", column]].mean()
    return means["step"].to_numpy(), means[column].to_numpy()


def arm_losses(root: pathlib.Path, seeds: Sequence[int]) -> pd.DataFrame:
    """Mean loss of every arm in bins of steps, all seeds pooled.

    Columns experiment, condition (both empty for the corpus), step (the bin's mean) and loss in
    nats per token, weighted by tokens.
    """
    records = []
    for folder in (Workdir(root, seed) for seed in seeds):
        arms = {arm["id"]: (arm["experiment"], arm["condition"]) for arm in Plan(folder.plan).arms}
        for row in read_json_lines(folder.run("run") / "arms.jsonl", ArmsLine):
            records += [
                (int(arm), *arms.get(int(arm), ("", "")), row["step"], loss_sum, tokens)
                for arm, (loss_sum, tokens) in row["arms"].items()
                if tokens
            ]
    keys = ["experiment", "condition"]
    table = pd.DataFrame(records, columns=["arm", *keys, "step", "loss_sum", "tokens"])
    if table.empty:
        return table.assign(loss=[])
    span = max(1, -(-int(table["step"].max()) // _ARM_BINS))
    table["bin"] = (table["step"] - 1) // span
    sums = table.groupby([*keys, "bin"], as_index=False).agg(
        arm=("arm", "min"),
        step=("step", "mean"),
        loss_sum=("loss_sum", "sum"),
        tokens=("tokens", "sum"),
    )
    return sums.assign(loss=sums["loss_sum"] / sums["tokens"]).sort_values(["arm", "step"])


def paint_arms(
    table: pd.DataFrame, experiment: str, title: Callable[[str], str], axes: Axes
) -> None:
    """Plot the online loss of an experiment's arms, and that of the corpus.

    `title` gives the readable name of a condition.
    """
    corpus = table[table["experiment"] == ""]
    axes.plot(corpus["step"], corpus["loss"], color=GREY, lw=1.2, label="corpus")
    arms = list(table[table["experiment"] == experiment].groupby("condition", sort=False))
    colours = matplotlib.colormaps["plasma"](np.linspace(0.3, 0.85, max(len(arms), 2)))
    for (condition, rows), colour in zip(arms, colours, strict=False):
        name = title(str(condition)).replace("$", r"\$")  # not mathematics
        axes.plot(rows["step"], rows["loss"], color=colour, marker=".", ms=5, label=name)
    axes.set(xlabel="step", ylabel="loss before the update (nats per token)")
    axes.legend()


def draw_losses(losses: pd.DataFrame) -> list[Picture]:
    """Draw the losses of the run and the control run, if there are any."""
    if losses.empty:
        return []
    ends = losses.dropna(subset=["validation_loss"]).groupby(["kind", "seed"]).last()
    means = ends["validation_loss"].groupby("kind").mean()
    shown = [kind for kind in RUNS if kind in means]
    values = ", ".join(f"{kind} {format_number(means[kind], 0.01)}" for kind in shown)
    seeds = losses["seed"].nunique()
    mean = f" (mean of {seeds} seeds)" if seeds > 1 else ""
    caption = "Training and validation loss of the run and the control run."
    paint = functools.partial(paint_losses, losses)
    alt = f"{caption} Validation loss at the end{mean}: {values}."
    return [draw(paint, "losses", alt, caption)]


def draw_arms(arms: pd.DataFrame, experiment: Experiment) -> Picture | None:
    """Draw the loss of the experiment's own tokens; None if it inserts none."""
    mine = arms[arms["experiment"] == experiment.name]
    if mine.empty:
        return None
    last = mine.groupby("condition", sort=False)["loss"].last()
    title = experiment.labels.condition
    ends = ", ".join(f"{title(str(name))} {format_number(x)}" for name, x in last.items())
    paint = functools.partial(paint_arms, arms, experiment.name, title)
    caption = "Loss of the experiment’s own tokens when they are trained on, by condition."
    return draw(paint, f"arms-{experiment.name}", f"{caption} At the end: {ends}.", caption)
