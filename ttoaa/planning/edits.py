"""The edits of a run as memory-mapped columns, and how they are looked up (C4)."""

import bisect
import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ttoaa import parquet
from ttoaa.data.geometry import Geometry
from ttoaa.planning.growing import mapped
from ttoaa.planning.names import Names

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
        return _expanded(parquet.read(self.folder / "items" / f"{experiment}.parquet").to_pandas())

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
