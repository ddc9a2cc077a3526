"""A set of token sequences, compiled so that every place where one stands is found fast.

Only every s-th token of the text is probed, with the hash of w tokens: an occurrence of m tokens or
more, m >= s + w - 1, holds a probe at one of s offsets. A table of bits says which probes can be in
a pattern; around those few all windows of m tokens are hashed (Karp & Rabin, 1987), and what has
the hash of a pattern is compared with it token by token: nothing is missed and nothing false told.

Where a set of token sequences occurs in a corpus, piece by piece; a finished piece is kept.

What is searched for, and how, is `scan_patterns`. NumPy lets go of Python's lock in long passes, so
threads search as many pieces at once as there are cores.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
from tqdm import tqdm

from ttoaa.data.corpus import Corpus, Split
from ttoaa.workdir import atomic_writer

Found = tuple[np.ndarray, np.ndarray]
"""(where int64[k], pattern int64[k])."""

_BASE = 0xD6E8FEB86659FD93
_MASK = 2**64 - 1
_PROBED = 1 << 20  # tokens probed at a time: the passes over them stay in the caches
_AROUND = 1 << 17  # tokens looked at closely at a time
_SHORTEST, _LONGEST = 8, 32  # tokens of a probe: fewer are common in text, more cost time


class Patterns:
    """Sequences of at least one token each, which may be equal or parts of one another."""

    def __init__(self, sequences: Sequence[np.ndarray]) -> None:
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        if not len(lengths) or not lengths.min():
            raise ValueError("a scan needs patterns, each of at least one token")
        self._compile(np.concatenate(sequences), lengths)

    def _compile(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        if tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max() < 2**32:
            raise ValueError("patterns must be token ids, from 0 to 2**32 - 1")
        self.tokens, self.lengths = tokens.astype(np.uint32), lengths
        self._starts = np.cumsum(lengths) - lengths
        self._m = int(lengths.min())
        self._w = min(self._m, max(_SHORTEST, min(_LONGEST, self._m // 3)))
        self._s = min(self._m - self._w + 1, _LONGEST)
        self._probes, self._wholes = _Bits(len(lengths) * self._s), _Bits(len(lengths))
        hashes = np.empty(len(lengths), np.uint64)
        step = max(1, _AROUND // self._m)
        for first in range(0, len(lengths), step):
            part = slice(first, first + step)
            head = self.tokens[self._starts[part, None] + np.arange(self._m)].astype(np.uint64)
            hashes[part] = _hashes(head, self._m)[:, 0]
            self._probes.add(_hashes(head[:, : self._s + self._w - 1], self._w).ravel())
        self._order = np.argsort(hashes, kind="stable")
        self._hashes, groups = np.unique(hashes[self._order], return_index=True)
        self._groups = np.append(groups, len(hashes))  # equal ones stand together in the order
        self._wholes.add(self._hashes)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.lengths.astype("<i8").data)
        digest.update(self.tokens.astype("<u4").data)
        return digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled, (self.tokens, self.lengths)

    def save(self, path: str | os.PathLike[str]) -> None:
        with atomic_writer(pathlib.Path(path)) as file:
            np.savez(file, tokens=self.tokens, lengths=self.lengths)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Patterns":
        """Raises ValueError for a file that `save` did not write, OSError for none."""
        try:
            with np.load(path) as saved:
                tokens, lengths = saved["tokens"], saved["lengths"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no patterns, or is damaged: {error}") from error
        return _compiled(tokens, lengths)

    def find(self, tokens: np.ndarray) -> Found:
        """Every (where, pattern) at which a pattern stands in int[n], ascending."""
        parts = [
            self._verify(tokens, *pairs)
            for probes in self._candidates(tokens)
            for pairs in self._look_around(tokens, probes)
        ]
        where, pattern = (np.concatenate([np.empty(0, np.int64), *p]) for p in _columns(parts))
        order = np.lexsort((pattern, where))
        return where[order], pattern[order]

    def _candidates(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """int64[c] places of probes that may be in a pattern, a block at a time."""
        s, w = self._s, self._w
        count = (len(tokens) - w) // s + 1 if len(tokens) >= w else 0
        step = max(1, _PROBED // s)
        for first in range(0, count, step):
            n = min(step, count - first)
            block = np.asarray(tokens[first * s : (first + n - 1) * s + w])
            block = block.view(block.dtype.str.replace("i", "u"))  # uint64 takes no signed ones
            probes_nxw = np.lib.stride_tricks.sliding_window_view(block, w)[::s]
            hashes = np.zeros(n, np.uint64)
            for column in probes_nxw.T[::-1]:
                hashes += column
                hashes *= np.uint64(_BASE)
            yield (first + np.flatnonzero(self._probes.may_hold(hashes))) * s

    def _look_around(self, tokens: np.ndarray, probes: np.ndarray) -> Iterator[Found]:
        """(where, pattern) that have the same hash, of the windows that hold these probes."""
        span = self._s - 1 + self._m
        if len(tokens) < span:
            tokens = np.pad(tokens, (0, span - len(tokens)))
        windows = np.lib.stride_tricks.sliding_window_view(tokens, span)
        step = max(1, _AROUND // span)
        for first in range(0, len(probes), step):
            probe = probes[first : first + step]
            begin = np.clip(probe - (self._s - 1), 0, len(tokens) - span)
            hashes = _hashes(windows[begin].astype(np.uint64), self._m)
            row, column = np.nonzero(self._wholes.may_hold(hashes))
            hashes, where, probe = hashes[row, column], begin[row] + column, probe[row]
            group = np.searchsorted(self._hashes[:-1], hashes)
            known = (self._hashes[group] == hashes) & (where <= probe) & (where > probe - self._s)
            group, where = group[known], where[known]
            low, count = self._groups[group], self._groups[group + 1] - self._groups[group]
            yield np.repeat(where, count), self._order[np.repeat(low, count) + _counted(count)]

    def _verify(self, tokens: np.ndarray, where: np.ndarray, pattern: np.ndarray) -> Found:
        """Those that are equal in every token."""
        whole = where + self.lengths[pattern] <= len(tokens)
        where, pattern = where[whole], pattern[whole]
        lengths = self.lengths[pattern]
        equal = np.ones(len(where), bool)
        for part in _parts(lengths, _PROBED):
            inner, size = _counted(lengths[part]), lengths[part]
            theirs = self.tokens[np.repeat(self._starts[pattern[part]], size) + inner]
            same = tokens[np.repeat(where[part], size) + inner] == theirs
            equal[part] = np.logical_and.reduceat(same, np.cumsum(size) - size)
        return where[equal], pattern[equal]


class _Bits:
    """A table that says of most hashes that they were not added (Bloom, 1970), three bits for each.

    All are in one word of 64, so a look-up misses the caches once.
    """

    def __init__(self, hashes: int) -> None:
        self._bits = max(6, (hashes // 4).bit_length())  # 2 to 4 hashes a word
        self._words = np.zeros(1 << self._bits, np.uint64)

    def add(self, hashes: np.ndarray) -> None:
        np.bitwise_or.at(self._words, *self._where(hashes))

    def may_hold(self, hashes: np.ndarray) -> np.ndarray:
        """bool[...]: True for all that were added and few in a thousand of the others."""
        word, mask = self._where(hashes)
        return (self._words[word] & mask) == mask

    def _where(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros_like(hashes)
        for shift in (58, 52, 46):
            bit = (hashes >> np.uint64(shift - self._bits)) & np.uint64(63)
            mask |= np.uint64(1) << bit
        return (hashes >> np.uint64(64 - self._bits)).astype(np.int64), mask


def _compiled(tokens: np.ndarray, lengths: np.ndarray) -> Patterns:
    patterns = Patterns.__new__(Patterns)
    patterns._compile(tokens, lengths)
    return patterns


def _hashes(text_cxn: np.ndarray, width: int) -> np.ndarray:
    """uint64[c, n - width + 1]: sum of token i times base ** (i + 1), of every window."""
    n = text_cxn.shape[1]
    sums = np.zeros((len(text_cxn), n + 1), np.uint64)
    np.cumsum(text_cxn * _powers(_BASE, n), axis=1, out=sums[:, 1:])
    inverse = _powers(pow(_BASE, -1, _MASK + 1), n - width + 1)
    return (sums[:, width:] - sums[:, : n - width + 1]) * inverse * np.uint64(_BASE)


@functools.cache
def _powers(base: int, count: int) -> np.ndarray:
    """uint64[count]: base ** 0, 1, 2, … modulo 2 ** 64."""
    return np.array([pow(base, i, _MASK + 1) for i in range(count)], np.uint64)


def _counted(counts: np.ndarray) -> np.ndarray:
    """0 .. counts[0] - 1, 0 .. counts[1] - 1, …"""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _parts(lengths: np.ndarray, most: int) -> Iterator[slice]:
    """Cuts a row of lengths (each > 0) into parts of about `most` in sum."""
    group = (np.cumsum(lengths) - lengths) // most
    borders = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(lengths)]
    for first, last in itertools.pairwise(borders):
        if first < last:
            yield slice(first, last)


def _columns(parts: Sequence[Found]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [where for where, _ in parts], [pattern for _, pattern in parts]


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
        with atomic_writer(path) as file:
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
