"""The finding of an experiment in words: what was found, and how sure it is.

The page and the terminal show the same words: the estimate of the primary outcome with its interval
and p-value, the reason of a verdict that is not obvious from these, the placebo, and the sham run.
"""

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttoaa.experiments.base import Experiment
from ttoaa.experiments.report_labels import Label
from ttoaa.reporting.number_formats import format_interval, format_number

REPLICATED, CONTRADICTED, UNRESOLVED = "replicated", "contradicted", "unresolved"
VERDICTS = (REPLICATED, CONTRADICTED, UNRESOLVED)
RUNS, ITEMS = "runs", "items"
"""What the interval that decides is over."""
OPPOSITE = "the difference has the opposite sign"
"""The reason of one of the two ways to be contradicted."""
NO_RUN_NOISE = (
    "Intervals over items do not include run-to-run noise; three seeds or more (--seeds=0,1,2) "
    "give intervals over runs."
)

Interval = tuple[float, float]


def describe_finding(experiment: Experiment, row: Mapping[str, Any]) -> str:
    """Return the finding; `row` is that of replication.json."""
    label, title = primary_title(experiment)
    difference, interval = row["difference"], row[f"over_{row['decided_over']}"]
    if difference is None:
        return f"{title} was not measured."
    way = 1 if difference >= 0 else -1
    direction = "higher" if way * row["expected_sign"] > 0 else "lower"
    shown = format_amount(abs(difference), label, _width(interval))
    against = row["reason"] == OPPOSITE
    expected = {REPLICATED: ", as expected", CONTRADICTED: ", against expectation" * against}
    parts = [
        f"{title} is {shown} {direction} than {label.against}{expected.get(row['verdict'], '')} "
        f"({_certainty(row, label, _ordered(interval, way))})"
    ]
    if row["verdict"] == UNRESOLVED or (row["verdict"] == CONTRADICTED and not against):
        first, *more = row["reason"].split("; ")
        parts.append(first[:1].upper() + first[1:] + (f" ({', '.join(more)})" if more else ""))
    placebo = _placebo(experiment, row["placebo"])
    if placebo.lower() not in row["reason"]:
        parts.append(placebo)
    if (sham := row["sham_difference"]) is not None:
        shown = format_amount(way * sham, label, _width(interval), unit=False)
        parts.append(f"Sham run: {shown}")
    return ". ".join(parts) + "."


def terminal_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the findings of replication.json, folded to the width of the terminal."""
    width = min(shutil.get_terminal_size().columns, 100)
    for row in rows:
        yield f"{row['experiment']}: {row['verdict']}"
        for text in filter(None, (row["question"], row["finding"])):
            yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")
    if any(row["decided_over"] == ITEMS for row in rows):
        yield from textwrap.wrap(NO_RUN_NOISE, width)


def primary_title(experiment: Experiment) -> tuple[Label, str]:
    """Return the label of the primary outcome, and its title with the condition."""
    outcome, _, condition = experiment.primary.partition("/")
    label = experiment.labels.outcome(outcome)
    title = label.title[:1].upper() + label.title[1:]
    return label, f"{title} ({experiment.labels.condition(condition)})"


def format_amount(value: float, label: Label, width: float | None = None, unit: bool = True) -> str:
    """Format a difference of an outcome, to the digits that an interval of `width` supports."""
    number = format_number(value * label.scale, width * label.scale if width else None)
    return f"{number} {label.unit_of_differences if unit else ''}".rstrip()


def _bounds(interval: Interval | None, label: Label) -> str:
    if interval is None:
        return "no interval"
    return format_interval(interval[0] * label.scale, interval[1] * label.scale)


def _ordered(interval: Interval | None, way: int) -> Interval | None:
    """Turn an interval around if the difference is negative, so that it is of the amount."""
    if interval is None or way > 0:
        return interval
    return -interval[1], -interval[0]


def _width(interval: Interval | None) -> float | None:
    return None if interval is None else interval[1] - interval[0]


def _certainty(row: Mapping[str, Any], label: Label, bounds: Interval | None) -> str:
    runs = "one run" if row["runs"] == 1 else f"{row['runs']} runs"
    if bounds is None:
        return f"{runs}, too few items for an interval"
    over = runs if row["decided_over"] == RUNS else f"items of {runs}"
    return f"95% interval over {over}: {_bounds(bounds, label)}; corrected p {format_p(row['p'])}"


def _placebo(experiment: Experiment, placebo: Mapping[str, Any]) -> str:
    if placebo["condition"] is None:
        return "No placebo is declared"
    if placebo["difference"] is None:
        return "The placebo was not measured"
    label = experiment.labels.outcome(experiment.placebo.partition("/")[0])
    interval, stated = placebo["interval"], label.unit == primary_title(experiment)[0].unit
    shown = format_amount(placebo["difference"], label, _width(interval), unit=not stated)
    return f"Placebo, expected to be 0: {shown} ({_bounds(interval, label)})"


def format_p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
