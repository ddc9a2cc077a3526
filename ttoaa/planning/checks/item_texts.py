"""The texts of all items of a plan as one array, for checks that compare all of them."""

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

_BLOCK = 1 << 20  # tokens processed at a time, so that temporary arrays stay small
_COLUMNS = ["id", "condition", "repetitions", "tokens", "fields"]


@dataclasses.dataclass(frozen=True)
class ItemTexts:
    """The n items of a plan that have token ids, by experiment.

    EOS tokens at either end are left out: they belong to how an item is inserted, not to its text.
    """

    experiments: tuple[str, ...]
    tokens: np.ndarray
    """int32[total], possibly memory-mapped."""
    start: np.ndarray
    """int64[n]: index in `tokens` of the first token of each text."""
    length: np.ndarray
    """int64[n]: tokens of each, at least 1."""
    experiment: np.ndarray
    """int64[n]: index in `experiments`, ascending."""
    held_out: np.ndarray
    """bool[n]: never inserted."""
    removed: np.ndarray
    """bool[n]: held out because its experiment removes it from training."""
    ids: pa.Array
    """string[n]"""
    conditions: pa.Array
    """string[n]"""
    extra: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int32))
    """int32[m]: tokens of controllers' texts; index total + k of `tokens` means extra[k]."""

    @classmethod
    def of_plan(cls, plan: Edits, eos_id: int) -> "ItemTexts":
        """Read the item tables of a plan in batches; the tokens stay on disk."""
        names = tuple(plan.contents["experiments"])
        tables = [_read_items(plan.folder / "items" / f"{name}.parquet") for name in names]
        whole = pa.concat_tables([_EMPTY, *tables]).combine_chunks()
        length = whole["length"].to_numpy()
        start = np.cumsum(length) - length
        tokens = plan.tokens if length.any() else np.zeros(1, np.int32)
        start, length = _strip_eos(tokens, start, length, eos_id)
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
        """Return 'experiment/id' of an item."""
        return f"{self.experiments[self.experiment[item]]}/{self.ids[item].as_py()}"

    def text(self, item: int) -> np.ndarray:
        """Return the tokens of an item, int32[length]."""
        return self.at(np.arange(self.length[item]) + self.start[item])

    def at(self, place: np.ndarray) -> np.ndarray:
        """Return the tokens at indices of `tokens` and `extra`, int32[…] of int64[…]."""
        if not len(self.extra):
            return self.tokens[place]
        beyond = place >= len(self.tokens)
        out = self.tokens[np.where(beyond, 0, place)]
        out[beyond] = self.extra[place[beyond] - len(self.tokens)]
        return out

    def with_slot_texts(self, slot_texts: Sequence[SlotTexts], eos_id: int) -> "ItemTexts":
        """Add the texts that controllers may insert; text k of a controller is item `slots[k]`."""
        texts = self
        for each in slot_texts:
            texts = texts._add(self.experiments.index(each.experiment), each, eos_id)
        return texts

    def _add(self, number: int, slot_texts: SlotTexts, eos_id: int) -> "ItemTexts":
        tokens = np.concatenate([np.empty(0, np.int32), *slot_texts.texts]).astype(np.int32)
        length = np.array([len(text) for text in slot_texts.texts], np.int64)
        start, length = _strip_eos(tokens, np.cumsum(length) - length, length, eos_id)
        keep = np.flatnonzero(length)
        no = np.zeros(len(keep), bool)
        new = {
            "start": start[keep] + len(self.tokens) + len(self.extra),
            "length": length[keep],
            "experiment": np.full(len(keep), number),
            "held_out": no,
            "removed": no,
        }
        order = np.argsort(np.concatenate([self.experiment, new["experiment"]]), kind="stable")
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), column])[order]
            for name, column in new.items()
        }
        ids = pa.array([f"{slot_texts.slots}[{k}]" for k in keep.tolist()], pa.string())
        conditions = pa.array(["controlled"] * len(keep), pa.string())
        strings = {
            "ids": pa.concat_arrays([self.ids, ids]).take(pa.array(order)),
            "conditions": pa.concat_arrays([self.conditions, conditions]).take(pa.array(order)),
        }
        extra = np.concatenate([self.extra, tokens])
        return dataclasses.replace(self, **columns, **strings, extra=extra)

    def only(self, items: np.ndarray) -> "ItemTexts":
        """Return some of the items (int64[m] ascending), over the same tokens."""
        names = ("start", "length", "experiment", "held_out", "removed")
        columns = {name: getattr(self, name)[items] for name in names}
        strings = {n: getattr(self, n).take(pa.array(items)) for n in ("ids", "conditions")}
        return dataclasses.replace(self, **columns, **strings)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (items, tokens int32[t], lengths int64[items]) of about `_BLOCK` tokens each."""
        group = (np.cumsum(self.length) - self.length) // _BLOCK
        borders = np.flatnonzero(np.diff(group, prepend=-1, append=-1))
        for first, last in itertools.pairwise(borders.tolist()):
            items = slice(first, last)
            start, length = self.start[items], self.length[items]
            yield items, self.at(np.repeat(start, length) + ranges(length)), length

    @functools.cached_property
    def signature(self) -> np.ndarray:
        """uint64[n] hashes: equal for equal texts, and for two others with probability 2**-64."""
        out = np.empty(len(self), np.uint64)
        for items, tokens, length in self.blocks():
            place = ranges(length).astype(np.uint64) << np.uint64(32)
            mixed = mix64(mix64(tokens.astype(np.uint64) | place) + np.uint64(1))
            out[items] = np.add.reduceat(mixed, np.cumsum(length) - length)
        return out


def ranges(length: np.ndarray) -> np.ndarray:
    """Return 0, 1, …, length[0] - 1, 0, 1, …, length[1] - 1, …: int64[sum of lengths]."""
    return np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)


_EMPTY = pa.schema(
    {
        "id": pa.string(),
        "condition": pa.string(),
        "repetitions": pa.int64(),
        "length": pa.int64(),
        "removed": pa.bool_(),
    }
).empty_table()


def _read_items(path: pathlib.Path) -> pa.Table:
    """Read the columns of `_EMPTY` of an item table; an item without tokens has length 0."""
    with pa.OSFile(os.fspath(path)) as file:
        pieces = [
            pa.table(
                [
                    *(piece[name].cast(_EMPTY.schema.field(name).type) for name in _COLUMNS[:3]),
                    piece["tokens"].value_lengths().fill_null(0).cast(pa.int64()),
                    compute.match_substring(piece["fields"], '"removed": true'),
                ],
                _EMPTY.schema,
            )
            for piece in pq.ParquetFile(file).iter_batches(columns=_COLUMNS)
        ]
    return pa.concat_tables([_EMPTY, *pieces])


def _strip_eos(
    tokens: np.ndarray, start: np.ndarray, length: np.ndarray, eos_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return (start, length) of the texts without EOS at either end."""
    for first in (True, False):
        ends = np.ones(len(start), bool)
        while ends.any():
            at = start if first else start + length - 1
            ends = (length > 0) & (tokens[np.where(length > 0, at, 0)] == eos_id)
            start, length = start + (ends & first), length - ends
    return start, length
