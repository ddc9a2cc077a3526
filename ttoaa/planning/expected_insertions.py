"""What an experiment is expected to insert, before there is a corpus."""

import time
import types
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.planning.items import MARK, NOISE, SLOT, Item, Items, blocks

_SECONDS = 3.0
_NO_FACTORS: Mapping[str, float] = types.MappingProxyType({})


class Insertions(NamedTuple):
    """Copies of an experiment's items in a run, and their tokens."""

    copies: int | None
    """None: not known."""
    tokens: int
    """Tokens of inserted texts and windows, and those of rows with noise."""
    slots: int = 0
    """Tokens of slots, which a controller fills or leaves to the corpus: an upper bound."""
    complete: bool = True
    """False: there are more, but counting them takes too long."""
    noise: bool = False
    """Whether some of the rows have noise, whose training steps need more memory."""


def count_insertions(
    name: str,
    items: Iterable[Item | Items],
    geometry: Geometry,
    vocab: int,
    factors: Mapping[str, float] = _NO_FACTORS,
) -> Insertions:
    """Count the insertions of experiment `name` from its items, for a few seconds at most.

    `factors` has, by condition, how many items of the experiment each of these stands for.
    """
    until = time.process_time() + _SECONDS
    copies = tokens = slots = 0.0
    noise = complete = False
    for number, block in enumerate(blocks(name, items, geometry.length, vocab)):
        if number and time.process_time() > until:
            break
        factor = np.array([factors.get(condition, 1.0) for condition in block.conditions])
        edits = block.repetitions * factor[block.code]
        edits = np.where(block.kind == MARK, 0, edits)  # a mark keeps the text of the corpus
        length = np.where(block.kind == NOISE, geometry.length, block.length)
        slot = block.kind == SLOT
        noise = noise or bool((block.kind == NOISE).any())
        copies += edits[~slot].sum()
        tokens += (edits * length)[~slot].sum()
        slots += (edits * length)[slot].sum()
    else:
        complete = True
    return Insertions(round(copies), round(tokens), round(slots), complete, noise)
