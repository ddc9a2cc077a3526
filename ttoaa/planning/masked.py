"""Edits in rows that OLMo's repetition filter takes out of the loss: who has them, and how many."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order, mix64
from ttoaa.data.repetition import RepetitionFilter
from ttoaa.planning.composed import composed, in_parts, rows_of
from ttoaa.planning.edits import Edits
from ttoaa.planning.items import SLOT

_ALL = 1 << 26  # tokens of edited rows up to which every row is looked at: some seconds
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_NONE = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Masked:
    """What the filter takes of a plan's edits; slots, which nothing fills yet, are left out."""

    edits: dict[str, int]
    """By arm, for arms that have any: edits in masked rows, among the rows looked at."""
    items: dict[str, str]
    """One item of each such arm."""
    looked_at: int
    rows: int
    """Rows with edits; all were looked at, or a keyed random sample."""

    def lines(self, when: str) -> list[str]:
        """What a person is told, a line for each arm."""
        among = f"all {self.rows:,}" if self.looked_at == self.rows else f"{self.looked_at:,}"
        sample = "" if self.looked_at == self.rows else f" (a sample of {self.rows:,})"
        return [
            f"{arm}: {count:,} edits, such as one of item {self.items[arm]!r}, lie in rows that "
            f"the repetition filter ({when}) masks and are not trained on, among {among} rows "
            f"with edits{sample}"
            for arm, count in sorted(self.edits.items())
        ]


def masked_edits(
    plan: Edits, corpus: Corpus, order: Order, rule: RepetitionFilter, most: int = _ALL
) -> Masked:
    """Looks at all rows with edits, or at a sample of `most` tokens if they have more."""
    filled = plan.columns["kind"] != SLOT
    rows = rows_of(plan, filled)
    chosen = rows
    if len(rows) * plan.geometry.length > most and rule.edits != "refused":
        ranked = np.argsort(mix64(rows.astype(np.uint64)), kind="stable")
        chosen = np.sort(rows[ranked[: max(1, most // plan.geometry.length)]])
    edited = rule.when == "after_edits"

    def look(positions: np.ndarray) -> np.ndarray:
        return positions[rule.repeats(composed(plan, corpus, order, positions, edited))]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        parts = pool.map(look, in_parts(chosen, plan.geometry.length))
        masked = np.concatenate([_NONE, *parts])
    first, last = (np.searchsorted(plan.columns["position"], masked, side) for side in _SIDES)
    edits = np.concatenate([_NONE, *map(np.arange, first.tolist(), last.tolist())])
    edits = edits[filled[edits]]
    arms, first, count = np.unique(
        plan.columns["arm"][edits], return_index=True, return_counts=True
    )
    names = [plan.arms[arm - 1]["name"] for arm in arms.tolist()]
    items = [item for _, item in plan.names(plan.columns["item"][edits[first]])]
    return Masked(
        edits=dict(zip(names, count.tolist(), strict=True)),
        items=dict(zip(names, items, strict=True)),
        looked_at=len(chosen),
        rows=len(rows),
    )
