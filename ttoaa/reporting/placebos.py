"""Placebos of a study: how many of their intervals contain zero, and which do not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ttoaa.experiments.base import Experiment
from ttoaa.reporting.estimates import ALL_SEEDS

COVERAGE = 0.95


@dataclasses.dataclass(frozen=True)
class PlaceboCount:
    """Placebos of every experiment and seed, by their 95% intervals over items."""

    containing: int
    """Number of intervals that contain zero."""
    excluding: tuple[str, ...]
    """The placebos whose intervals exclude zero, with their seed."""
    without_interval: tuple[str, ...]
    undeclared: tuple[str, ...]
    """Experiments without a placebo."""

    @property
    def intervals(self) -> int:
        return self.containing + len(self.excluding)

    @property
    def expected(self) -> float:
        """The expected number of intervals that contain zero."""
        return COVERAGE * self.intervals


def count_placebos(
    rows: Sequence[Mapping[str, Any]], experiments: Sequence[Experiment]
) -> PlaceboCount:
    """Count the placebos in the rows of summary.json, seed by seed."""
    declared = {each.name: _title(each) for each in experiments}
    contains: dict[str, bool | None] = {}
    for row in rows:
        if not row["primary"] or row["seed"] == ALL_SEEDS or not declared[row["experiment"]]:
            continue
        low, high = row["placebo_ci_low"], row["placebo_ci_high"]
        name = f"{row['experiment']}: {declared[row['experiment']]}, seed {row['seed']}"
        contains[name] = None if low is None or high is None else low <= 0 <= high
    return PlaceboCount(
        containing=sum(found is True for found in contains.values()),
        excluding=tuple(name for name, found in contains.items() if found is False),
        without_interval=tuple(name for name, found in contains.items() if found is None),
        undeclared=tuple(name for name, placebo in declared.items() if not placebo),
    )


def _title(experiment: Experiment) -> str:
    """Return the readable name of an experiment's placebo; empty without one."""
    outcome, _, condition = experiment.placebo.partition("/")
    if not outcome:
        return ""
    labels = experiment.labels
    return f"{labels.outcome(outcome).title} ({labels.condition(condition)})"
