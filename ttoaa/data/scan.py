"""Where a set of token sequences occurs in a corpus, piece by piece; a finished piece is kept.

What is searched for, and how, is `scan_patterns`. NumPy lets go of Python's lock in long passes, so
threads search as many pieces at once as there are cores.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from tqdm import tqdm

from ttoaa.data.corpus import Corpus, Split
from ttoaa.data.scan_patterns import Found, Patterns
from ttoaa.workdir import writing

_PIECE = 1 << 27  # tokens: some seconds of work
_BLOCK = 1 << 20  # tokens read at a time


@dataclasses.dataclass(frozen=True)
class Occurrences:
    """Sorted by (where, pattern)."""

    where: np.ndarray
    """int64[k]: window * length + offset, or the token's number in the running stream."""
    pattern: np.ndarray
    """int64[k]: the number of the pattern that begins there."""

    def save(self, path: pathlib.Path) -> None:
        with writing(path) as file:
            np.save(file, np.stack([self.where, self.pattern]).astype("<i8"))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Occurrences":
        try:
            where, pattern = np.load(path)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged: remove it, and the scan is done anew") from error
        return cls(where, pattern)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Tokens start <= i < stop at which an occurrence may begin, counted as in `Occurrences`."""

    split: Split
    start: int
    stop: int


def pieces(
    corpus: Corpus, split: Split, length: int | None, stop: int | None = None
) -> list[Piece]:
    """The work of a scan up to `stop`: what is done at once, and kept when done."""
    total, size = _total(corpus, split, length), _whole(_PIECE, length)
    total = total if stop is None else min(total, stop)
    return [Piece(split, i, min(i + size, total)) for i in range(0, total, size)]


def scan_piece(
    corpus: Corpus | str | os.PathLike[str],
    piece: Piece,
    patterns: Patterns | str | os.PathLike[str],
    length: int | None,
) -> Found:
    """(where, pattern) of the occurrences that begin in the piece; all arguments pickle.

    With a length, only what lies inside one window of so many tokens; without, whatever the split
    has as one running stream, across the borders of its shards too.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus, verify=False)
    patterns = patterns if isinstance(patterns, Patterns) else _loaded(os.fspath(patterns))
    overlap, size, parts = 0 if length else patterns.longest - 1, _whole(_BLOCK, length), []
    for start in range(piece.start, piece.stop, size):
        stop = min(start + size, piece.stop)
        where, pattern = patterns.find(_read(corpus, piece.split, start, stop + overlap, length))
        if length:
            inside = where % length + patterns.lengths[pattern] <= length
        else:
            inside = where < stop - start
        parts.append((where[inside] + start, pattern[inside]))
    found = merge(parts)
    return found.where, found.pattern


def merge(parts: Iterable[Found]) -> Occurrences:
    """The results of all pieces, in whatever order they come."""
    whole = [(np.empty(0, np.int64), np.empty(0, np.int64)), *parts]
    where, pattern = (np.concatenate(column) for column in zip(*whole, strict=True))
    order = np.lexsort((pattern, where))
    return Occurrences(where[order], pattern[order])


def scan_path(
    corpus: Corpus,
    split: Split,
    patterns: Patterns,
    length: int | None,
    stop: int | None = None,
) -> pathlib.Path:
    """Where the result is kept: it is named by all that it follows from."""
    key = f"{corpus.fingerprint} {split} {patterns.fingerprint} {length} {stop}"
    return corpus.folder / "scans" / f"{hashlib.sha256(key.encode()).hexdigest()}.npy"


def scan(
    corpus: Corpus,
    split: Split,
    patterns: Patterns,
    length: int | None = None,
    stop: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Occurrences:
    """Every occurrence in a split (see `scan_piece`); found again where it was scanned before.

    `stop`, in whole windows, is the token before which an occurrence begins. What a killed scan had
    finished is not done again. `workers` is by default a thread a core.
    """
    path = scan_path(corpus, split, patterns, length, stop)
    if path.exists():
        return Occurrences.load(path)
    work = pieces(corpus, split, length, stop)
    kept = path.with_suffix(".parts")

    def part(piece: Piece) -> tuple[Piece, Occurrences]:
        done = kept / f"{piece.start}-{piece.stop}.npy"
        with contextlib.suppress(FileNotFoundError):
            return piece, Occurrences.load(done)
        found = merge([scan_piece(corpus, piece, patterns, length)])
        with contextlib.suppress(FileNotFoundError):  # another process was faster, and cleaned up
            found.save(done)
        return piece, found

    total = sum(piece.stop - piece.start for piece in work)
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    bar = tqdm(total=total, unit="tok", unit_scale=True, desc="scan", disable=not progress)
    with bar, pool:
        parts = []
        try:
            for future in as_completed([pool.submit(part, piece) for piece in work]):
                piece, found = future.result()
                parts.append((found.where, found.pattern))
                bar.update(piece.stop - piece.start)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = merge(parts)
    found.save(path)
    shutil.rmtree(kept, ignore_errors=True)
    return found


def _total(corpus: Corpus, split: Split, length: int | None) -> int:
    """Tokens of the windows, or of the running stream."""
    if length:
        return corpus.num_windows(split, length) * length
    if corpus.manifest.numbering is not None:
        raise ValueError(f"{corpus.folder} has windows in the order of a file, and no stream")
    return sum(shard.tokens for shard in corpus.manifest.shards if shard.split == split)


def _whole(tokens: int, length: int | None) -> int:
    """As many tokens in whole windows; one at least."""
    return max(tokens - tokens % length, length) if length else tokens


def _read(corpus: Corpus, split: Split, start: int, stop: int, length: int | None) -> np.ndarray:
    """int[stop - start], or what there is of it."""
    if length:
        return corpus.windows(split, np.arange(start // length, stop // length), length).ravel()
    stored, first, parts = np.dtype(corpus.manifest.dtype).newbyteorder("<"), 0, []
    for shard in corpus.manifest.shards:
        if shard.split == split:
            if first < stop and first + shard.tokens > start:
                tokens = np.memmap(corpus.folder / shard.name, stored, "r")
                parts.append(tokens[max(0, start - first) : stop - first])
            first += shard.tokens
    return np.concatenate(parts)


@functools.lru_cache(maxsize=1)
def _loaded(path: str) -> Patterns:
    return Patterns.load(path)
