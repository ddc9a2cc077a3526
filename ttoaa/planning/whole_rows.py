"""Rows that items overwrite as a whole, at places that they dictate: nothing else is left there."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.planning.items import RESERVE, TOKENS, Item, Items
from ttoaa.planning.placement import Explicit, WholeBatch
from ttoaa.planning.spreads import fixed_addresses


def whole_rows(name: str, items: Iterable[Item | Items], geometry: Geometry) -> np.ndarray:
    """int64[n] positions, of the items of experiment `name`."""
    found = [np.empty(0, np.int64)]
    for each in items:
        if isinstance(each.placement, Explicit | WholeBatch):
            first, lengths = _lengths(each, geometry.length)
            repetitions = np.broadcast_to(np.asarray(each.repetitions, np.int64), len(lengths))
            where = f"{name}: item {first!r}"
            at = fixed_addresses(where, each.placement, repetitions, lengths, geometry)
            if at is not None and each.kind() in (TOKENS, RESERVE):
                found.append(at[np.repeat(lengths, repetitions) == geometry.length])
    return np.concatenate(found) // geometry.length


def _lengths(items: Item | Items, row: int) -> tuple[str, np.ndarray]:
    """(id of the first, int64[n] tokens of each)."""
    given: tuple[Any, ...]
    if isinstance(items, Item):
        first, n = items.id, 1
        text = None if items.tokens is None else len(items.tokens)
        given = (text, items.slot, items.mark)
    else:
        first, n = str(items.ids[0]) if len(items.ids) else "", len(items.ids)
        given = (items.lengths, items.slots, items.marks)
    length = next((each for each in given if each is not None), row)
    return first, np.broadcast_to(np.asarray(length, np.int64), n)
