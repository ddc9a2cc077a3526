"""Write the items of a plan to disk and index them for the planner.

Goes into the plan's folder: items/<experiment>.parquet, tokens.npy and index/ (see `plan.py`). What
placing needs, a few bytes for each item, is in memory-mapped files: memory does not grow with the
number of items.
"""

import dataclasses
import hashlib
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa

from ttoaa.data.geometry import Geometry
from ttoaa.planning.column_files import NpyWriter, TableWriter, split_text
from ttoaa.planning.items import RESERVE, TOKENS, Block, Intervention, blocks
from ttoaa.planning.placement import (
    RandomPlacement,
    RegionArrays,
    RegionTable,
    fixed_addresses,
)
from ttoaa.planning.plan import item_keys, write_sorted_keys

_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "condition": pa.string(),
        "repetitions": pa.int64(),
        "tokens": pa.list_(pa.int32()),
        "window": pa.int64(),
        "text": pa.string(),
        "fields": pa.string(),
    }
)
_COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "key": (np.uint64, ()),
    "length": (np.int32, ()),
    "source": (np.int64, ()),
    "kind": (np.uint8, ()),
    "arm": (np.uint16, ()),
    "region": (np.int32, ()),  # number of its placement's regions, -1 for a fixed placement
    "place": (np.int64, ()),  # index of its first copy in `fixed`, -1 for a random placement
}


@dataclasses.dataclass(frozen=True)
class PlannedItems:
    """The n items of a plan in its order, all arrays mapped from disk."""

    columns: dict[str, np.ndarray]
    """The columns of `_COLUMNS`, [n, …]."""
    first: np.ndarray
    """int64[n + 1]: the number of each item's first edit, then the number of all edits."""
    fixed: np.ndarray
    """int64[f]: the addresses that fixed placements dictate."""
    regions: RegionArrays
    counts: dict[str, int]
    """The number of items of each experiment."""
    arms: list[dict[str, Any]]
    tokens: str
    """sha256 of all tokens."""


class ItemTableWriter:
    """Writes the items of one experiment after the other, in the order of their names."""

    def __init__(
        self,
        folder: pathlib.Path,
        geometry: Geometry,
        vocab: int,
        seed: int,
        tables: TableWriter,
    ) -> None:
        self._folder, self._geometry, self._vocab, self._seed = folder, geometry, vocab, seed
        self._tables = tables
        for name in ("items", "index", "scratch"):
            (folder / name).mkdir()
        scratch = folder / "scratch"
        self._columns = {n: NpyWriter(scratch / f"{n}.npy", *t) for n, t in _COLUMNS.items()}
        self._fixed = NpyWriter(scratch / "fixed.npy", np.int64)
        self._first = NpyWriter(folder / "index" / "first.npy", np.int64)
        self._ids = NpyWriter(folder / "index" / "ids.npy", np.uint8)
        self._id_starts = NpyWriter(folder / "index" / "id_starts.npy", np.int64)
        self._sha256 = NpyWriter(folder / "index" / "sha256.npy", np.uint8, (32,))
        self._tokens = NpyWriter(folder / "tokens.npy", np.int32)
        self._regions = RegionTable(geometry)
        self._arms: dict[tuple[str, str], dict[str, Any]] = {}
        self._counts: dict[str, int] = {}
        self._edits = 0

    def add(self, name: str, intervention: Intervention) -> None:
        """Write all items of an experiment; raises ValueError for one that cannot be trained on."""
        before = self._first.count
        own = np.unique(np.asarray(intervention.windows, np.int64))
        path = self._folder / "items" / f"{name}.parquet"
        given = blocks(name, intervention.items, self._geometry.length, self._vocab)
        with self._tables.writer(path, _SCHEMA, ["condition", "fields"]) as write:
            for block in given:
                self._add_block(name, block, own)
                write(_table_rows(block))
        self._counts[name] = self._first.count - before

    def _add_block(self, name: str, block: Block, own: np.ndarray) -> None:
        foreign = (block.kind == RESERVE) & ~np.isin(block.window, own)
        if foreign.any():
            item = int(np.flatnonzero(foreign)[0])
            raise ValueError(
                f"{name}: item {block.ids[item].as_py()!r} uses reserve window "
                f"{block.window[item]}, which is not assigned to {name}: request enough in "
                "reserve_windows and take them from world.windows"
            )
        region, place = self._place(name, block)
        ours = block.kind == TOKENS
        lengths = np.where(ours, block.length, 0)
        source = np.where(ours, self._tokens.count + np.cumsum(lengths) - lengths, block.window)
        ids, sizes = split_text(block.ids)
        columns = {
            "key": item_keys(self._seed, name, ids, sizes),
            "length": block.length,
            "source": source,
            "kind": block.kind,
            "arm": self._arm_ids(name, block),
            "region": region,
            "place": place,
        }
        for column, values in columns.items():
            self._columns[column].append(values)
        self._tokens.append(block.tokens)
        self._sha256.append(_hash_texts(block.tokens, lengths))
        edits = self._edits + np.cumsum(block.repetitions)
        self._first.append(edits - block.repetitions)
        self._edits = int(edits[-1]) if len(edits) else self._edits
        self._id_starts.append(self._ids.count + np.cumsum(sizes) - sizes)
        self._ids.append(ids)

    def _place(self, name: str, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns `region` and `place` of a block, [n] each."""
        region, place = np.full(len(block), -1, np.int32), np.full(len(block), -1)
        for first, last, placement in block.runs:
            where = f"{name}: item {block.ids[first].as_py()!r}"
            run = slice(first, last)
            repetitions, lengths = block.repetitions[run], block.length[run]
            if isinstance(placement, RandomPlacement):
                if not lengths.all():
                    raise ValueError(
                        f"{where} has noise that shares its row: place it by WholeBatch or "
                        "Explicit, or make the noise exclusive"
                    )
                region[run] = self._regions.number(where, placement, repetitions)
            else:
                fixed = fixed_addresses(where, placement, repetitions, lengths, self._geometry)
                place[run] = self._fixed.count + np.cumsum(repetitions) - repetitions
                self._fixed.append(fixed)
        return region, place

    def _arm_ids(self, name: str, block: Block) -> np.ndarray:
        """Return uint16[n] arm ids; a condition without inserted items has no arm, and id 0."""
        edits = np.bincount(block.code, block.repetitions, len(block.conditions))
        sizes = block.repetitions * block.length
        tokens = np.bincount(block.code, sizes, len(block.conditions))
        numbers = np.zeros(len(block.conditions), np.uint16)
        trained = block.code[block.repetitions > 0]
        distinct, first = np.unique(trained, return_index=True)
        for code in distinct[np.argsort(first)]:  # in order of appearance
            condition = block.conditions[code]
            new = {"id": len(self._arms) + 1, "name": f"{name}/{condition}", "experiment": name}
            new |= {"condition": condition, "edits": 0, "tokens": 0}
            if condition in block.noises:
                new["noise"] = dataclasses.asdict(block.noises[condition])
            arm = self._arms.setdefault((name, condition), new)
            if arm.get("noise") != new.get("noise"):
                raise ValueError(
                    f"{name}: items of condition {condition!r} have different noise, or some none: "
                    "give them different conditions"
                )
            if arm["id"] >= np.iinfo(np.uint16).max:
                raise ValueError(
                    f"{name} needs an arm beyond the 65,534 of a run: use fewer conditions"
                )
            arm["edits"] += int(edits[code])
            arm["tokens"] += int(tokens[code])
            numbers[code] = arm["id"]
        return numbers[block.code]

    def close(self) -> PlannedItems:
        """Raise ValueError for duplicate ids, and for edits that exceed the tokens of the run."""
        self._check_capacity()
        self._first.append(np.array([self._edits]))
        self._id_starts.append(np.array([self._ids.count]))
        tokens = self._tokens.close()
        index = (self._first, self._ids, self._id_starts, self._sha256)
        for array in (self._fixed, *index, *self._columns.values()):
            array.close()
        write_sorted_keys(self._folder, self._columns["key"].mapped(), self._counts)
        return PlannedItems(
            columns={name: column.mapped() for name, column in self._columns.items()},
            first=self._first.mapped(),
            fixed=self._fixed.mapped(),
            regions=self._regions.arrays(),
            counts=self._counts,
            arms=list(self._arms.values()),
            tokens=tokens,
        )

    def _check_capacity(self) -> None:
        wanted = dict.fromkeys(self._counts, 0)
        for arm in self._arms.values():
            wanted[arm["experiment"]] += arm["tokens"]
        if sum(wanted.values()) > self._geometry.tokens:
            most = max(wanted, key=lambda name: wanted[name])
            raise ValueError(
                f"the plan does not fit: {sum(wanted.values()):,} tokens of edits in a run of "
                f"{self._geometry.tokens:,}, {wanted[most]:,} of them by {most}: lower its "
                "repetitions or raise Geometry.steps"
            )


def _table_rows(block: Block) -> pa.Table:
    """Return a block as rows of its item table."""
    ours = block.kind == TOKENS
    ends = np.concatenate([[0], np.cumsum(np.where(ours, block.length, 0))])
    tokens = pa.ListArray.from_arrays(
        pa.array(ends.astype(np.int32)), pa.array(block.tokens), mask=pa.array(~ours)
    )
    names = pa.array(block.conditions, pa.string())
    columns = {
        "id": block.ids,
        "condition": names.take(pa.array(block.code)),
        "repetitions": block.repetitions,
        "tokens": tokens,
        "window": block.window,
        "text": block.texts,
        "fields": block.fields,
    }
    return pa.table(columns, _SCHEMA)


def _hash_texts(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the sha256 of each item's tokens, uint8[n, 32]; without tokens that of no bytes."""
    if not len(tokens):
        return np.tile(np.frombuffer(hashlib.sha256().digest(), np.uint8), (len(lengths), 1))
    raw, ends = tokens.data.cast("B"), (4 * np.cumsum(lengths)).tolist()
    starts = [0, *ends[:-1]]
    digests = [hashlib.sha256(raw[a:b]).digest() for a, b in zip(starts, ends, strict=True)]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
