"""Controllers on disk: the texts that they choose from, and the log of their decisions (C5, C6).

The texts are in the run's controllers/: index.json lists the controllers, tokens.npy holds all
texts concatenated, starts.npy the start of each text and the end of the last one.

The log has a line for each decision, a JSON object with experiment, slots, interval, step, log_p
(nats), chosen (indices of texts; null in a control run, which only measures), state, `previous`
(the hash of the line before) and `hash` (the sha256 of all other fields). The first line's
`previous` is the root, a fingerprint of the run.
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

from ttoaa import bucket
from ttoaa.checksums import FileDigest, RunningDigest
from ttoaa.json_io import read_json
from ttoaa.workdir import atomic_writer, write_bytes, write_json

SLOT_TEXTS_FOLDER = "controllers"


@dataclasses.dataclass(frozen=True)
class SlotTexts:
    """The texts that one controller may insert, and its slots."""

    experiment: str
    slots: str
    """The id of the item whose copies are the slots."""
    every: int
    """The length of an interval in steps."""
    texts: Sequence[np.ndarray]
    """int32[n] each."""

    @property
    def name(self) -> str:
        return f"{self.experiment}/{self.slots}"


def store_slot_texts(folder: pathlib.Path, slot_texts: Sequence[SlotTexts]) -> None:
    """Write the texts, index.json last, unless the same texts are already there."""
    arrays = {"tokens.npy": _concatenate(slot_texts), "starts.npy": _starts(slot_texts)}
    contents = {name: _npy_bytes(array) for name, array in arrays.items()}
    index = {
        "fillings": [
            {"experiment": f.experiment, "slots": f.slots, "every": f.every, "texts": len(f.texts)}
            for f in slot_texts
        ],
        "sha256": {name: hashlib.sha256(raw).hexdigest() for name, raw in contents.items()},
    }
    path = folder / "index.json"
    if path.exists() and read_json(path) == index:
        return
    bucket.remove(path)  # so that it never describes other texts
    for name, raw in contents.items():
        write_bytes(folder / name, raw)
    write_json(path, index)


def load_slot_texts(folder: pathlib.Path) -> list[SlotTexts]:
    """Read the texts of all controllers; raises ValueError if they are missing or damaged."""
    path = folder / "index.json"
    if not path.exists():
        raise ValueError(f"{folder} is missing: restore the texts of the controllers from a copy")
    index = read_json(path)
    raws = {name: (folder / name).read_bytes() for name in index["sha256"]}
    for name, raw in raws.items():
        if hashlib.sha256(raw).hexdigest() != index["sha256"][name]:
            raise ValueError(f"{folder / name} is damaged: restore it from a copy")
    tokens, starts = (np.load(io.BytesIO(raws[f"{name}.npy"])) for name in ("tokens", "starts"))
    texts, found, first = np.split(tokens, starts[1:-1]), [], 0
    for each in index["fillings"]:
        own = texts[first : first + each["texts"]]
        first += each["texts"]
        found.append(SlotTexts(each["experiment"], each["slots"], each["every"], own))
    return found


def slot_texts_fingerprint(slot_texts: Sequence[SlotTexts]) -> str:
    """Return the sha256 of the texts and slots of all controllers."""
    index = [(f.experiment, f.slots, f.every, len(f.texts)) for f in slot_texts]
    digest = hashlib.sha256(json.dumps(index).encode())
    digest.update(_starts(slot_texts).data)
    digest.update(_concatenate(slot_texts).data)
    return digest.hexdigest()


def _concatenate(slot_texts: Sequence[SlotTexts]) -> np.ndarray:
    texts = [np.asarray(text, np.int32) for f in slot_texts for text in f.texts]
    return np.concatenate([np.empty(0, np.int32), *texts])


def _starts(slot_texts: Sequence[SlotTexts]) -> np.ndarray:
    return np.cumsum([0, *(len(text) for f in slot_texts for text in f.texts)], dtype=np.int64)


def _npy_bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


LOG_NAME = "decisions.jsonl"
Line = dict[str, Any]

_COLUMNS = ["interval", "step", "slots", "chosen", "log_p", "state"]


class ControllerLog:
    """Appends decisions to the log, for one process; they are on disk when `append` returns."""

    def __init__(self, path: pathlib.Path, root: str, head: str | None = None) -> None:
        """Truncate the log after the line with hash `head`, or to nothing if `head` is None.

        Raises ValueError if that line is missing or the chain of hashes up to it is broken.
        """
        self._path, self.head = path, root if head is None else head
        self.kept = self._truncate(root)
        """The remaining lines, oldest first."""
        # Kept open: a paused trainer whose run was taken over writes into its old file.
        self._file = path.open("a+b")

    def _truncate(self, root: str) -> list[Line]:
        kept: list[Line] = []
        raws: list[bytes] = []
        last = root
        lines = _read_lines(self._path, root)
        while last != self.head:
            raw, line = next(lines, (b"", {}))
            if not raw:
                raise ValueError(
                    f"{self._path} misses a decision made before the checkpoint: restore the file "
                    "from a copy, or move the run away and train again"
                )
            raws.append(raw)
            kept.append(line)
            last = line["hash"]
        with atomic_writer(self._path) as file:
            file.writelines(raws)
        self._digest = RunningDigest(b"".join(raws))
        return kept

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records as lines, adding `previous` and `hash`; raises ValueError for NaN."""
        head, raws = self.head, []
        for record in records:
            plain = json.loads(json.dumps(record, allow_nan=False))  # as it is read back
            line = {**plain, "previous": head}
            head = _hash(line)
            raws.append(json.dumps({**line, "hash": head}, allow_nan=False).encode() + b"\n")
        try:
            self._file.writelines(raws)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # name the file, which the error of a full disk does not
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.head = head
        self._digest.update(b"".join(raws))

    def sync(self) -> None:
        """Upload the log to a bucket, before a checkpoint that relies on it."""
        bucket.upload(self._path, self._file)

    @property
    def digest(self) -> FileDigest:
        """The digest of the whole log."""
        return self._digest.value

    def close(self) -> None:
        self._file.close()


def read_log(path: pathlib.Path) -> list[Line]:
    """Read all complete lines, oldest first; raises ValueError if the chain of hashes is broken."""
    return [line for _, line in _read_lines(path, None)]


def log_table(path: pathlib.Path, experiment: str, step: int) -> pd.DataFrame:
    """Read the decisions of an experiment up to `step`, with the columns of `_COLUMNS`.

    `chosen` is a list of indices, or None in a control run; `log_p` a list of nats.
    """
    lines = [x for x in read_log(path) if x["experiment"] == experiment and x["step"] <= step]
    return pd.DataFrame({name: [line[name] for line in lines] for name in _COLUMNS})


def _read_lines(path: pathlib.Path, previous: str | None) -> Iterator[tuple[bytes, Line]]:
    """Yield and verify each line, without an incomplete last one (the writer was killed)."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
                found = line.pop("hash")
                intact = found == _hash(line) and previous in (None, line["previous"])
            except (ValueError, KeyError, TypeError, AttributeError):
                intact = False
            if not intact:
                raise ValueError(
                    f"{path} is damaged: line {number} breaks the chain of hashes: restore the "
                    "file from a copy, or move the run away and train again"
                )
            previous = found
            yield raw, {**line, "hash": found}


def _hash(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
