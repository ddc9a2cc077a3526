"""Figures of differences from the control run, from the frames of `reporting.frames`.

A gain is the difference of a run from the control run, positive in the direction that the
experiment expects.
"""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from ttoaa.experiments.base import Experiment
from ttoaa.experiments.report_labels import Label
from ttoaa.reporting.svg import BLUE, GREY, INK, ORANGE, STYLE

NOTEBOOK_STYLE = {
    **STYLE,
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "#ffffff"),
    "savefig.transparent": False,
    "figure.dpi": 110,
}
"""For matplotlib.rcParams: the look of the report, on white also where a notebook is dark."""
MOST_ENTRIES = 6
"""Entries of a legend, apart from that of the control run."""
_FEW_PLACES = 6
"""Values of x up to which several lines have bars side by side, as shades would overlap."""
_KINDS = {"run": BLUE, "sham": ORANGE, "placebo": GREY}


def grid(count: int, columns: int = 3, width: float = 3.6, height: float = 3.0) -> list[Axes]:
    """Return `count` axes of a new figure, row by row; sizes of each are in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows),
                                squeeze=False)  # fmt: skip
    for unused in axes.flat[count:]:
        figure.delaxes(unused)
    return list(axes.flat[:count])


def paint_primaries(primaries: pd.DataFrame, experiments: dict[str, Experiment]) -> Figure:
    """Draw the primary outcome of every experiment, next to its sham run and its placebo.

    `primaries` is the frame of that name. Every experiment has a separate scale.
    """
    names = list(primaries["experiment"].unique())
    places = grid(len(names), columns=2, width=4.8, height=1.55)
    for axes, name in zip(places, names, strict=True):
        rows = primaries[primaries["experiment"] == name]
        label, condition = describe(experiments[name], rows.iloc[0])
        axes.axvline(0, color=GREY, lw=0.9)
        for place, row in enumerate(rows.itertuples()):
            value, low, high = (label.scale * v for v in (row.difference, row.low, row.high))
            axes.plot(value, place, "o", color=_KINDS[row.kind], ms=5)
            axes.hlines(place, low, high, color=_KINDS[row.kind])
        axes.set_yticks(range(len(rows)), rows["kind"])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"{name}: {rows['verdict'].iloc[0]}")
        unit = f" ({label.unit_of_differences})" if label.unit_of_differences else ""
        axes.set_xlabel(wrap(f"{label.title}, {condition}{unit}", 52))
    return places[0].figure.get_figure(root=True)


def move_legend(axes: Axes) -> None:
    """Put the legend, if any, to the right of the axes: the place "best" may cover bars."""
    if legend := axes.get_legend():
        legend.set(loc="upper left", bbox_to_anchor=(1, 1))


def show_texts(table: pd.DataFrame) -> Styler:
    """Return a table for a notebook whose sentences begin at the left."""
    left = {"selector": "th, td", "props": "text-align: left"}
    return table.style.hide().format(precision=3, escape="html").set_table_styles([left])


def wrap(text: str, width: int = 38) -> str:
    """Break a title into lines of at most `width` characters; 38 fit a panel of `grid`."""
    return "\n".join(textwrap.wrap(text, width))


def describe(experiment: Experiment, row: Any) -> tuple[Label, str]:
    """Return the label of a row's outcome, and the title of its condition."""
    labels = experiment.labels
    return labels.outcome(row["outcome"]), labels.condition(row["condition"])


def paint_gains(
    rows: pd.DataFrame,
    axes: Axes,
    label: Label,
    *,
    x: str = "step",
    by: str = "condition",
    names: Callable[[str], str] = str,
    ordered: bool = True,
) -> None:
    """Draw gains with their intervals against column `x`, one line for each value of `by`.

    `rows` are estimates, `label` is that of their outcome. Steps and lags are numbers; other values
    of `x`, such as repetitions, have equal distances. Lines that are `ordered` have shades, of
    which every second or third is named if they are many.
    """
    lines = list(rows.groupby(by, sort=False, observed=True))
    numeric = x in ("step", "lag")
    values = sorted(rows[x].unique())
    shades = _shades(len(lines)) if ordered and len(lines) > 1 else None
    every = -(-len(lines) // MOST_ENTRIES)
    shaded = numeric and (len(lines) == 1 or len(values) > _FEW_PLACES)
    apart = 0.0 if shaded else 0.012 * (values[-1] - values[0]) if numeric else 0.08
    axes.axhline(0, color=GREY, lw=0.9, ls="--")
    for number, (name, line) in enumerate(lines):
        line = line.sort_values(x)
        aside = apart * (number - (len(lines) - 1) / 2)
        at = np.array([(v if numeric else values.index(v)) + aside for v in line[x]])
        gain, low, high = (
            label.scale * line[c].to_numpy(float) for c in ("difference", "low", "high")
        )
        colour = shades[number] if shades else f"C{number}"
        named = len(lines) > 1 and number % every == 0
        axes.plot(at, gain, "o-", ms=3.5, color=colour, label=names(str(name)) if named else None)
        if shaded and len(at) > 1:
            axes.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
        else:
            axes.vlines(at, low, high, color=colour)
    if not numeric:
        axes.set_xticks(range(len(values)), [f"{value:,}" for value in values])
        axes.set_xlim(-0.4, len(values) - 0.6)
    elif x == "lag":
        axes.set_xscale("symlog", linthresh=1)
        decades = [0, *(10**k for k in range(len(str(int(values[-1])))))]
        axes.set_xticks(decades, [f"{value:,}" for value in decades])
        axes.set_xlim(left=-0.05)
    else:
        axes.set_xlim(left=0)
    axes.set_xlabel({"step": "training step", "lag": "steps since the update"}.get(x, x))
    axes.set_ylabel(_unit("gain over the control run", label))
    if len(lines) > 1:
        axes.legend()
        move_legend(axes)


def paint_items(gains: pd.DataFrame, means: pd.DataFrame, axes: Axes, label: Label) -> None:
    """Draw the gain of every item by its number of repetitions, and the means with intervals.

    Both frames have the column `repetitions`; `means` are estimates of one step.
    """
    counts = sorted(means["repetitions"].unique())
    rng = np.random.default_rng(0)
    axes.axhline(0, color=GREY, lw=0.9, ls="--")
    for place, count in enumerate(counts):
        values = label.scale * gains.loc[gains["repetitions"] == count, "difference"]
        at = place + rng.uniform(-0.25, 0.25, len(values))
        axes.plot(at, values, ".", ms=4, alpha=0.4, color=BLUE)
    places = [counts.index(count) for count in means["repetitions"]]
    mean, low, high = (
        label.scale * means[c].to_numpy(float) for c in ("difference", "low", "high")
    )
    axes.vlines(places, low, high, color=INK, lw=2)
    axes.plot(places, mean, "D", color=INK, ms=5)
    axes.set_xticks(range(len(counts)), [f"{count:,}" for count in counts])
    axes.set_xlabel("repetitions")
    axes.set_ylabel(_unit("gain over the control run", label))


def _shades(count: int) -> Sequence[Any]:
    return list(matplotlib.colormaps["plasma"](np.linspace(0.05, 0.85, count)))


def _unit(text: str, label: Label) -> str:
    unit = label.unit_of_differences
    return f"{text}\n({unit})" if unit else text
