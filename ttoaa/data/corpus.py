"""The immutable token shards that a study trains on, read as fixed-length windows."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ttoaa.data import digests
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.windows import File, Numbered, Windows, mapped

Split = Literal["train", "reserve"]
SPLITS: tuple[Split, ...] = ("train", "reserve")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of little-endian token ids; every document in it is followed by EOS.

    Of a corpus with a numbering the name is an absolute path and the split is "all".
    """

    name: str
    split: str
    tokens: int
    documents: int
    sha256: str
    offset: int = 0
    """Bytes of the file before its first token."""


@dataclasses.dataclass(frozen=True)
class Numbering:
    """A file of instance numbers, in which windows have the order and the splits of another run.

    Instances are the shards cut into `length` tokens, each shard by itself. Window w of training is
    instance file[first + w], the reserve's is file[first + train + w]; what comes before `first`
    was trained on already and belongs to neither.
    """

    file: str
    dtype: str
    offset: int
    windows: int
    sha256: str
    length: int
    first: int
    train: int
    digest: digests.Kind
    """How the sha256 of this file and of the shards were taken."""


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
    numbering: Numbering | None = None

    def to_bytes(self) -> bytes:
        fields = dataclasses.asdict(self)
        for shard in fields["shards"]:
            if not shard["offset"]:
                del shard["offset"]
        if self.numbering is None:
            del fields["numbering"]
        return (json.dumps(fields, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        fields = json.loads(content)
        if fields.get("version") != 1:
            raise ValueError(f"version {fields.get('version')!r}, this program reads version 1")
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["reserved_ids"] = tuple(fields["reserved_ids"])
        if "numbering" in fields:
            fields["numbering"] = Numbering(**fields["numbering"])
        return cls(**fields)


class Corpus:
    """Windows of a prepared corpus. Pickled by path; shards are mapped on first use."""

    def __init__(self, folder: pathlib.Path, content: bytes) -> None:
        self.folder = folder
        self.manifest = Manifest.from_bytes(content)
        self.fingerprint: str = hashlib.sha256(content).hexdigest()
        self.vocab_size: int = self.manifest.vocab_size
        self.eos_id: int = self.manifest.eos_id
        self._tables: dict[tuple[Split, int], Windows] = {}

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

    @property
    def in_order(self) -> bool:
        """Whether training windows are numbered in the order in which a run takes them first."""
        return self.manifest.numbering is not None

    def num_windows(self, split: Split, length: int) -> int:
        """How many windows of `length` tokens a split has; none crosses a shard."""
        return self._windows(split, length).total

    def windows(self, split: Split, indices: np.ndarray, length: int) -> np.ndarray:
        """int32[n, length], a fresh array: the windows of those numbers (int64[n])."""
        return self._windows(split, length).read(np.asarray(indices, np.int64))

    def write_windows(
        self, split: Split, indices: np.ndarray, tokens_BxL: np.ndarray, rows: np.ndarray
    ) -> None:
        """Writes these windows (int64[n]) into these rows (int64[n]) of int32[B, L]."""
        table = self._windows(split, tokens_BxL.shape[1])
        table.write(np.asarray(indices, np.int64), tokens_BxL, np.asarray(rows, np.int64))

    def describe(self) -> str:
        """What is in it, in a line."""
        numbering = self.manifest.numbering
        if numbering is not None:
            splits = [f"{self.num_windows(s, numbering.length):,} {s}" for s in SPLITS]
            return f"{' and '.join(splits)} windows of {numbering.length:,} tokens"
        tokens = {split: 0 for split in self.manifest.documents}
        for shard in self.manifest.shards:
            tokens[shard.split] += shard.tokens
        documents = self.manifest.documents
        return ", ".join(f"{s} {tokens[s]:,} tokens of {documents[s]:,} documents" for s in tokens)

    def _windows(self, split: Split, length: int) -> Windows:
        table = self._tables.get((split, length))
        if table is None:
            if split not in SPLITS:
                raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
            table = self._numbered(split, length) if self.in_order else self._cut(split, length)
            self._tables[split, length] = table
        return table

    def _cut(self, split: str, length: int) -> Windows:
        shards = [shard for shard in self.manifest.shards if shard.split == split]
        return Windows(self._files(shards), self.manifest.dtype, length)

    def _numbered(self, split: Split, length: int) -> Windows:
        numbering = self.manifest.numbering
        assert numbering is not None
        if length != numbering.length:
            raise ValueError(
                f"{self.folder} has windows of {numbering.length} tokens, as its order file counts "
                f"them, none of {length}: set Geometry.length to {numbering.length}"
            )
        path, split_at = self.folder / numbering.file, numbering.first + numbering.train
        order = mapped(path, numbering.dtype, numbering.offset, (numbering.windows,))
        order = order[split_at:] if split == "reserve" else order[numbering.first : split_at]
        return Numbered(self._files(self.manifest.shards), self.manifest.dtype, length, order)

    def _files(self, shards: Sequence[Shard]) -> list[File]:
        return [File(self.folder / s.name, s.offset, s.tokens) for s in shards]

    def _check(self, verify: bool) -> None:
        size, numbering = np.dtype(self.manifest.dtype).itemsize, self.manifest.numbering
        expected = [(s.name, s.offset + s.tokens * size, s.sha256) for s in self.manifest.shards]
        kind: digests.Kind = "sha256"
        if numbering is not None:
            bytes_ = numbering.offset + numbering.windows * np.dtype(numbering.dtype).itemsize
            expected.append((numbering.file, bytes_, numbering.sha256))
            kind = numbering.digest
        for name, bytes_, digest in expected:
            path = self.folder / name
            if not path.is_file():
                raise ValueError(f"{path} is missing: restore it, or prepare the corpus anew")
            if path.stat().st_size != bytes_:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes, its manifest says {bytes_}: "
                    f"restore it, or prepare the corpus anew"
                )
            if verify and digests.of(path, kind) != digest:
                raise ValueError(
                    f"{path} is damaged (its sha256 is not the manifest's): "
                    f"restore it, or prepare the corpus anew"
                )
        path = self.folder / TOKENIZER
        if not path.is_file() or file_sha256(path) != self.manifest.vocabulary:
            raise ValueError(f"{path} is not the tokenizer that its manifest names: restore it")


def file_sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
