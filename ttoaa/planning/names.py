"""Which item an edit is of, and which edits an item has, without reading the item tables.

In the plan's folder: index/ids.npy (UTF-8, joined) with id_starts.npy, first.npy (each item's first
edit, were edits counted item by item), rows.npy (the row of each such edit in the columns), and
keys.npy (hashes of all names, ascending) with ranked.npy (whose they are).
"""

import hashlib
import pathlib
from collections.abc import Mapping

import numpy as np

from ttoaa.planning.growing import mapped


def item_keys(seed: int, experiment: str, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """uint64[n], of each item: its random stream, and where it is looked up.

    `ids` is uint8[total] of UTF-8, one after the other, `sizes` int64[n] bytes of each.
    """
    before, text = f"place\x1f{seed}\x1f{experiment}\x1f".encode(), ids.tobytes()
    ends, blake2b = np.cumsum(sizes).tolist(), hashlib.blake2b
    each = zip([0, *ends], ends, strict=False)
    digests = [blake2b(before + text[a:b], digest_size=8).digest() for a, b in each]
    return np.frombuffer(b"".join(digests), "<u8")


def write_sorted_keys(folder: pathlib.Path, keys: np.ndarray, counts: Mapping[str, int]) -> None:
    """Raises ValueError for an id that an experiment (of so many items) has twice."""
    ranked = np.argsort(keys, kind="stable")
    ordered = keys[ranked]
    np.save(folder / "index" / "keys.npy", ordered)
    np.save(folder / "index" / "ranked.npy", ranked)
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]):
        pair = Names(folder, 0, counts)(ranked[place : place + 2])
        if pair[0] == pair[1]:
            raise ValueError(
                f"{pair[0][0]}: item {pair[0][1]!r} occurs twice: ids must be unique in an "
                "experiment"
            )


class Names:
    """Maps the index of a plan's folder; `counts` are the items of each experiment, in order."""

    def __init__(self, folder: pathlib.Path, seed: int, counts: Mapping[str, int]) -> None:
        self._folder, self._seed = folder / "index", seed
        self._maps: dict[str, np.ndarray] = {}
        self._experiments = list(counts)
        self._last = np.cumsum(list(counts.values()), dtype=np.int64)

    def __call__(self, items: np.ndarray) -> list[tuple[str, str]]:
        """(experiment, id) of int64[n] items."""
        items, ids, starts = np.asarray(items), self._map("ids"), self._map("id_starts")
        own = np.searchsorted(self._last, items, "right").tolist()
        begins, ends = starts[items].tolist(), starts[items + 1].tolist()
        return [
            (self._experiments[e], ids[a:b].tobytes().decode())
            for e, a, b in zip(own, begins, ends, strict=True)
        ]

    def items(self, name: str, experiment: str | None = None) -> list[int]:
        """The items of that id, in that experiment or in any."""
        keys, ranked = self._map("keys"), self._map("ranked")
        text, found = np.frombuffer(name.encode(), np.uint8), []
        for each in self._experiments if experiment is None else [experiment]:
            (key,) = item_keys(self._seed, each, text, np.array([len(text)]))
            first, last = np.searchsorted(keys, key), np.searchsorted(keys, key, "right")
            same = ranked[first:last]
            found += [i for i, n in zip(same.tolist(), self(same), strict=True) if n[1] == name]
        return found

    def edits(self, item: int) -> np.ndarray:
        """int64[repetitions]: the rows of an item's edits in the columns, copy after copy."""
        first = self._map("first")
        return self._map("rows")[first[item] : first[item + 1]]

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = mapped(self._folder / f"{name}.npy")
        return self._maps[name]
