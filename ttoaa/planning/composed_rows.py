"""Looks for removed texts in what a run trains on: the corpus in its order with the plan over it.

Rows without edits were scanned as windows of the corpus, and what holds a removed text is replaced;
so only rows with texts of an item can hold one that was made where the item meets the corpus.

Edits in rows that OLMo's repetition filter takes out of the loss: who has them, and how many.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order, mix64
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.injection import Overlay
from ttoaa.planning.items import SLOT, TOKENS
from ttoaa.planning.plan import Edits
from ttoaa.planning.removal import Removals

_TOKENS = 1 << 22  # composed at a time

Edit = tuple[str, str, int]
"""(experiment, item's id, repetition)."""


def composed(
    plan: Edits, corpus: Corpus, order: Order, positions: np.ndarray, edited: bool = True
) -> np.ndarray:
    """int32[n, L]: the rows of these positions (int64[n] ascending) as they are trained on.

    Not `edited`: as the corpus has them.
    """
    tokens = corpus.windows("train", order.windows(positions), plan.geometry.length)
    if edited:
        Overlay(plan, corpus).rows(positions, tokens, np.zeros(tokens.shape, np.uint16))
    return tokens


def rows_of(plan: Edits, chosen: np.ndarray) -> np.ndarray:
    """int64[n] ascending: the positions that have one of the chosen edits (bool[edits])."""
    positions = plan.columns["position"][chosen]
    return positions[np.flatnonzero(np.diff(positions, prepend=-1))]


def in_parts(positions: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Some rows at a time, that fit in memory."""
    size = max(1, _TOKENS // length)
    for first in range(0, len(positions), size):
        yield positions[first : first + size]


def seams(
    plan: Edits,
    corpus: Corpus,
    order: Order,
    removals: Removals,
    fillings: Sequence[SlotTexts] = (),
) -> dict[Edit, str]:
    """The edits that make a removed text where they meet the corpus or each other, and which.

    A slot counts as filled with any of its texts, and slots beside it as empty.
    """

    def look(positions: np.ndarray) -> dict[Edit, str]:
        return dict(_seams_in(plan, corpus, order, removals, positions))

    rows = rows_of(plan, plan.columns["kind"] == TOKENS)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found: dict[Edit, str] = {}
        for part in pool.map(look, in_parts(rows, plan.geometry.length)):
            found |= part
    for filling in fillings:
        found |= dict(_seams_of_slots(plan, corpus, order, removals, filling))
    return found


def _seams_in(
    plan: Edits, corpus: Corpus, order: Order, removals: Removals, positions: np.ndarray
) -> Iterator[tuple[Edit, str]]:
    length, patterns = plan.geometry.length, removals.patterns
    where, text = patterns.find(composed(plan, corpus, order, positions).ravel())
    inside = where % length + patterns.lengths[text] <= length
    for start, number in zip(where[inside].tolist(), text[inside].tolist(), strict=True):
        position, first = int(positions[start // length]), start % length
        edits = range(*plan.of_row(position).indices(len(plan.columns["item"])))
        last = first + int(patterns.lengths[number])
        for edit in edits:
            offset, kind = int(plan.columns["offset"][edit]), int(plan.columns["kind"][edit])
            size = int(plan.columns["length"][edit])
            if kind == TOKENS and offset < last and offset + size > first:
                yield _named(plan, edit), removals.title(number)
                break
        else:
            raise RuntimeError(
                f"row {position} holds {removals.title(number)} at token {first}, and no edit made "
                "it: the scan of the corpus missed it"
            )


def _seams_of_slots(
    plan: Edits, corpus: Corpus, order: Order, removals: Removals, filling: SlotTexts
) -> Iterator[tuple[Edit, str]]:
    """Each text in each slot, with as much of the row around it as a removed text can reach."""
    length, patterns = plan.geometry.length, removals.patterns
    edits, more = plan.find(filling.slots, filling.experiment), patterns.longest - 1
    for part in in_parts(edits, length):
        position, row = np.unique(plan.columns["position"][part], return_inverse=True)
        rows = np.pad(
            composed(plan, corpus, order, position), ((0, 0), (more, more)), constant_values=-1
        )
        offset = plan.columns["offset"][part, None].astype(np.int64)
        for text in filling.texts:
            width = 2 * more + len(text)
            around = rows[row[:, None], offset + np.arange(width)]
            around[:, more : more + len(text)] = text
            where, number = patterns.find(around.ravel())
            inside = np.flatnonzero(where % width + patterns.lengths[number] <= width)
            for i in inside.tolist():
                yield _named(plan, int(part[where[i] // width])), removals.title(int(number[i]))


def _named(plan: Edits, edit: int) -> Edit:
    ((experiment, item),) = plan.names(plan.columns["item"][edit : edit + 1])
    return experiment, item, int(plan.columns["repetition"][edit])


_ALL = 1 << 26  # tokens of edited rows up to which every row is looked at: some seconds
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_NONE = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True)
class MaskedEdits:
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
) -> MaskedEdits:
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
    return MaskedEdits(
        edits=dict(zip(names, count.tolist(), strict=True)),
        items=dict(zip(names, items, strict=True)),
        looked_at=len(chosen),
        rows=len(rows),
    )
