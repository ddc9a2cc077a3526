"""Replication table: the verdict on the primary outcome of every experiment, by a fixed rule.

Differences are between the run and the control run, and positive as the experiment expects. The
interval that decides is over runs, or over items with fewer than three seeds. A verdict is

- *replicated* if the difference is above `Experiment.smallest_effect` and the interval of the
  experiment's placebo, of the same kind, contains zero;
- *contradicted* if the difference is below zero, or within +-smallest_effect;
- *unresolved* otherwise.

"Above" and "below" are t tests with the error of the interval; of both directions the one with
smaller p counts, at twice that p. "Within" is TOST, if smallest_effect is above 0. Both kinds are
corrected by Holm's method over the primary outcomes of all experiments. Those without an interval
count with p = 1, so the size of the family is fixed before the run.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import scipy  # its submodules load when they are first used

from ttoaa.experiments.base import Experiment
from ttoaa.experiments.report_labels import Label
from ttoaa.reporting.estimates import ALL_SEEDS, FEWEST_RUNS
from ttoaa.reporting.findings import (
    CONTRADICTED,
    ITEMS,
    OPPOSITE,
    REPLICATED,
    RUNS,
    UNRESOLVED,
    Interval,
    describe_finding,
    format_amount,
    format_p,
    primary_title,
)
from ttoaa.reporting.number_formats import format_interval, format_number
from ttoaa.statistics.bootstrap import across_seeds
from ttoaa.statistics.multiplicity import holm
from ttoaa.statistics.power import interval_effect, runs_needed

ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What decides about one primary outcome. Differences are positive as expected."""

    smallest_effect: float
    difference: float
    interval: Interval | None
    """At 95%, over `unit`."""
    unit: str
    freedom: int
    """Degrees of freedom of the interval's error."""
    placebo: float | None
    """The mean of the placebo; None if the experiment declares none."""
    placebo_interval: Interval | None
    label: Label = dataclasses.field(default_factory=lambda: Label("difference"))
    """How differences are shown."""

    @property
    def p_above(self) -> float:
        """One-sided p of a difference that is at most the smallest effect."""
        return self._p(self.difference - self.smallest_effect, side=0)

    @property
    def p_below(self) -> float:
        """One-sided p of a difference that is at least zero."""
        return self._p(-self.difference, side=1)

    @property
    def p_within(self) -> float:
        """The larger p of the two one-sided tests of equivalence to zero."""
        if not self.smallest_effect:
            return 1.0
        below = self._p(self.smallest_effect - self.difference, side=1)
        return max(below, self._p(self.smallest_effect + self.difference, side=0))

    def _p(self, distance: float, side: int) -> float:
        """Return p by the half of the interval that faces the bound; 1 without an interval.

        So p = 0.025 if the interval ends at the bound, even if it is not symmetric.
        """
        reach = abs(self.difference - self.interval[side]) if self.interval else 0.0
        if reach == 0:
            return 1.0
        critical = scipy.stats.t.isf(ALPHA / 2, self.freedom)
        return float(scipy.stats.t.sf(distance / reach * critical, self.freedom))


@dataclasses.dataclass(frozen=True)
class Decision:
    verdict: str
    reason: str
    p: float
    """Of the difference's direction, two-sided and corrected."""
    p_within: float
    """Of equivalence to zero, corrected."""
    detectable: float | None
    """The difference detected with power 0.8 at the strictest level of the correction."""
    seeds_needed: int | None
    """Seeds that decide with power 0.8 at that level if the true difference is the estimate; None:
    decided already, or not known."""


def decide(family: Sequence[Evidence]) -> list[Decision]:
    """Apply the rule to the primary outcomes of a study, corrected together."""
    directions = holm([min(1.0, 2 * min(e.p_above, e.p_below)) for e in family])
    equivalences = holm([e.p_within for e in family])
    level = ALPHA / max(1, len(family))
    decisions = []
    for e, p, p_within in zip(family, directions.tolist(), equivalences.tolist(), strict=True):
        verdict, reason = _judge(e, p, p_within)
        detectable = None if e.interval is None else interval_effect(*e.interval, e.freedom, level)
        seeds = None
        if verdict == UNRESOLVED and p > ALPHA:
            if e.placebo_interval and _placebo_problem(e):
                reason += f"; {_placebo_problem(e)}"
            seeds = _seeds_needed(e, level)
            reason += _prospect(e, detectable, seeds)
        decisions.append(Decision(verdict, reason, p, p_within, detectable, seeds))
    return decisions


def _judge(e: Evidence, p: float, p_within: float) -> tuple[str, str]:
    """Return the verdict and its reason."""
    if e.interval is None:
        return UNRESOLVED, "the difference has no interval"
    if p <= ALPHA and e.p_below < e.p_above:
        return CONTRADICTED, OPPOSITE
    if p <= ALPHA:
        if problem := _placebo_problem(e):
            return UNRESOLVED, f"above the smallest effect, but {problem}"
        return REPLICATED, "above the smallest effect; the placebo's interval contains zero"
    if p_within <= ALPHA:
        return CONTRADICTED, "the difference is within the smallest effect of zero"
    return UNRESOLVED, "neither direction is significant after Holm's correction"


def _placebo_problem(e: Evidence) -> str | None:
    """Return why an effect does not count as replicated, if the placebo is the reason."""
    if e.placebo is None:
        return "no placebo is declared"
    if e.placebo_interval is None:
        return "its placebo has no interval"
    low, high = e.placebo_interval
    return None if low <= 0 <= high else "its placebo differs from zero"


def _seeds_needed(e: Evidence, level: float) -> int | None:
    """Return the seeds that decide if the true difference is the estimate; None if not known."""
    if e.interval is None or e.unit != RUNS:
        return None
    n, smallest, d = e.freedom + 1, e.smallest_effect, e.difference
    critical = scipy.stats.t.isf(ALPHA / 2, e.freedom)
    deviation = (e.interval[1] - e.interval[0]) / 2 / critical * math.sqrt(n)
    distance = max(d - smallest, -d, smallest - abs(d))  # to the bound of the likeliest verdict
    return runs_needed(float(deviation), distance, level) if distance > 0 else None


def _prospect(e: Evidence, detectable: float | None, seeds: int | None) -> str:
    shown = f"; detectable: {format_amount(detectable, e.label)}" if detectable else ""
    if e.unit == ITEMS:
        return f"{shown}; {FEWEST_RUNS} seeds or more give an interval over runs"
    return f"{shown}; about {seeds:,} seeds would decide" if seeds else shown


def gather_evidence(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> Evidence:
    """Return the evidence from the rows of summary.json on the experiment's primary outcome."""
    seeds = [row for row in rows if row["seed"] != ALL_SEEDS]
    whole = next((row for row in rows if row["seed"] == ALL_SEEDS), seeds[0])
    over_runs = len(seeds) >= FEWEST_RUNS
    interval = _interval(whole, "run_ci" if over_runs else "difference_ci")
    placebo_interval = _interval(whole, "placebo_ci")
    if over_runs and whole["placebo"] is not None:
        _, *bounds = across_seeds([row["placebo"] for row in seeds])
        placebo_interval = bounds[0], bounds[1]
    return Evidence(
        smallest_effect=experiment.smallest_effect,
        difference=math.nan if whole["difference"] is None else whole["difference"],
        interval=interval,
        unit=RUNS if over_runs else ITEMS,
        freedom=len(seeds) - 1 if over_runs else whole["groups"] - len(seeds),
        placebo=whole["placebo"],
        placebo_interval=placebo_interval,
        label=primary_title(experiment)[0],
    )


def _interval(row: Mapping[str, Any], prefix: str) -> Interval | None:
    low, high = row[f"{prefix}_low"], row[f"{prefix}_high"]
    return None if low is None or high is None else (low, high)


class Row(TypedDict):
    """The columns of a row of replication.json that the terminal shows."""

    experiment: str
    question: str
    verdict: str
    decided_over: str
    finding: str


class Replication(TypedDict):
    """The contents of replication.json that other code reads."""

    experiments: list[Row]


def replication_table(
    experiments: Sequence[Experiment],
    rows: Sequence[Mapping[str, Any]],
    alone: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Return the contents of replication.json.

    `rows` are those of summary.json, `alone` holds what `alone.compare_alone` found for each
    experiment.
    """
    mine = [
        [row for row in rows if row["primary"] and row["experiment"] == e.name] for e in experiments
    ]
    family = [gather_evidence(e, own) for e, own in zip(experiments, mine, strict=True)]
    each = zip(experiments, mine, family, decide(family), strict=True)
    return {
        "alpha": ALPHA,
        "family": len(family),
        "experiments": [
            _row(experiment, own[-1], evidence, decision, alone.get(experiment.name, ()))
            for experiment, own, evidence, decision in each
        ],
    }


def _row(
    experiment: Experiment,
    whole: Mapping[str, Any],
    evidence: Evidence,
    decision: Decision,
    alone: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return one row; `whole` is the row of summary.json of all seeds."""
    row = {
        "experiment": experiment.name,
        "prior": dataclasses.asdict(experiment.prior) if experiment.prior else None,
        "primary": experiment.primary,
        "expected_sign": experiment.expected_sign,
        "smallest_effect": experiment.smallest_effect,
        "runs": whole["runs"],
        "difference": whole["difference"],
        "over_items": _interval(whole, "difference_ci"),
        "over_runs": _interval(whole, "run_ci"),
        "decided_over": evidence.unit,
        "sham_difference": whole["sham_difference"],
        "placebo": {
            "condition": experiment.placebo or None,
            "difference": evidence.placebo,
            "interval": evidence.placebo_interval,
        },
        **dataclasses.asdict(decision),
        "alone": list(alone),
    }
    return row | {
        "question": experiment.labels.question,
        "title": primary_title(experiment)[1],
        "unit": evidence.label.unit_of_differences,
        "finding": describe_finding(experiment, row),
    }


def markdown_table(table: Mapping[str, Any]) -> str:
    """Return the replication table as Markdown, with one row for each experiment."""
    heads = (
        *("experiment", "prior finding", "original effect", "primary", "difference"),
        *("over runs", "over items", "sham", "corrected p", "verdict"),
    )
    lines = [" | ".join(heads), "|".join("---" for _ in heads)]
    for row in table["experiments"]:
        prior = row["prior"] or dict.fromkeys(("work", "finding", "effect", "source"))
        width = np.ptp(row["over_runs"] or row["over_items"] or (0.0, 0.0))
        cells = (
            row["experiment"],
            f"{prior['work']}: {prior['finding']}" if row["prior"] else "–",
            f"{prior['effect']} ({prior['source']})" if row["prior"] else "–",
            f"{row['primary']}, {'rises' if row['expected_sign'] > 0 else 'falls'} by more than "
            f"{row['smallest_effect']:g}",
            format_number(row["difference"], width),
            format_interval(*(row["over_runs"] or (None, None))),
            format_interval(*(row["over_items"] or (None, None))),
            format_number(row["sham_difference"], width),
            format_p(row["p"]),
            f"**{row['verdict']}**: {row['reason']}",
        )
        lines.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    return "".join(f"| {line} |\n" for line in lines)
