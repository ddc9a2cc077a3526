"""What may fill a controller's slots: kept beside the run, as an audit needs it (C5, C6).

In the run's controllers/: index.json says whose they are, tokens.npy holds all texts one after the
other, starts.npy where each begins and where the last one ends.

What controllers decided, as it is logged: a line each, chained to the one before (C6).

A line is a JSON object with experiment, slots, interval, step, log_p (nats), chosen (indices of
texts; null where a control run only measures), state, `previous` and `hash`: the sha256 of all the
others. The first line's `previous` is the root, which says whose decisions these are.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.workdir import atomic_writer, read_json, write_bytes, write_json

SLOT_TEXTS_FOLDER = "controllers"


@dataclasses.dataclass(frozen=True)
class SlotTexts:
    """The texts of one controller and the slots for them."""

    experiment: str
    slots: str
    """Id of the item whose copies are the slots."""
    every: int
    """Steps of an interval."""
    texts: Sequence[np.ndarray]
    """int32[n] each."""

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.slots}"


def store_slot_texts(folder: pathlib.Path, fillings: Sequence[SlotTexts]) -> None:
    """Writes them, unless the same are there already; index.json comes last."""
    arrays = {"tokens.npy": _tokens(fillings), "starts.npy": _starts(fillings)}
    contents = {name: _saved(array) for name, array in arrays.items()}
    index = {
        "fillings": [
            {"experiment": f.experiment, "slots": f.slots, "every": f.every, "texts": len(f.texts)}
            for f in fillings
        ],
        "sha256": {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()},
    }
    path = folder / "index.json"
    if path.exists() and read_json(path) == index:
        return
    path.unlink(missing_ok=True)  # it never stands beside texts that are not its own
    for name, raw in contents.items():
        write_bytes(folder / name, raw)
    write_json(path, index)


def load_slot_texts(folder: pathlib.Path) -> list[SlotTexts]:
    """Raises ValueError where they are missing or damaged."""
    path = folder / "index.json"
    if not path.exists():
        raise ValueError(f"{folder} is missing: the texts that controllers decided on are there")
    index = read_json(path)
    raws = {name: (folder / name).read_bytes() for name in index["sha256"]}
    for name, raw in raws.items():
        if hashlib.sha256(raw).hexdigest() != index["sha256"][name]:
            raise ValueError(f"{folder / name} is damaged: bring it back from a copy")
    tokens, starts = (np.load(io.BytesIO(raws[f"{name}.npy"])) for name in ("tokens", "starts"))
    texts, found, first = np.split(tokens, starts[1:-1]), [], 0
    for each in index["fillings"]:
        own = texts[first : first + each["texts"]]
        first += each["texts"]
        found.append(SlotTexts(each["experiment"], each["slots"], each["every"], own))
    return found


def slot_texts_fingerprint(fillings: Sequence[SlotTexts]) -> str:
    """sha256 of all of them."""
    told = [(f.experiment, f.slots, f.every, len(f.texts)) for f in fillings]
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(_starts(fillings).data)
    digest.update(_tokens(fillings).data)
    return digest.hexdigest()


def _tokens(fillings: Sequence[SlotTexts]) -> np.ndarray:
    texts = [np.asarray(text, np.int32) for f in fillings for text in f.texts]
    return np.concatenate([np.empty(0, np.int32), *texts])


def _starts(fillings: Sequence[SlotTexts]) -> np.ndarray:
    return np.cumsum([0, *(len(text) for f in fillings for text in f.texts)], dtype=np.int64)


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


LOG_NAME = "decisions.jsonl"
Line = dict[str, Any]

_COLUMNS = ["interval", "step", "slots", "chosen", "log_p", "state"]


class ControllerLog:
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
        with atomic_writer(self._path) as file:
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


def read_log(path: pathlib.Path) -> list[Line]:
    """All whole lines, oldest first, none without a file; ValueError where the chain is broken."""
    return [line for _, line in _checked(path, None)]


def log_table(path: pathlib.Path, experiment: str, step: int) -> pd.DataFrame:
    """Decisions of one experiment up to `step`: interval, step, slots, chosen, log_p, state.

    `chosen` is a list of indices, or None in a control run; `log_p` a list of nats.
    """
    ours = [x for x in read_log(path) if x["experiment"] == experiment and x["step"] <= step]
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
