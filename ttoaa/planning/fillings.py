"""What may fill a controller's slots: kept beside the run, as an audit needs it (C5, C6).

In the run's controllers/: index.json says whose they are, tokens.npy holds all texts one after the
other, starts.npy where each begins and where the last one ends.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from ttoaa.workdir import read_json, write_bytes, write_json

FOLDER = "controllers"


@dataclasses.dataclass(frozen=True)
class Filling:
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


def store(folder: pathlib.Path, fillings: Sequence[Filling]) -> None:
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


def load(folder: pathlib.Path) -> list[Filling]:
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
        found.append(Filling(each["experiment"], each["slots"], each["every"], own))
    return found


def fingerprint(fillings: Sequence[Filling]) -> str:
    """sha256 of all of them."""
    told = [(f.experiment, f.slots, f.every, len(f.texts)) for f in fillings]
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(_starts(fillings).data)
    digest.update(_tokens(fillings).data)
    return digest.hexdigest()


def _tokens(fillings: Sequence[Filling]) -> np.ndarray:
    texts = [np.asarray(text, np.int32) for f in fillings for text in f.texts]
    return np.concatenate([np.empty(0, np.int32), *texts])


def _starts(fillings: Sequence[Filling]) -> np.ndarray:
    return np.cumsum([0, *(len(text) for f in fillings for text in f.texts)], dtype=np.int64)


def _saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
