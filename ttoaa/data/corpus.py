"""The immutable token shards that a study trains on, read as fixed-length windows."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import Any, Literal

import numpy as np

from ttoaa.data.tokenizer import Tokenizer

Split = Literal["train", "reserve"]
SPLITS: tuple[Split, ...] = ("train", "reserve")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of little-endian token ids; every document in it is followed by EOS."""

    name: str
    split: Split
    tokens: int
    documents: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a corpus is: it is written last, so a folder that has one is complete."""

    version: int
    dtype: str
    vocab_size: int
    vocabulary: str
    """sha256 of tokenizer.json."""
    eos_id: int
    reserved_ids: tuple[int, int]
    """[start, stop): ids that occur in no shard."""
    documents: dict[str, int]
    source: str
    text: str
    """sha256 over the input's documents."""
    config: dict[str, Any]
    """The Prepare that made it."""
    shards: tuple[Shard, ...]

    def to_bytes(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        fields = json.loads(content)
        if fields.get("version") != 1:
            raise ValueError(f"version {fields.get('version')!r}, this program reads version 1")
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["reserved_ids"] = tuple(fields["reserved_ids"])
        return cls(**fields)


class Corpus:
    """Windows of a prepared corpus. Pickled by path; shards are mapped on first use."""

    def __init__(self, folder: pathlib.Path, content: bytes) -> None:
        self.folder = folder
        self.manifest = Manifest.from_bytes(content)
        self.fingerprint: str = hashlib.sha256(content).hexdigest()
        self.vocab_size: int = self.manifest.vocab_size
        self.eos_id: int = self.manifest.eos_id
        self._tables: dict[tuple[Split, int], _Windows] = {}

    @classmethod
    def open(cls, folder: str | os.PathLike[str], verify: bool = True) -> "Corpus":
        """Opens what `ttoaa.prepare` made.

        Raises ValueError, naming the file, where the corpus is missing or unfinished, or a shard
        does not have the size that the manifest states or (only with `verify`) its sha256.
        """
        folder = pathlib.Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"no finished corpus in {folder}: run python -m ttoaa.prepare")
        try:
            corpus = cls(folder, path.read_bytes())
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is not a corpus manifest: {error}") from error
        corpus._check(verify)
        return corpus

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus.open, (self.folder, False)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.folder / TOKENIZER, self.vocab_size, self.eos_id)

    def num_windows(self, split: Split, length: int) -> int:
        """How many windows of `length` tokens a split has; none crosses a shard."""
        return self._windows(split, length).total

    def windows(self, split: Split, indices: np.ndarray, length: int) -> np.ndarray:
        """int32[n, length], a fresh array: the windows of those numbers (int64[n])."""
        return self._windows(split, length).read(np.asarray(indices, np.int64))

    def _windows(self, split: Split, length: int) -> "_Windows":
        table = self._tables.get((split, length))
        if table is None:
            if split not in SPLITS:
                raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
            shards = [shard for shard in self.manifest.shards if shard.split == split]
            table = _Windows(self.folder, shards, self.manifest.dtype, length)
            self._tables[split, length] = table
        return table

    def _check(self, verify: bool) -> None:
        size = np.dtype(self.manifest.dtype).itemsize
        expected = [(s.name, s.tokens * size, s.sha256) for s in self.manifest.shards]
        for name, bytes_, digest in expected:
            path = self.folder / name
            if not path.is_file():
                raise ValueError(f"{path} is missing: restore it, or prepare the corpus anew")
            if path.stat().st_size != bytes_:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes, its manifest says {bytes_}: "
                    f"restore it, or prepare the corpus anew"
                )
            if verify and file_sha256(path) != digest:
                raise ValueError(
                    f"{path} is damaged (its sha256 is not the manifest's): "
                    f"restore it, or prepare the corpus anew"
                )
        path = self.folder / TOKENIZER
        if not path.is_file() or file_sha256(path) != self.manifest.vocabulary:
            raise ValueError(f"{path} is not the tokenizer that its manifest names: restore it")


class _Windows:
    """The windows of one length over some shards: window number → shard and offset."""

    def __init__(self, folder: pathlib.Path, shards: list[Shard], dtype: str, length: int) -> None:
        if length < 1:
            raise ValueError(f"a window needs at least one token, not {length}")
        counts = [shard.tokens // length for shard in shards]
        self.length = length
        self.starts = np.cumsum([0, *counts])
        self.total = int(self.starts[-1])
        stored = np.dtype(dtype).newbyteorder("<")
        self.shards = [
            np.memmap(folder / shard.name, stored, "r", shape=(count, length)) if count else None
            for shard, count in zip(shards, counts, strict=True)
        ]

    def read(self, indices_n: np.ndarray) -> np.ndarray:
        if indices_n.size and not 0 <= indices_n.min() <= indices_n.max() < self.total:
            raise ValueError(
                f"windows {indices_n.min()} to {indices_n.max()} asked, "
                f"there are {self.total} of {self.length} tokens"
            )
        tokens_nxL = np.empty((len(indices_n), self.length), np.int32)
        shard_n = np.searchsorted(self.starts, indices_n, side="right") - 1
        for shard in np.unique(shard_n):
            rows = np.flatnonzero(shard_n == shard)
            mapped = self.shards[shard]
            assert mapped is not None, "searchsorted never lands on a shard without windows"
            tokens_nxL[rows] = mapped[indices_n[rows] - self.starts[shard]]
        return tokens_nxL


def file_sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
