"""Looks for removed texts in what a run trains on: the corpus in its order with the plan over it.

Rows without edits were scanned as windows of the corpus, and what holds a removed text is replaced;
so only rows with texts of an item can hold one that was made where the item meets the corpus.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order
from ttoaa.planning.edits import Edits
from ttoaa.planning.items import TOKENS
from ttoaa.planning.overlay import Overlay
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
    if edited and len(positions):
        arms = np.zeros(tokens.shape, np.uint16)
        Overlay(plan, corpus)(0, {"position": positions, "tokens": tokens, "arms": arms})
    return tokens


def in_parts(positions: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Some rows at a time, that fit in memory."""
    size = max(1, _TOKENS // length)
    for first in range(0, len(positions), size):
        yield positions[first : first + size]


def seams(plan: Edits, corpus: Corpus, order: Order, removals: Removals) -> dict[Edit, str]:
    """The edits that make a removed text where they meet the corpus or each other, and which."""

    def look(positions: np.ndarray) -> dict[Edit, str]:
        return dict(_seams_in(plan, corpus, order, removals, positions))

    rows = np.unique(plan.columns["position"][plan.columns["kind"] == TOKENS])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found: dict[Edit, str] = {}
        for part in pool.map(look, in_parts(rows, plan.geometry.length)):
            found |= part
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


def _named(plan: Edits, edit: int) -> Edit:
    ((experiment, item),) = plan.names(plan.columns["item"][edit : edit + 1])
    return experiment, item, int(plan.columns["repetition"][edit])
