"""The plan: all edits of a run as memory-mapped columns, content-hashed and immutable (C4).

The plan's folder holds columns/<name>.npy (one row for each edit, see `COLUMNS`), tokens.npy,
items/<experiment>.parquet, plan.json, and index/, which maps items to edits and back without
reading the item tables: ids.npy (UTF-8, concatenated) with id_starts.npy; first.npy, the number
of each item's first edit, where edits are numbered item by item; rows.npy, the row of each such
edit in the columns; and keys.npy, the sorted hashes of all names, with ranked.npy, their items.
"""

import bisect
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import pandas as pd

from ttoaa import parquet_io
from ttoaa.checksums import read_record
from ttoaa.data.geometry import Geometry
from ttoaa.planning.column_files import map_npy
from ttoaa.workdir import file_sha256


def item_keys(seed: int, experiment: str, ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the key of each item, uint64[n]: it seeds the item's random stream and is its hash.

    `ids` is uint8[total] of UTF-8, concatenated, `sizes` int64[n] bytes of each.
    """
    before, text = f"place\x1f{seed}\x1f{experiment}\x1f".encode(), ids.tobytes()
    ends, blake2b = np.cumsum(sizes).tolist(), hashlib.blake2b
    each = zip([0, *ends], ends, strict=False)
    digests = [blake2b(before + text[a:b], digest_size=8).digest() for a, b in each]
    return np.frombuffer(b"".join(digests), "<u8")


def write_sorted_keys(folder: pathlib.Path, keys: np.ndarray, counts: Mapping[str, int]) -> None:
    """Write the index of item keys; raises ValueError for an id that an experiment has twice."""
    ranked = np.argsort(keys, kind="stable")
    ordered = keys[ranked]
    np.save(folder / "index" / "keys.npy", ordered)
    np.save(folder / "index" / "ranked.npy", ranked)
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]):
        pair = ItemNames(folder, 0, counts)(ranked[place : place + 2])
        if pair[0] == pair[1]:
            raise ValueError(
                f"{pair[0][0]}: item {pair[0][1]!r} occurs twice: ids must be unique in an "
                "experiment"
            )


class ItemNames:
    """Looks up items by name and names by item; `counts` are the items of each experiment."""

    def __init__(self, folder: pathlib.Path, seed: int, counts: Mapping[str, int]) -> None:
        self._folder, self._seed = folder / "index", seed
        self._maps: dict[str, np.ndarray] = {}
        self._experiments = list(counts)
        self._last = np.cumsum(list(counts.values()), dtype=np.int64)

    def __call__(self, items: np.ndarray) -> list[tuple[str, str]]:
        """Return (experiment, id) of int64[n] items."""
        items, ids, starts = np.asarray(items), self._map("ids"), self._map("id_starts")
        own = np.searchsorted(self._last, items, "right").tolist()
        begins, ends = starts[items].tolist(), starts[items + 1].tolist()
        return [
            (self._experiments[e], ids[a:b].tobytes().decode())
            for e, a, b in zip(own, begins, ends, strict=True)
        ]

    def items(self, name: str, experiment: str | None = None) -> list[int]:
        """Return the items of this id, in one experiment or in all."""
        keys, ranked = self._map("keys"), self._map("ranked")
        text, found = np.frombuffer(name.encode(), np.uint8), []
        for each in self._experiments if experiment is None else [experiment]:
            (key,) = item_keys(self._seed, each, text, np.array([len(text)]))
            first, last = np.searchsorted(keys, key), np.searchsorted(keys, key, "right")
            same = ranked[first:last]
            found += [i for i, n in zip(same.tolist(), self(same), strict=True) if n[1] == name]
        return found

    def edits(self, item: int) -> np.ndarray:
        """Return the rows of an item's edits in the columns, int64[repetitions], copy by copy."""
        first = self._map("first")
        return self._map("rows")[first[item] : first[item + 1]]

    def edits_of(self, experiment: str) -> np.ndarray:
        """Return the rows of the edits of all items of an experiment, item by item, int64[n]."""
        number = self._experiments.index(experiment)
        last, first = self._last[number], self._map("first")
        begin = self._last[number - 1] if number else 0
        return self._map("rows")[first[begin] : first[last]]

    def _map(self, name: str) -> np.ndarray:
        if name not in self._maps:
            self._maps[name] = map_npy(self._folder / f"{name}.npy")
        return self._maps[name]


COLUMNS = {
    "position": np.int64,  # step * B + row, ascending
    "offset": np.int32,  # first token of the row that is overwritten
    "length": np.int32,
    "source": np.int64,  # index into tokens.npy, or the reserve window, or -1
    "kind": np.uint8,  # items.TOKENS, RESERVE, SLOT, MARK or NOISE
    "arm": np.uint16,
    "item": np.int64,  # row in the concatenated item tables, experiments in the plan's order
    "repetition": np.int32,
}
_ROWS = 64  # positions between entries of the coarse index; a search among few edits follows


@dataclasses.dataclass(frozen=True)
class Edits:
    """The edits of a run, sorted by (position, offset).

    Pickling stores the path, so that data workers map the files themselves.
    """

    folder: pathlib.Path

    @property
    def contents(self) -> dict[str, Any]:
        """What the hash covers in addition to columns and tokens: seed, geometry, arms, …"""
        raise NotImplementedError

    @property
    def geometry(self) -> Geometry:
        return Geometry(**self.contents["geometry"])

    @property
    def arms(self) -> list[dict[str, Any]]:
        """Per arm: id (from 1; 0 is the corpus), name, experiment, condition, edits, tokens, and
        noise (the fields of `Noise`) if its rows have some."""
        return self.contents["arms"]

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of `COLUMNS`, one row for each edit, memory-mapped."""
        return {name: map_npy(self.folder / "columns" / f"{name}.npy") for name in COLUMNS}

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int32[total]: the tokens of every item once, whatever its repetitions; memory-mapped."""
        return map_npy(self.folder / "tokens.npy")

    @functools.cached_property
    def _index(self) -> tuple[int, memoryview, memoryview]:
        """(sequences, the first edit at or after every `_ROWS`-th position, all positions).

        Memory views, from which Python reads a number three times faster than from an array.
        """
        sequences, position = self.geometry.sequences, self.columns["position"]
        coarse = np.searchsorted(position, np.arange(0, sequences + 2 * _ROWS, _ROWS))
        return sequences, coarse.data, position.data

    def _first(self, position: int) -> int:
        """Return the first edit at or after a position."""
        sequences, coarse, positions = self._index
        block = min(max(position, 0), sequences) // _ROWS
        return bisect.bisect_left(positions, position, coarse[block], coarse[block + 1])

    def between(self, first: int, last: int) -> slice:
        """Return the edits of positions first <= p < last."""
        return slice(self._first(first), self._first(last))

    def of_row(self, position: int) -> slice:
        """Return the edits of one row."""
        return self.between(position, position + 1)

    @functools.cached_property
    def _names(self) -> ItemNames:
        counts = zip(self.contents["experiments"], self.contents["items"], strict=True)
        return ItemNames(self.folder, self.contents["seed"], dict(counts))

    def names(self, items: np.ndarray) -> list[tuple[str, str]]:
        """Return (experiment, id) of int64[n] items, numbered as in the column `item`."""
        return self._names(items)

    def find(self, item: str, experiment: str | None = None) -> np.ndarray:
        """Return the edits of the items of this id, int64[n], in one experiment or in all."""
        found = [self._names.edits(i) for i in self._names.items(item, experiment)]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def copies(self, experiment: str) -> pd.DataFrame:
        """Return where the copies of the items are (see `experiments.scorer.Scorer.copies`)."""
        rows = self._names.edits_of(experiment)
        ids = [item for _, item in self.names(self.columns["item"][rows])]
        names = ("repetition", "position", "offset")
        table = pd.DataFrame({"id": ids} | {name: self.columns[name][rows] for name in names})
        return table.assign(step=table["position"] // self.geometry.batch)

    def items(self, experiment: str) -> pd.DataFrame:
        """Read the item table of one experiment, with its `fields` expanded to columns."""
        path = self.folder / "items" / f"{experiment}.parquet"
        items = parquet_io.read_parquet(path).to_pandas()
        fields = pd.DataFrame.from_records([json.loads(text) for text in items["fields"]])
        return pd.concat([items.drop(columns="fields"), fields], axis=1)

    def __getstate__(self) -> dict[str, Any]:
        fields = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in fields if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def content_hash(contents: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """Hash a plan: its contents, and the sha256 of each column and of the tokens."""
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode())
    for name in (*COLUMNS, "tokens"):
        digest.update(f"{name}:{digests[name]}\n".encode())
    return digest.hexdigest()


class PlanMeta(TypedDict):
    """plan.json; the hash is that of the contents, the columns and the tokens."""

    hash: str
    contents: dict[str, Any]
    tables: NotRequired[dict[str, str]]
    """The sha256 of the other files, by path."""
    arrays: NotRequired[dict[str, str]]
    """The sha256 of the columns and of the tokens."""
    of_kinds: NotRequired[dict[str, dict[str, list[int]]]]
    """[edits, tokens] by arm's name and kind of edit, such as "slots"."""
    experiments: NotRequired[dict[str, Any]]
    redrawn: NotRequired[int]
    warnings: NotRequired[list[str]]


def _fix(folder: pathlib.Path) -> str:
    return f"restore it from a copy, or move {folder} away and plan again"


@dataclasses.dataclass(frozen=True)
class Plan(Edits):
    """A finished plan in a study's folder."""

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Plan":
        """Open a plan and verify its hashes; raises ValueError if it is missing or damaged."""
        plan = cls(pathlib.Path(folder))
        path = plan.folder / "plan.json"
        if not path.exists():
            if plan.folder.is_dir() and any(plan.folder.iterdir()):
                raise ValueError(f"{path} is missing: {_fix(plan.folder)}")
            raise ValueError(f"{folder} holds no plan: run python -m ttoaa.plan first")
        if damaged := plan._find_damaged():
            raise ValueError(f"{plan.folder / damaged} is damaged: {_fix(plan.folder)}")
        return plan

    def _find_damaged(self) -> str | None:
        """Return the name of a file that is missing or does not match its checksum, if any."""
        arrays = {**{n: f"columns/{n}.npy" for n in COLUMNS}, "tokens": "tokens.npy"}
        tables, known = self.meta.get("tables", {}), self.meta.get("arrays", {})
        with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing releases the lock
            found = dict(zip(arrays, pool.map(self._hash_array, arrays.values()), strict=True))
            files = dict(zip(tables, pool.map(self._hash_file, tables), strict=True))
        hashed = {name: digest for name, digest in found.items() if digest is not None}
        for name, path in arrays.items():
            if name not in hashed or known.get(name, hashed[name]) != hashed[name]:
                return path
        if content_hash(self.contents, hashed) != self.hash:
            return "plan.json"  # or an array, of a plan of an earlier version
        return next((name for name in tables if files[name] != tables[name]), None)

    def _hash_array(self, path: str) -> str | None:
        """Return the sha256 of the values of a column or of the tokens; None for other files."""
        try:
            array = map_npy(self.folder / path)
        except (OSError, EOFError, ValueError):
            return None
        typed = array.dtype == COLUMNS.get(pathlib.Path(path).stem, array.dtype)
        return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() if typed else None

    def _hash_file(self, name: str) -> str | None:
        path = self.folder / name
        return file_sha256(path) if path.is_file() else None

    @functools.cached_property
    def meta(self) -> PlanMeta:
        """The contents of plan.json; raises ValueError if it is damaged."""
        return read_record(self.folder / "plan.json", PlanMeta, _fix(self.folder))

    @property
    def hash(self) -> str:
        return self.meta["hash"]

    @property
    def contents(self) -> dict[str, Any]:
        return self.meta["contents"]
