"""Rows that items overwrite as a whole, at places that they dictate: nothing else is left there."""

from collections.abc import Iterable

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.planning.blocks import blocks
from ttoaa.planning.items import RESERVE, TOKENS, Item, Items
from ttoaa.planning.spreads import fixed_addresses


def whole_rows(
    name: str, items: Iterable[Item | Items], geometry: Geometry, vocab: int
) -> np.ndarray:
    """int64[n] positions, of the items of experiment `name`.

    Raises ValueError, in one line that names the item, for what cannot be trained on.
    """
    found = [np.empty(0, np.int64)]
    for block in blocks(name, items, geometry.length, vocab):
        whole = (block.length == geometry.length) & np.isin(block.kind, (TOKENS, RESERVE))
        for first, last, placement in block.runs:
            run = slice(first, last)
            where = f"{name}: item {block.ids[first].as_py()!r}"
            repetitions, lengths = block.repetitions[run], block.length[run]
            at = fixed_addresses(where, placement, repetitions, lengths, geometry)
            if at is not None:
                found.append(at[np.repeat(whole[run], repetitions)])
    return np.concatenate(found) // geometry.length
