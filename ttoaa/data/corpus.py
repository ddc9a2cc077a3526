"""The corpus: immutable shards of token ids and a manifest, read as windows of one length."""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import os
import pathlib
import resource
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ttoaa import bucket
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.json_io import parse_json
from ttoaa.workdir import file_sha256

HashKind = Literal["sha256", "samples"]
HASH_KINDS: tuple[HashKind, ...] = ("sha256", "samples")

_SAMPLES, _BLOCK = 64, 1 << 16


def file_digest(path: pathlib.Path, kind: HashKind) -> str:
    """Return a hex digest of all bytes of a file, or of its size and 64 blocks of 64 KiB.

    The blocks are evenly spaced. They detect another size, order or tokenizer, but perhaps not a
    few flipped bytes.
    """
    if kind == "sha256":
        return file_sha256(path)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(f"samples:{_SAMPLES}x{_BLOCK}:{size}".encode())
        spare = max(size - _BLOCK, 0)
        for number in range(_SAMPLES if spare else 1):
            file.seek(spare * number // max(_SAMPLES - 1, 1))
            digest.update(file.read(_BLOCK))
        return digest.hexdigest()


_ROWS_PER_FILE = 8  # with more rows, reading a file's rows at once is faster than one by one


class TokenFile(NamedTuple):
    """A file of `tokens` token ids, the first at byte `offset`."""

    path: pathlib.Path
    offset: int
    tokens: int


class Windows:
    """The windows of several files, in order. Each file is cut by itself, its remainder dropped."""

    def __init__(self, files: Sequence[TokenFile], dtype: str, length: int) -> None:
        if length < 1:
            raise ValueError(f"a window needs at least one token, not {length}")
        files = [file for file in files if file.tokens >= length]
        self.length = length
        self.starts = np.cumsum([0, *(file.tokens // length for file in files)])
        self.total = int(self.starts[-1])
        with _more_open_files(len(files)):
            self._mapped = [
                map_tokens(file.path, dtype, file.offset, (file.tokens // length, length))
                for file in files
            ]

    def read(self, indices_n: np.ndarray) -> np.ndarray:
        """Return these windows (int64[n]) as a new int32[n, length]."""
        tokens_nxL = np.empty((len(indices_n), self.length), np.int32)
        self.write(indices_n, tokens_nxL, np.arange(len(indices_n)))
        return tokens_nxL

    def write(self, indices_n: np.ndarray, out_NxL: np.ndarray, rows_n: np.ndarray) -> None:
        """Write these windows (int64[n]) into these rows (int64[n]) of int32[N, length]."""
        if indices_n.size and not 0 <= indices_n.min() <= indices_n.max() < self.total:
            raise ValueError(
                f"windows {indices_n.min()} to {indices_n.max()} are out of range: there are "
                f"{self.total} of {self.length} tokens"
            )
        self._write(indices_n, out_NxL, rows_n)

    def _write(self, indices_n: np.ndarray, out_NxL: np.ndarray, rows_n: np.ndarray) -> None:
        file_n = self.starts.searchsorted(indices_n, side="right") - 1
        inside_n = indices_n - self.starts[file_n]
        if len(indices_n) <= _ROWS_PER_FILE * len(self._mapped):
            places = rows_n.tolist(), file_n.tolist(), inside_n.tolist()
            for row, file, inside in zip(*places, strict=True):
                out_NxL[row] = self._mapped[file][inside]
            return
        by_file = np.argsort(file_n, kind="stable")
        for chosen in np.split(by_file, np.flatnonzero(np.diff(file_n[by_file])) + 1):
            windows_cxL = self._mapped[file_n[chosen[0]]].take(inside_n[chosen], axis=0)
            out_NxL[rows_n[chosen]] = windows_cxL


class ReorderedWindows(Windows):
    """Window w is the one whose number `order`, an integer array, has at w."""

    def __init__(
        self, files: Sequence[TokenFile], dtype: str, length: int, order: np.ndarray
    ) -> None:
        super().__init__(files, dtype, length)
        self._order, self.total = order, len(order)

    def _write(self, indices_n: np.ndarray, out_NxL: np.ndarray, rows_n: np.ndarray) -> None:
        super()._write(self._order[indices_n].astype(np.int64), out_NxL, rows_n)


@contextlib.contextmanager
def _more_open_files(files: int) -> Iterator[None]:
    """Raise the limit of open files by that many: each mapping counts, and 1,024 is common.

    Raises OSError, with what to set, where the machine allows no more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = soft + files if hard == resource.RLIM_INFINITY else min(soft + files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            f"{files} token files are mapped at once, and only {hard} files may be open: raise "
            f"the limit (ulimit -Hn), or make fewer shards (Prepare.shard_characters)"
        ) from error


def map_tokens(
    path: pathlib.Path, dtype: str, offset: int = 0, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Map raw little-endian values of a file into memory, read-only, from byte `offset` on.

    The result is a plain array, since indexing an np.memmap costs a microsecond more.
    """
    return np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", offset, shape))


Split = Literal["train", "reserve"]
SPLITS: tuple[Split, ...] = ("train", "reserve")
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
ANOTHER_FOLDER = "use another --workdir, or remove that folder"
"""What to do about a corpus of another config."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of little-endian token ids, in which EOS follows every document.

    In a corpus with a numbering the name is an absolute path and the split is "all".
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
    """A file of instance numbers, which gives windows the order and the splits of another run.

    Each shard by itself is cut into instances of `length` tokens. Window w of training is instance
    file[first + w], window w of the reserve is file[first + train + w]. Instances before `first`
    were trained on already and belong to neither split.
    """

    file: str
    dtype: str
    offset: int
    windows: int
    sha256: str
    length: int
    first: int
    train: int
    digest: HashKind
    """How the `sha256` of this file and of the shards was computed (see `file_digest`)."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The description of a corpus; written last, so a folder with a manifest is complete."""

    version: int
    dtype: str
    vocab_size: int
    vocabulary: str
    """sha256 of tokenizer.json."""
    eos_id: int
    reserved_ids: tuple[int, int]
    """[start, stop) of the ids that occur in no shard."""
    documents: dict[str, int]
    source: str
    text: str
    """sha256 of the source's documents."""
    config: dict[str, Any]
    """The identity of the Prepare or OlmoCorpus that made it."""
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
        fields = parse_json(content, "it", dict[str, Any])
        if fields.get("version") != 1:
            raise ValueError(f"its version is {fields.get('version')!r}, expected 1")
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        fields["reserved_ids"] = tuple(fields["reserved_ids"])
        if "numbering" in fields:
            fields["numbering"] = Numbering(**fields["numbering"])
        return cls(**fields)


class Corpus:
    """The windows of a prepared corpus. Pickled as its path; shards are mapped on first use."""

    def __init__(self, folder: pathlib.Path, content: bytes) -> None:
        self.folder = folder
        self.manifest = Manifest.from_bytes(content)
        self.fingerprint: str = hashlib.sha256(content).hexdigest()
        self.vocab_size: int = self.manifest.vocab_size
        self.eos_id: int = self.manifest.eos_id
        self._tables: dict[tuple[Split, int], Windows] = {}

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], verify: bool = True, pull: bool = True
    ) -> "Corpus":
        """Open a corpus that `ttoaa.prepare` made.

        That of a study in a bucket is copied first, with `pull`.

        Raises ValueError, naming the file, where the corpus is missing or unfinished, or the size
        of a shard or, with `verify`, its sha256 is not that in the manifest.
        """
        folder = pathlib.Path(folder)
        if pull:
            bucket.pull(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"no finished corpus in {folder}: run python -m ttoaa.prepare")
        try:
            corpus = cls(folder, path.read_bytes())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a corpus manifest: {error}") from error
        corpus._check(verify)
        return corpus

    def __reduce__(self) -> tuple[Any, ...]:
        return Corpus.open, (self.folder, False, False)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self.folder / TOKENIZER, self.vocab_size, self.eos_id)

    @property
    def in_order(self) -> bool:
        """Whether the first epoch trains on the windows in the order of their numbers."""
        return self.manifest.numbering is not None

    def num_windows(self, split: Split, length: int) -> int:
        """Return the number of windows of `length` tokens in a split; none crosses a shard."""
        return self._windows(split, length).total

    def windows(self, split: Split, indices: np.ndarray, length: int) -> np.ndarray:
        """Return the windows with these numbers (int64[n]) as a new int32[n, length]."""
        return self._windows(split, length).read(np.asarray(indices, np.int64))

    def write_windows(
        self, split: Split, indices: np.ndarray, tokens_BxL: np.ndarray, rows: np.ndarray
    ) -> None:
        """Write these windows (int64[n]) into these rows (int64[n]) of int32[B, L], in place."""
        table = self._windows(split, tokens_BxL.shape[1])
        table.write(np.asarray(indices, np.int64), tokens_BxL, np.asarray(rows, np.int64))

    def describe(self) -> str:
        """Describe the size of each split in one line."""
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
            table = self._reordered(split, length) if self.in_order else self._cut(split, length)
            self._tables[split, length] = table
        return table

    def _cut(self, split: str, length: int) -> Windows:
        shards = [shard for shard in self.manifest.shards if shard.split == split]
        return Windows(self._files(shards), self.manifest.dtype, length)

    def _reordered(self, split: Split, length: int) -> Windows:
        numbering = self.manifest.numbering
        assert numbering is not None
        if length != numbering.length:
            raise ValueError(
                f"{self.folder} has windows of {numbering.length} tokens, the instances of its "
                f"order file, not of {length}: set Geometry.length to {numbering.length}"
            )
        path, split_at = self.folder / numbering.file, numbering.first + numbering.train
        order = map_tokens(path, numbering.dtype, numbering.offset, (numbering.windows,))
        order = order[split_at:] if split == "reserve" else order[numbering.first : split_at]
        return ReorderedWindows(
            self._files(self.manifest.shards), self.manifest.dtype, length, order
        )

    def _files(self, shards: Sequence[Shard]) -> list[TokenFile]:
        return [TokenFile(self.folder / s.name, s.offset, s.tokens) for s in shards]

    def _check(self, verify: bool) -> None:
        """Raise ValueError for a file whose size, or with `verify` whose digest, is wrong."""
        size, numbering = np.dtype(self.manifest.dtype).itemsize, self.manifest.numbering
        expected = [(s.name, s.offset + s.tokens * size, s.sha256) for s in self.manifest.shards]
        kind: HashKind = "sha256"
        if numbering is not None:
            bytes_ = numbering.offset + numbering.windows * np.dtype(numbering.dtype).itemsize
            expected.append((numbering.file, bytes_, numbering.sha256))
            kind = numbering.digest
        for name, bytes_, digest in expected:
            path = self.folder / name
            if not path.is_file():
                raise ValueError(f"{path} is missing: restore it, or prepare the corpus again")
            if path.stat().st_size != bytes_:
                raise ValueError(
                    f"{path} has {path.stat().st_size} bytes, its manifest says {bytes_}: "
                    f"restore it, or prepare the corpus again"
                )
            if verify and file_digest(path, kind) != digest:
                raise ValueError(
                    f"{path} is damaged (its sha256 differs from the manifest's): "
                    f"restore it, or prepare the corpus again"
                )
        path = self.folder / TOKENIZER
        if not path.is_file() or file_sha256(path) != self.manifest.vocabulary:
            raise ValueError(f"{path} differs from the tokenizer in the manifest: restore it")
