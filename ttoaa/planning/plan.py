"""A plan in a study's folder: immutable, content-hashed, checked when it is opened (C4)."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import numpy as np

from ttoaa.data.corpus import file_sha256
from ttoaa.planning.edits import COLUMNS, Edits, content_hash
from ttoaa.workdir import read_json

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
