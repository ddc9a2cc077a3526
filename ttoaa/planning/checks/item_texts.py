"""The texts of all items of a plan as one array, for checks that compare them all."""

import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq

from ttoaa.data.order import mix64
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.plan import Edits

_BLOCK = 1 << 20  # tokens that a pass takes at a time: its temporaries stay small
_COLUMNS = ["id", "condition", "repetitions", "tokens", "fields"]


@dataclasses.dataclass(frozen=True)
class ItemTexts:
    """n items that have tokens of their own, experiment after experiment.

    An EOS at either end belongs to how an item is inserted, not to its text, and is left out.
    """

    experiments: tuple[str, ...]
    tokens: np.ndarray
    """int32[total], which may be mapped from disk."""
    start: np.ndarray
    """int64[n]: where in `tokens` each text begins."""
    length: np.ndarray
    """int64[n]: tokens of each, at least 1."""
    experiment: np.ndarray
    """int64[n]: number in `experiments`, ascending."""
    held_out: np.ndarray
    """bool[n]: never inserted."""
    removed: np.ndarray
    """bool[n]: held out because an experiment removes it from training."""
    ids: pa.Array
    """string[n]"""
    conditions: pa.Array
    """string[n]"""
    extra: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int32))
    """int32[m]: tokens of no item's; place p of `tokens` and more is number p - total of these."""

    @classmethod
    def of_plan(cls, plan: Edits, eos_id: int) -> "ItemTexts":
        """Reads the item tables a piece at a time; the tokens stay on disk."""
        names = tuple(plan.contents["experiments"])
        tables = [_read(plan.folder / "items" / f"{name}.parquet") for name in names]
        whole = pa.concat_tables([_NOTHING, *tables]).combine_chunks()
        length = whole["length"].to_numpy()
        start = np.cumsum(length) - length
        tokens = plan.tokens if length.any() else np.zeros(1, np.int32)
        start, length = _without_ends(tokens, start, length, eos_id)
        keep = np.flatnonzero(length)
        experiment = np.repeat(np.arange(len(names)), [len(table) for table in tables])
        ids, conditions = (whole[name].take(keep).combine_chunks() for name in ("id", "condition"))
        held_out = whole["repetitions"].to_numpy() == 0
        return cls(
            experiments=names,
            tokens=tokens,
            start=start[keep],
            length=length[keep],
            experiment=experiment[keep],
            held_out=held_out[keep],
            removed=whole["removed"].to_numpy()[keep] & held_out[keep],
            ids=ids,
            conditions=conditions,
        )

    def __len__(self) -> int:
        return len(self.start)

    def name(self, item: int) -> str:
        """experiment/id of an item, as a person would ask for it."""
        return f"{self.experiments[self.experiment[item]]}/{self.ids[item].as_py()}"

    def text(self, item: int) -> np.ndarray:
        """int32[length]"""
        return self.at(np.arange(self.length[item]) + self.start[item])

    def at(self, place: np.ndarray) -> np.ndarray:
        """int32[...] tokens of int64[...] places."""
        if not len(self.extra):
            return self.tokens[place]
        beyond = place >= len(self.tokens)
        out = self.tokens[np.where(beyond, 0, place)]
        out[beyond] = self.extra[place[beyond] - len(self.tokens)]
        return out

    def with_fillings(self, fillings: Sequence[SlotTexts], eos_id: int) -> "ItemTexts":
        """With what controllers may insert: text k of a controller is the item `slots[k]`."""
        whole = self
        for filling in fillings:
            number = self.experiments.index(filling.experiment)
            whole = whole._with(number, filling, eos_id)
        return whole

    def _with(self, number: int, filling: SlotTexts, eos_id: int) -> "ItemTexts":
        tokens = np.concatenate([np.empty(0, np.int32), *filling.texts]).astype(np.int32)
        length = np.array([len(text) for text in filling.texts], np.int64)
        start, length = _without_ends(tokens, np.cumsum(length) - length, length, eos_id)
        keep = np.flatnonzero(length)
        never = np.zeros(len(keep), bool)
        new = {
            "start": start[keep] + len(self.tokens) + len(self.extra),
            "length": length[keep],
            "experiment": np.full(len(keep), number),
            "held_out": never,
            "removed": never,
        }
        order = np.argsort(np.concatenate([self.experiment, new["experiment"]]), kind="stable")
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), column])[order]
            for name, column in new.items()
        }
        ids = pa.array([f"{filling.slots}[{k}]" for k in keep.tolist()], pa.string())
        conditions = pa.array(["controlled"] * len(keep), pa.string())
        strings = {
            "ids": pa.concat_arrays([self.ids, ids]).take(pa.array(order)),
            "conditions": pa.concat_arrays([self.conditions, conditions]).take(pa.array(order)),
        }
        extra = np.concatenate([self.extra, tokens])
        return dataclasses.replace(self, **columns, **strings, extra=extra)

    def only(self, items: np.ndarray) -> "ItemTexts":
        """Some of them (int64[m] ascending), over the same tokens."""
        names = ("start", "length", "experiment", "held_out", "removed")
        columns = {name: getattr(self, name)[items] for name in names}
        strings = {n: getattr(self, n).take(pa.array(items)) for n in ("ids", "conditions")}
        return dataclasses.replace(self, **columns, **strings)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(items, their tokens int32[t], lengths int64[items]), a million tokens or so each."""
        group = (np.cumsum(self.length) - self.length) // _BLOCK
        borders = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
        for first, last in itertools.pairwise(borders.tolist()):
            items = slice(first, last)
            start, length = self.start[items], self.length[items]
            yield items, self.at(np.repeat(start, length) + counted(length)), length

    @functools.cached_property
    def signature(self) -> np.ndarray:
        """uint64[n]: equal for equal texts, and for others with a chance of 2**-64."""
        out = np.empty(len(self), np.uint64)
        for items, tokens, length in self.blocks():
            place = counted(length).astype(np.uint64) << np.uint64(32)
            mixed = mix64(mix64(tokens.astype(np.uint64) | place) + np.uint64(1))
            out[items] = np.add.reduceat(mixed, np.cumsum(length) - length)
        return out


def counted(length: np.ndarray) -> np.ndarray:
    """int64[sum]: 0, 1, …, length[0] - 1, 0, 1, …, length[1] - 1, …"""
    return np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)


_NOTHING = pa.schema(
    {
        "id": pa.string(),
        "condition": pa.string(),
        "repetitions": pa.int64(),
        "length": pa.int64(),
        "removed": pa.bool_(),
    }
).empty_table()


def _read(path: pathlib.Path) -> pa.Table:
    """The columns of `_NOTHING` of a stored item table; an item without tokens has length 0."""
    with pa.OSFile(os.fspath(path)) as file:
        pieces = [
            pa.table(
                [
                    *(piece[name].cast(_NOTHING.schema.field(name).type) for name in _COLUMNS[:3]),
                    piece["tokens"].value_lengths().fill_null(0).cast(pa.int64()),
                    compute.match_substring(piece["fields"], '"removed": true'),
                ],
                _NOTHING.schema,
            )
            for piece in pq.ParquetFile(file).iter_batches(columns=_COLUMNS)
        ]
    return pa.concat_tables([_NOTHING, *pieces])


def _without_ends(
    tokens: np.ndarray, start: np.ndarray, length: np.ndarray, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    for first in (True, False):
        ends = np.ones(len(start), bool)
        while ends.any():
            at = start if first else start + length - 1
            ends = (length > 0) & (tokens[np.where(length > 0, at, 0)] == eos_id)
            start, length = start + (ends & first), length - ends
    return start, length
