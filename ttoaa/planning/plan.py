"""Which item an edit is of, and which edits an item has, without reading the item tables.

In the plan's folder: index/ids.npy (UTF-8, joined) with id_starts.npy, first.npy (each item's first
edit, were edits counted item by item), rows.npy (the row of each such edit in the columns), and
keys.npy (hashes of all names, ascending) with ranked.npy (whose they are).

The edits of a run as memory-mapped columns, and how they are looked up (C4).

A plan in a study's folder: immutable, content-hashed, checked when it is opened (C4).
"""

import bisect
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ttoaa import parquet_io
from ttoaa.data.corpus import file_sha256
from ttoaa.data.geometry import Geometry
from ttoaa.planning.column_files import mapped
from ttoaa.workdir import read_json


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


COLUMNS = {
    "position": np.int64,  # step * B + row, ascending
    "offset": np.int32,  # first token of the row that is overwritten
    "length": np.int32,
    "source": np.int64,  # index into tokens.npy, or the reserve window, or -1
    "kind": np.uint8,  # items.TOKENS, RESERVE, SLOT or MARK
    "arm": np.uint16,
    "item": np.int64,  # row in the concatenated item tables, experiments in the plan's order
    "repetition": np.int32,
}
_ROWS = 64  # of the coarse index: an entry, and then a search among some few edits


@dataclasses.dataclass(frozen=True)
class Edits:
    """Sorted by (position, offset). Pickles by path, so that data workers map it anew."""

    folder: pathlib.Path

    @property
    def contents(self) -> dict[str, Any]:
        """What the hash covers beside columns and tokens."""
        raise NotImplementedError

    @property
    def geometry(self) -> Geometry:
        return Geometry(**self.contents["geometry"])

    @property
    def arms(self) -> list[dict[str, Any]]:
        """id (from 1; 0 is the corpus), name, experiment, condition, edits, tokens."""
        return self.contents["arms"]

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of `COLUMNS`, a row for each edit, memory-mapped."""
        return {name: mapped(self.folder / "columns" / f"{name}.npy") for name in COLUMNS}

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int32[total]: the tokens of every item once, however often it is repeated; mapped."""
        return mapped(self.folder / "tokens.npy")

    @functools.cached_property
    def _index(self) -> tuple[int, memoryview, memoryview]:
        """(sequences, the first edit at or after every `_ROWS`-th position, all positions).

        Views, since Python reads a number of one three times faster than of an array.
        """
        sequences, position = self.geometry.sequences, self.columns["position"]
        coarse = np.searchsorted(position, np.arange(0, sequences + 2 * _ROWS, _ROWS))
        return sequences, coarse.data, position.data

    def _first(self, position: int) -> int:
        """The first edit at or after a position."""
        sequences, coarse, positions = self._index
        block = min(max(position, 0), sequences) // _ROWS
        return bisect.bisect_left(positions, position, coarse[block], coarse[block + 1])

    def between(self, first: int, last: int) -> slice:
        """The edits of positions first <= p < last."""
        return slice(self._first(first), self._first(last))

    def of_row(self, position: int) -> slice:
        """The edits of one row."""
        return self.between(position, position + 1)

    @functools.cached_property
    def _names(self) -> Names:
        counts = zip(self.contents["experiments"], self.contents["items"], strict=True)
        return Names(self.folder, self.contents["seed"], dict(counts))

    def names(self, items: np.ndarray) -> list[tuple[str, str]]:
        """(experiment, id) of int64[n] items, as the column `item` counts them."""
        return self._names(items)

    def find(self, item: str, experiment: str | None = None) -> np.ndarray:
        """int64[n]: the edits of the items of this id, of one experiment or of all."""
        found = [self._names.edits(i) for i in self._names.items(item, experiment)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def items(self, experiment: str) -> pd.DataFrame:
        """The item table of one experiment, its `fields` expanded to columns."""
        return _expanded(
            parquet_io.read_parquet(self.folder / "items" / f"{experiment}.parquet").to_pandas()
        )

    def __getstate__(self) -> dict[str, Any]:
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _expanded(items: pd.DataFrame) -> pd.DataFrame:
    """A stored item table with its `fields` as columns."""
    fields = pd.DataFrame.from_records([json.loads(text) for text in items["fields"]])
    return pd.concat([items.drop(columns="fields"), fields], axis=1)


def content_hash(contents: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """The plan's hash: of what is said of it, and the sha256 of each column and of the tokens."""
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode())
    for name in (*COLUMNS, "tokens"):
        digest.update(f"{name}:{digests[name]}\n".encode())
    return digest.hexdigest()


__all__ = ["COLUMNS", "Plan"]


@dataclasses.dataclass(frozen=True)
class Plan(Edits):
    """The edits of a run as a folder holds them."""

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Plan":
        """Opens and checks a plan; a missing or damaged one is a one-line error."""
        plan = cls(pathlib.Path(folder))
        if not (plan.folder / "plan.json").exists():
            raise ValueError(f"{folder} holds no plan: run python -m ttoaa.plan first")
        try:
            whole = plan._is_whole()
        except (OSError, EOFError, KeyError, TypeError, ValueError):
            whole = False  # a file is missing, cut short or no longer what it was
        if not whole:
            raise ValueError(f"the plan in {folder} is damaged: move it away and plan again")
        return plan

    def _is_whole(self) -> bool:
        arrays = {**self.columns, "tokens": self.tokens}
        tables = self.meta["tables"]
        with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets go of the lock
            digests = pool.map(_sha256, arrays.values())
            found = pool.map(file_sha256, [self.folder / name for name in tables])
            named = dict(zip(arrays, digests, strict=True))
            same = all(a == b for a, b in zip(found, tables.values(), strict=True))
        typed = all(self.columns[name].dtype == dtype for name, dtype in COLUMNS.items())
        return same and typed and content_hash(self.contents, named) == self.hash

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        return read_json(self.folder / "plan.json")

    @property
    def hash(self) -> str:
        return self.meta["hash"]

    @property
    def contents(self) -> dict[str, Any]:
        return self.meta["contents"]


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
