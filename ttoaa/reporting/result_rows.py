"""Rows of summary.json as the page shows them: readable titles, units, and formatted numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ttoaa.experiments.base import Experiment
from ttoaa.experiments.report_labels import Label
from ttoaa.reporting.estimates import ALL_SEEDS
from ttoaa.reporting.number_formats import format_interval, format_number
from ttoaa.statistics.bootstrap import FEWEST


@dataclasses.dataclass(frozen=True)
class Span:
    """One line of a chart: an estimate with its interval, as shares of the chart's width."""

    name: str
    text: str
    at: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A primary outcome, its sham and its placebo on one scale."""

    spans: tuple[Span, ...]
    ticks: tuple[tuple[float, str], ...]
    """Places as shares of the width, with their labels."""
    zero: float


def present_row(row: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """Return the texts of one row of summary.json.

    Differences are in the unit of the outcome's differences, and positive as expected. `headline`
    is the interval over runs if there is one, otherwise that over items.
    """
    label = experiment.labels.outcome(row["outcome"])
    few = row["groups"] < FEWEST * row["runs"]
    over_runs = row["run_ci_low"] is not None
    headline = _pair(row, "run_ci" if over_runs else "difference_ci")
    placebo = experiment.labels.outcome(experiment.placebo.partition("/")[0])

    def number(name: str, interval: str = "difference_ci", scale: float = label.scale) -> str:
        low, high = _pair(row, interval)
        width = None if low is None or high is None else (high - low) * scale
        value = row[name]
        return format_number(None if value is None else value * scale, width)

    def bounds(interval: str, scale: float = label.scale) -> str:
        return _interval(*_pair(row, interval), scale, few)

    groups = row["groups"]
    return {
        "experiment": experiment.name,
        "title": label.title[:1].upper() + label.title[1:],
        "condition": experiment.labels.condition(row["condition"]),
        "unit": label.unit,
        "unit_of_differences": label.unit_of_differences,
        "help": label.help,
        "seed": row["seed"],
        "primary": row["primary"],
        "n": f"{row['n']:,}" + (f" ({groups:,} groups)" if groups != row["n"] else ""),
        "value": number("value", "ci"),
        "value_interval": bounds("ci"),
        "control": number("control_value", "ci"),
        "difference": number("difference", "run_ci" if over_runs else "difference_ci"),
        "headline": _interval(*headline, label.scale, few),
        "over_items": bounds("difference_ci"),
        "over_runs": bounds("run_ci") if over_runs else "–",
        "detectable": number("detectable"),
        "sham": number("sham_difference"),
        "placebo": number("placebo", "placebo_ci", placebo.scale),
        "placebo_interval": bounds("placebo_ci", placebo.scale),
        "placebo_unit": placebo.unit_of_differences,
    }


def _pair(row: Mapping[str, Any], prefix: str) -> tuple[float | None, float | None]:
    return row[f"{prefix}_low"], row[f"{prefix}_high"]


def _interval(low: float | None, high: float | None, scale: float, few: bool = False) -> str:
    if low is None or high is None:
        return format_interval(None, None, few)
    return format_interval(low * scale, high * scale)


def chart_of(finding: Mapping[str, Any], experiment: Experiment) -> Chart | None:
    """Return the chart of a row of replication.json; None without a difference.

    The placebo is left out if it has another unit.
    """
    label = experiment.labels.outcome(experiment.primary.partition("/")[0])
    placebo = experiment.labels.outcome(experiment.placebo.partition("/")[0])
    lines: list[tuple[str, float | None, Sequence[float] | None]] = [
        ("difference", finding["difference"], finding[f"over_{finding['decided_over']}"]),
        ("sham", finding["sham_difference"], None),
    ]
    if placebo.unit == label.unit:
        lines.append(("placebo", finding["placebo"]["difference"], finding["placebo"]["interval"]))
    return None if finding["difference"] is None else make_chart(lines, label)


def make_chart(
    lines: Sequence[tuple[str, float | None, Sequence[float] | None]], label: Label
) -> Chart | None:
    """Return a chart of (name, difference, interval); None if all differences are None."""
    drawn = [
        (name, value * label.scale, [bound * label.scale for bound in interval or ()])
        for name, value, interval in lines
        if value is not None and np.isfinite([value, *(interval or ())]).all()
    ]
    if not drawn:
        return None
    reach = [0.0, *(value for _, value, _ in drawn), *(b for _, _, i in drawn for b in i)]
    locator = MaxNLocator(nbins=4, min_n_ticks=2)
    ticks = [float(tick) for tick in locator.tick_values(min(reach), max(reach))]
    first, span = ticks[0], (ticks[-1] - ticks[0]) or 1.0

    def place(value: float) -> float:
        return (value - first) / span

    unit = label.unit_of_differences
    return Chart(
        spans=tuple(
            Span(
                name,
                f"{name}: {format_number(value, i[1] - i[0] if i else None)} {unit}".rstrip()
                + (f" ({format_interval(i[0], i[1])})" if i else ""),
                place(value),
                *([place(b) for b in i] if i else (None, None)),
            )
            for name, value, i in drawn
        ),
        ticks=tuple((place(tick), f"{tick:g}".replace("-", "−")) for tick in ticks),
        zero=place(0.0),
    )


def select_rows(
    rows: Sequence[Mapping[str, Any]], experiment: Experiment
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the rows of an experiment that are not its primary one, by the title of the outcome.

    Of several seeds they are those over all. Points of curves are left out: they are drawn.
    """
    several = any(row["seed"] == ALL_SEEDS for row in rows)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (row["seed"] == ALL_SEEDS) != several or row["primary"]:
            continue
        if not experiment.labels.on_curve(row["outcome"], row["condition"]):
            shown = present_row(row, experiment)
            found.setdefault(f"{shown['title']}\n{shown['unit']}", []).append(shown)
    return [(key.partition("\n")[0], group) for key, group in found.items()]
