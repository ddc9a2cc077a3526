"""Checks on composed rows: the corpus in training order with the plan's edits written over it.

`find_seams` finds removed texts that an edit creates where it joins the corpus or another edit;
rows without edits were scanned as corpus windows before. `masked_edits` counts the edits in rows
that OLMo's repetition filter takes out of the loss.
"""

import dataclasses
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
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

_TOKENS = 1 << 22  # tokens composed at a time

Edit = tuple[str, str, int]
"""(experiment, item id, repetition)."""


def compose_rows(
    plan: Edits,
    corpus: Corpus,
    order: Order,
    positions: np.ndarray,
    experiments: Collection[str] | None = None,
) -> np.ndarray:
    """Return the rows of these positions (int64[n] ascending) as they are trained on, int32[n, L].

    With the edits of `experiments`, by default of all; with none, as in the corpus.
    """
    tokens = corpus.windows("train", order.windows(positions), plan.geometry.length)
    if experiments is None or experiments:
        Overlay(plan, corpus, experiments).rows(
            positions, tokens, np.zeros(tokens.shape, np.uint16)
        )
    return tokens


def edited_rows(plan: Edits, chosen: np.ndarray) -> np.ndarray:
    """Return the positions of the chosen edits (bool[edits]), int64[n] ascending, each once."""
    positions = plan.columns["position"][chosen]
    return positions[np.flatnonzero(np.diff(positions, prepend=-1))]


def _split(positions: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Yield some rows at a time, so that their tokens fit in memory."""
    size = max(1, _TOKENS // length)
    for first in range(0, len(positions), size):
        yield positions[first : first + size]


def find_seams(
    plan: Edits,
    corpus: Corpus,
    order: Order,
    removals: Removals,
    slot_texts: Sequence[SlotTexts] = (),
) -> dict[Edit, str]:
    """Return the edits that create a removed text at their border, with the text's title.

    Each slot is checked with each of its possible texts, and with its neighbouring slots empty.
    """

    def find(positions: np.ndarray) -> dict[Edit, str]:
        return dict(_seams_in(plan, corpus, order, removals, positions))

    rows = edited_rows(plan, plan.columns["kind"] == TOKENS)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found: dict[Edit, str] = {}
        for part in pool.map(find, _split(rows, plan.geometry.length)):
            found |= part
    for each in slot_texts:
        found |= dict(_seams_of_slots(plan, corpus, order, removals, each))
    return found


def _seams_in(
    plan: Edits, corpus: Corpus, order: Order, removals: Removals, positions: np.ndarray
) -> Iterator[tuple[Edit, str]]:
    length, patterns = plan.geometry.length, removals.patterns
    where, text = patterns.find(compose_rows(plan, corpus, order, positions).ravel())
    inside = where % length + patterns.lengths[text] <= length
    for start, number in zip(where[inside].tolist(), text[inside].tolist(), strict=True):
        position, first = int(positions[start // length]), start % length
        edits = range(*plan.of_row(position).indices(len(plan.columns["item"])))
        last = first + int(patterns.lengths[number])
        for edit in edits:
            offset, kind = int(plan.columns["offset"][edit]), int(plan.columns["kind"][edit])
            size = int(plan.columns["length"][edit])
            if kind == TOKENS and offset < last and offset + size > first:
                yield _name_edit(plan, edit), removals.title(number)
                break
        else:
            raise RuntimeError(
                f"row {position} contains {removals.title(number)} at token {first}, which no edit "
                "created: the scan of the corpus missed it"
            )


def _seams_of_slots(
    plan: Edits, corpus: Corpus, order: Order, removals: Removals, slot_texts: SlotTexts
) -> Iterator[tuple[Edit, str]]:
    """Check each text in each slot, with the part of the row that a removed text can reach."""
    length, patterns = plan.geometry.length, removals.patterns
    edits, more = plan.find(slot_texts.slots, slot_texts.experiment), patterns.longest - 1
    for part in _split(edits, length):
        position, row = np.unique(plan.columns["position"][part], return_inverse=True)
        rows = np.pad(
            compose_rows(plan, corpus, order, position), ((0, 0), (more, more)), constant_values=-1
        )
        offset = plan.columns["offset"][part, None].astype(np.int64)
        for text in slot_texts.texts:
            width = 2 * more + len(text)
            around = rows[row[:, None], offset + np.arange(width)]
            around[:, more : more + len(text)] = text
            where, number = patterns.find(around.ravel())
            inside = np.flatnonzero(where % width + patterns.lengths[number] <= width)
            for i in inside.tolist():
                yield _name_edit(plan, int(part[where[i] // width])), removals.title(int(number[i]))


def _name_edit(plan: Edits, edit: int) -> Edit:
    ((experiment, item),) = plan.names(plan.columns["item"][edit : edit + 1])
    return experiment, item, int(plan.columns["repetition"][edit])


_MOST = 1 << 26  # tokens of edited rows checked, which takes some seconds; beyond, a sample
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_NONE = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True)
class MaskedEdits:
    """The edits of a plan in rows that the repetition filter masks, slots excluded."""

    edits: dict[str, int]
    """Edits in masked rows, by arm; arms without any are left out."""
    items: dict[str, str]
    """An example item of each such arm."""
    checked: int
    """Rows checked: all rows with edits, or a keyed random sample."""
    rows: int
    """All rows with edits."""
    untrained: tuple[str, ...] = ()
    """Arms of which every checked edit lies in a masked row."""

    def lines(self, when: str) -> list[str]:
        """Return a warning for each arm."""
        among = f"all {self.rows:,}" if self.checked == self.rows else f"{self.checked:,}"
        sample = "" if self.checked == self.rows else f" (a sample of {self.rows:,})"
        return [
            f"{arm}: {count:,} edits, such as one of item {self.items[arm]!r}, lie in rows that "
            f"the repetition filter ({when}) masks and are not trained on, among {among} rows "
            f"with edits{sample}"
            for arm, count in sorted(self.edits.items())
        ]


def masked_edits(
    plan: Edits, corpus: Corpus, order: Order, rule: RepetitionFilter, most: int = _MOST
) -> MaskedEdits:
    """Check all rows with edits, or a sample of `most` tokens if they have more."""
    filled = plan.columns["kind"] != SLOT
    rows = edited_rows(plan, filled)
    chosen = rows
    if len(rows) * plan.geometry.length > most and rule.edits != "refused":
        ranked = np.argsort(mix64(rows.astype(np.uint64)), kind="stable")
        chosen = np.sort(rows[ranked[: max(1, most // plan.geometry.length)]])
    judged = None if rule.when == "after_edits" else ()

    def find_masked(positions: np.ndarray) -> np.ndarray:
        return positions[rule.repeats(compose_rows(plan, corpus, order, positions, judged))]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        parts = pool.map(find_masked, _split(chosen, plan.geometry.length))
        masked = np.concatenate([_NONE, *parts])
    edits = _edits_of_rows(plan, masked, filled)
    arms, first, count = np.unique(
        plan.columns["arm"][edits], return_index=True, return_counts=True
    )
    names = [plan.arms[arm - 1]["name"] for arm in arms.tolist()]
    every = plan.columns["arm"][_edits_of_rows(plan, chosen, filled)]
    whole = np.bincount(every, minlength=len(plan.arms) + 1)[arms] == count
    items = [item for _, item in plan.names(plan.columns["item"][edits[first]])]
    return MaskedEdits(
        edits=dict(zip(names, count.tolist(), strict=True)),
        items=dict(zip(names, items, strict=True)),
        checked=len(chosen),
        rows=len(rows),
        untrained=tuple(itertools.compress(names, whole.tolist())),
    )


def _edits_of_rows(plan: Edits, positions: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return the edits in the rows of these positions, int64[n], without slots."""
    first, last = (np.searchsorted(plan.columns["position"], positions, side) for side in _SIDES)
    edits = np.concatenate([_NONE, *map(np.arange, first.tolist(), last.tolist())])
    return edits[filled[edits]]
