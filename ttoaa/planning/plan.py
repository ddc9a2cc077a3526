"""A compiled plan: every edit of a run as memory-mapped columns, immutable, content-hashed (C4)."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pandas as pd

from ttoaa import parquet
from ttoaa.data.corpus import file_sha256
from ttoaa.data.geometry import Geometry
from ttoaa.workdir import read_json

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """Edits sorted by (position, offset). Pickles by path, so that data workers map it anew."""

    folder: pathlib.Path

    @classmethod
    def open(cls, folder: pathlib.Path) -> "Plan":
        """Opens and checks a plan; a missing or damaged one is a one-line error."""
        plan = cls(pathlib.Path(folder))
        if not (plan.folder / "plan.json").exists():
            raise ValueError(f"{folder} holds no plan: run python -m ttoaa.plan first")
        try:
            whole = content_hash(plan.contents, plan.columns, plan.tokens) == plan.hash and all(
                file_sha256(plan.folder / name) == digest
                for name, digest in plan.meta["tables"].items()
            )
        except (OSError, EOFError, KeyError, TypeError, ValueError):
            whole = False  # a file is missing, cut short or no longer what it was
        if not whole:
            raise ValueError(f"the plan in {folder} is damaged: move it away and plan again")
        return plan

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        return read_json(self.folder / "plan.json")

    @property
    def hash(self) -> str:
        return self.meta["hash"]

    @property
    def contents(self) -> dict[str, Any]:
        """What the hash covers beside the columns."""
        return self.meta["contents"]

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
        return {n: np.load(self.folder / "columns" / f"{n}.npy", mmap_mode="r") for n in COLUMNS}

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int32[total]: the tokens of every item once, however often it is repeated."""
        return np.load(self.folder / "tokens.npy", mmap_mode="r")

    def between(self, first: int, last: int) -> slice:
        """The edits of positions first <= p < last."""
        low, high = np.searchsorted(self.columns["position"], [first, last])
        return slice(int(low), int(high))

    def items(self, experiment: str) -> pd.DataFrame:
        """The item table of one experiment, its `fields` expanded to columns."""
        return expanded(parquet.read(self.folder / "items" / f"{experiment}.parquet").to_pandas())

    def item_ids(self) -> pd.DataFrame:
        """experiment and id of every item, in the order that the column `item` counts."""
        parts = [
            parquet.read(self.folder / "items" / f"{name}.parquet", ["id"])
            .to_pandas()
            .assign(experiment=name)
            for name in self.contents["experiments"]
        ]
        return pd.concat(parts, ignore_index=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def expanded(items: pd.DataFrame) -> pd.DataFrame:
    """A stored item table with its `fields` as columns."""
    fields = pd.DataFrame.from_records([json.loads(text) for text in items["fields"]])
    return pd.concat([items.drop(columns="fields"), fields], axis=1)


def content_hash(contents: dict[str, Any], columns: dict[str, np.ndarray], tokens: Any) -> str:
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode())
    for name in COLUMNS:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(columns[name], COLUMNS[name]).data)
    digest.update(np.ascontiguousarray(tokens, np.int32).data)
    return digest.hexdigest()
