"""The size of an experiment in a burst: a short continuation of training from a checkpoint."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ttoaa.data.geometry import Geometry
from ttoaa.planning.plan import Edits


class Planned(NamedTuple):
    """The edits of one condition in the plan of the full run."""

    edits: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class BurstSize:
    """How much of an experiment a burst has room for (see `Experiment.burst`)."""

    tokens: int
    """The tokens that the experiment should insert, about."""
    geometry: Geometry
    """Of the burst."""
    planned: Mapping[str, Planned]
    """What the full run inserts, by condition; a controller's slots count as full."""

    def items(self, conditions: str | Iterable[str], number: int) -> int:
        """Return how many of the `number` items of these conditions fit: 1 at least, at most all.

        An item keeps all of its repetitions, and items count as equally long.
        """
        names = [conditions] if isinstance(conditions, str) else conditions
        whole = sum(self.planned[name].tokens for name in names)
        return max(1, min(number, round(self.tokens * number / whole)))


def planned_sizes(plan: Edits, experiment: str) -> dict[str, Planned]:
    """Return what an experiment inserts in a plan, by condition; held-out ones are left out."""
    return {
        arm["condition"]: Planned(arm["edits"], arm["tokens"])
        for arm in plan.arms
        if arm["experiment"] == experiment and arm["edits"]
    }
