"""What controllers decided, as it is logged: a line each, chained to the one before (C6).

A line is a JSON object with experiment, slots, interval, step, log_p (nats), chosen (indices of
texts; null where a control run only measures), state, `previous` and `hash`: the sha256 of all the
others. The first line's `previous` is the root, which says whose decisions these are.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ttoaa.workdir import writing

NAME = "decisions.jsonl"
Line = dict[str, Any]

_COLUMNS = ["interval", "step", "slots", "chosen", "log_p", "state"]


class Log:
    """Written by one process; a line is on disk when `append` returns."""

    def __init__(self, path: pathlib.Path, root: str, head: str | None = None) -> None:
        """Cuts away what came after the line with hash `head`, by default all.

        Raises ValueError where that line is not there, or the chain up to it is broken.
        """
        self._path, self.head = path, root if head is None else head
        self.kept = self._cut(root)
        """The lines that are left, oldest first."""
        # Kept open: a trainer that was taken over while it stood still writes into its old file.
        self._file = open(path, "ab")  # noqa: SIM115

    def _cut(self, root: str) -> list[Line]:
        kept: list[Line] = []
        raws: list[bytes] = []
        last = root
        lines = _checked(self._path, root)
        while last != self.head:
            raw, line = next(lines, (b"", {}))
            if not raw:
                raise ValueError(
                    f"{self._path} lacks a decision that the checkpoint was made after: bring the "
                    "file back, or move the run away and train again"
                )
            raws.append(raw)
            kept.append(line)
            last = line["hash"]
        with writing(self._path) as file:
            file.writelines(raws)
        return kept

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines, without `previous` and `hash`. Raises ValueError for what JSON cannot say."""
        head, raws = self.head, []
        for record in records:
            plain = json.loads(json.dumps(record, allow_nan=False))  # as it will be read
            line = {**plain, "previous": head}
            head = _hash(line)
            raws.append(json.dumps({**line, "hash": head}, allow_nan=False).encode() + b"\n")
        try:
            self._file.writelines(raws)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # a full disk does not say which file it had no room for
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.head = head

    def close(self) -> None:
        self._file.close()


def read(path: pathlib.Path) -> list[Line]:
    """All whole lines, oldest first, none without a file; ValueError where the chain is broken."""
    return [line for _, line in _checked(path, None)]


def table(path: pathlib.Path, experiment: str, step: int) -> pd.DataFrame:
    """Decisions of one experiment up to `step`: interval, step, slots, chosen, log_p, state.

    `chosen` is a list of indices, or None in a control run; `log_p` a list of nats.
    """
    ours = [x for x in read(path) if x["experiment"] == experiment and x["step"] <= step]
    return pd.DataFrame({name: [line[name] for line in ours] for name in _COLUMNS})


def _checked(path: pathlib.Path, previous: str | None) -> Iterator[tuple[bytes, Line]]:
    """Each line; a last one that a kill cut short is left out."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
                told = line.pop("hash")
                whole = told == _hash(line) and previous in (None, line["previous"])
            except (ValueError, KeyError, TypeError, AttributeError):
                whole = False
            if not whole:
                raise ValueError(
                    f"{path} is damaged: line {number} is not what was decided after the one "
                    "before: bring the file back, or move the run away and train again"
                )
            previous = told
            yield raw, {**line, "hash": told}


def _hash(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
