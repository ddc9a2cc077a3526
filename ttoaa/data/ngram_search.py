"""Search a corpus for every occurrence of a set of token sequences, the patterns.

Only every s-th token is probed, by the hash of w tokens. The shortest pattern has m >= s + w - 1
tokens, so every occurrence holds a probe, at one of s offsets. A Bloom filter selects the probes
that may be in a pattern. Around those few, all windows of m tokens are hashed (Karp & Rabin, 1987),
and where the hash is that of a pattern, all its tokens are compared: the result is exact.

A scan runs piece by piece and saves each finished piece. NumPy releases Python's lock in long
operations, so threads search as many pieces at once as there are cores.
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

from ttoaa.checksums import read_array, write_array
from ttoaa.data.corpus import Corpus, Split, map_tokens
from ttoaa.progress import progress_bar
from ttoaa.workdir import atomic_writer

Found = tuple[np.ndarray, np.ndarray]
"""(where int64[k], pattern int64[k])."""

_BASE = 0xD6E8FEB86659FD93
_MASK = 2**64 - 1
_PROBED = 1 << 20  # tokens probed at a time: they stay in the caches
_AROUND = 1 << 17  # tokens hashed in all windows at a time
_SHORTEST, _LONGEST = 8, 32  # tokens of a probe: short ones are common, long ones slow


class Patterns:
    """Token sequences to search for, of at least one token; may be equal or contain each other."""

    def __init__(self, sequences: Sequence[np.ndarray]) -> None:
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        if not len(lengths) or not lengths.min():
            raise ValueError("a scan needs patterns of at least one token each")
        self._compile(np.concatenate(sequences), lengths)

    def _compile(self, tokens: np.ndarray, lengths: np.ndarray) -> None:
        if tokens.dtype.kind not in "iu" or not 0 <= tokens.min() <= tokens.max() < 2**32:
            raise ValueError("patterns must be token ids, from 0 to 2**32 - 1")
        self.tokens, self.lengths = tokens.astype(np.uint32), lengths
        self._starts = np.cumsum(lengths) - lengths
        self._m = int(lengths.min())
        self._w = min(self._m, max(_SHORTEST, min(_LONGEST, self._m // 3)))
        self._s = min(self._m - self._w + 1, _LONGEST)
        self._probes = _BloomFilter(len(lengths) * self._s)
        self._wholes = _BloomFilter(len(lengths))
        hashes = np.empty(len(lengths), np.uint64)
        step = max(1, _AROUND // self._m)
        for first in range(0, len(lengths), step):
            part = slice(first, first + step)
            head = self.tokens[self._starts[part, None] + np.arange(self._m)].astype(np.uint64)
            hashes[part] = window_hashes(head, self._m)[:, 0]
            self._probes.add(window_hashes(head[:, : self._s + self._w - 1], self._w).ravel())
        self._order = np.argsort(hashes, kind="stable")
        self._hashes, groups = np.unique(hashes[self._order], return_index=True)
        self._groups = np.append(groups, len(hashes))  # equal hashes are adjacent in the order
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
        return _compile_patterns, (self.tokens, self.lengths)

    def save(self, path: str | os.PathLike[str]) -> None:
        with atomic_writer(pathlib.Path(path)) as file:
            np.savez(file, tokens=self.tokens, lengths=self.lengths)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Patterns":
        """Raises ValueError for a file that `save` did not write, OSError for a missing one."""
        try:
            with np.load(path) as saved:
                tokens, lengths = saved["tokens"], saved["lengths"]
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} has no patterns, or is damaged: {error}") from error
        return _compile_patterns(tokens, lengths)

    def find(self, tokens: np.ndarray) -> Found:
        """Find every (where, pattern) in int[n] tokens, ascending."""
        parts = [
            self._verify(tokens, *pairs)
            for probes in self._candidates(tokens)
            for pairs in self._match_hashes(tokens, probes)
        ]
        where, pattern = (np.concatenate([np.empty(0, np.int64), *p]) for p in _columns(parts))
        order = np.lexsort((pattern, where))
        return where[order], pattern[order]

    def _candidates(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the places, int64[c], of probes that may be in a pattern, a block at a time."""
        s, w = self._s, self._w
        count = (len(tokens) - w) // s + 1 if len(tokens) >= w else 0
        step = max(1, _PROBED // s)
        for first in range(0, count, step):
            n = min(step, count - first)
            block = np.asarray(tokens[first * s : (first + n - 1) * s + w])
            block = block.view(block.dtype.str.replace("i", "u"))  # uint64 cannot add signed ones
            probes_nxw = np.lib.stride_tricks.sliding_window_view(block, w)[::s]
            hashes = np.zeros(n, np.uint64)
            for column in probes_nxw.T[::-1]:
                hashes += column
                hashes *= np.uint64(_BASE)
            yield (first + np.flatnonzero(self._probes.may_hold(hashes))) * s

    def _match_hashes(self, tokens: np.ndarray, probes: np.ndarray) -> Iterator[Found]:
        """Yield (where, pattern) with equal hashes, among the windows that hold these probes."""
        span = self._s - 1 + self._m
        if len(tokens) < span:
            tokens = np.pad(tokens, (0, span - len(tokens)))
        windows = np.lib.stride_tricks.sliding_window_view(tokens, span)
        step = max(1, _AROUND // span)
        for first in range(0, len(probes), step):
            probe = probes[first : first + step]
            begin = np.clip(probe - (self._s - 1), 0, len(tokens) - span)
            hashes = window_hashes(windows[begin].astype(np.uint64), self._m)
            row, column = np.nonzero(self._wholes.may_hold(hashes))
            hashes, where, probe = hashes[row, column], begin[row] + column, probe[row]
            group = np.searchsorted(self._hashes[:-1], hashes)
            known = (self._hashes[group] == hashes) & (where <= probe) & (where > probe - self._s)
            group, where = group[known], where[known]
            low, count = self._groups[group], self._groups[group + 1] - self._groups[group]
            yield np.repeat(where, count), self._order[np.repeat(low, count) + _ranges(count)]

    def _verify(self, tokens: np.ndarray, where: np.ndarray, pattern: np.ndarray) -> Found:
        """Keep the matches in which all tokens are equal."""
        whole = where + self.lengths[pattern] <= len(tokens)
        where, pattern = where[whole], pattern[whole]
        lengths = self.lengths[pattern]
        equal = np.ones(len(where), bool)
        for part in _parts(lengths, _PROBED):
            inner, size = _ranges(lengths[part]), lengths[part]
            theirs = self.tokens[np.repeat(self._starts[pattern[part]], size) + inner]
            same = tokens[np.repeat(where[part], size) + inner] == theirs
            equal[part] = np.logical_and.reduceat(same, np.cumsum(size) - size)
        return where[equal], pattern[equal]


class _BloomFilter:
    """A Bloom filter (1970) with three bits per hash, all in one 64-bit word: one cache miss."""

    def __init__(self, hashes: int) -> None:
        self._bits = max(6, (hashes // 4).bit_length())  # 2 to 4 hashes a word
        self._words = np.zeros(1 << self._bits, np.uint64)

    def add(self, hashes: np.ndarray) -> None:
        np.bitwise_or.at(self._words, *self._where(hashes))

    def may_hold(self, hashes: np.ndarray) -> np.ndarray:
        """Return bool[...]: True for all hashes added, and for a few in a thousand others."""
        word, mask = self._where(hashes)
        return (self._words[word] & mask) == mask

    def _where(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros_like(hashes)
        for shift in (58, 52, 46):
            bit = (hashes >> np.uint64(shift - self._bits)) & np.uint64(63)
            mask |= np.uint64(1) << bit
        return (hashes >> np.uint64(64 - self._bits)).astype(np.int64), mask


def _compile_patterns(tokens: np.ndarray, lengths: np.ndarray) -> Patterns:
    patterns = Patterns.__new__(Patterns)
    patterns._compile(tokens, lengths)
    return patterns


def window_hashes(text_cxn: np.ndarray, width: int) -> np.ndarray:
    """Hash every window, uint64[c, n - width + 1]: the sum of token i times base ** (i + 1)."""
    n = text_cxn.shape[1]
    sums = np.zeros((len(text_cxn), n + 1), np.uint64)
    np.cumsum(text_cxn * _powers(_BASE, n), axis=1, out=sums[:, 1:])
    inverse = _powers(pow(_BASE, -1, _MASK + 1), n - width + 1)
    return (sums[:, width:] - sums[:, : n - width + 1]) * inverse * np.uint64(_BASE)


@functools.cache
def _powers(base: int, count: int) -> np.ndarray:
    """uint64[count]: base ** 0, 1, 2, … modulo 2 ** 64."""
    return np.array([pow(base, i, _MASK + 1) for i in range(count)], np.uint64)


def _ranges(counts: np.ndarray) -> np.ndarray:
    """Return 0 … counts[0] - 1, 0 … counts[1] - 1, …"""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _parts(lengths: np.ndarray, most: int) -> Iterator[slice]:
    """Cut a list of lengths (each > 0) into slices with a sum of about `most`."""
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
    """int64[k]: window * length + offset, or without a length the token's number in the split."""
    pattern: np.ndarray
    """int64[k]: the number of the pattern that begins there."""

    def save(self, path: pathlib.Path) -> None:
        """Write both arrays, with a checksum."""
        write_array(path, np.stack([self.where, self.pattern]).astype("<i8"))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Occurrences | None":
        """Return what `save` wrote; None for a missing or damaged file."""
        found = read_array(path)
        return None if found is None else cls(*found)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a scan: occurrences that begin at start <= where < stop (see `Occurrences`)."""

    split: Split
    start: int
    stop: int


def pieces(
    corpus: Corpus, split: Split, length: int | None, stop: int | None = None
) -> list[Piece]:
    """List the pieces of a scan up to `stop`; each is saved when it is finished."""
    total, size = _count_tokens(corpus, split, length), _round_down(_PIECE, length)
    total = total if stop is None else min(total, stop)
    return [Piece(split, i, min(i + size, total)) for i in range(0, total, size)]


def scan_piece(
    corpus: Corpus | str | os.PathLike[str],
    piece: Piece,
    patterns: Patterns | str | os.PathLike[str],
    length: int | None,
) -> Found:
    """Find the occurrences, (where, pattern), that begin in a piece.

    With a length, only those inside one window of `length` tokens. Without, those in the whole
    split as one stream, across the boundaries of shards too. Corpus and patterns may be paths.
    """
    corpus = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus, verify=False)
    patterns = patterns if isinstance(patterns, Patterns) else _load_patterns(os.fspath(patterns))
    overlap, size, parts = 0 if length else patterns.longest - 1, _round_down(_BLOCK, length), []
    for start in range(piece.start, piece.stop, size):
        stop = min(start + size, piece.stop)
        where, pattern = patterns.find(
            _read_tokens(corpus, piece.split, start, stop + overlap, length)
        )
        if length:
            inside = where % length + patterns.lengths[pattern] <= length
        else:
            inside = where < stop - start
        parts.append((where[inside] + start, pattern[inside]))
    found = merge(parts)
    return found.where, found.pattern


def merge(parts: Iterable[Found]) -> Occurrences:
    """Merge the results of pieces, given in any order."""
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
    """Return the file of a scan's result, named by a hash of all that determines it."""
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
    """Find every occurrence in a split (see `scan_piece`), or load the result of an earlier scan.

    Finished pieces of a killed scan are kept; pieces with damaged results are searched again.

    Args:
        stop: occurrences begin before this token, a multiple of `length`; by default anywhere.
        workers: threads; by default one per core.
    """
    path = scan_path(corpus, split, patterns, length, stop)
    if (made := Occurrences.load(path)) is not None:
        return made
    work = pieces(corpus, split, length, stop)
    parts_folder = path.with_suffix(".parts")

    def search(piece: Piece) -> tuple[Piece, Occurrences]:
        done = parts_folder / f"{piece.start}-{piece.stop}.npy"
        if (made := Occurrences.load(done)) is not None:
            return piece, made
        found = merge([scan_piece(corpus, piece, patterns, length)])
        with contextlib.suppress(FileNotFoundError):  # another process cleaned up already
            found.save(done)
        return piece, found

    total = sum(piece.stop - piece.start for piece in work)
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    hidden = not (progress and total)
    bar = progress_bar(total=total, unit="tok", unit_scale=True, desc="scan", disable=hidden)
    with bar, pool:
        parts = []
        try:
            for future in as_completed([pool.submit(search, piece) for piece in work]):
                piece, found = future.result()
                parts.append((found.where, found.pattern))
                bar.update(piece.stop - piece.start)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = merge(parts)
    found.save(path)
    shutil.rmtree(parts_folder, ignore_errors=True)
    return found


def _count_tokens(corpus: Corpus, split: Split, length: int | None) -> int:
    """Count the tokens of the windows or, without a length, of the split."""
    if length:
        return corpus.num_windows(split, length) * length
    if corpus.manifest.numbering is not None:
        raise ValueError(f"{corpus.folder} has windows in the order of a file: scan with a length")
    return sum(shard.tokens for shard in corpus.manifest.shards if shard.split == split)


def _round_down(tokens: int, length: int | None) -> int:
    """Return that many tokens, rounded down to whole windows, but at least one window."""
    return max(tokens - tokens % length, length) if length else tokens


def _read_tokens(
    corpus: Corpus, split: Split, start: int, stop: int, length: int | None
) -> np.ndarray:
    """Read int[stop - start], or less at the end of the split."""
    if length:
        return corpus.windows(split, np.arange(start // length, stop // length), length).ravel()
    first, parts = 0, []
    for shard in corpus.manifest.shards:
        if shard.split == split:
            if first < stop and first + shard.tokens > start:
                tokens = map_tokens(corpus.folder / shard.name, corpus.manifest.dtype)
                parts.append(tokens[max(0, start - first) : stop - first])
            first += shard.tokens
    return np.concatenate(parts)


@functools.lru_cache(maxsize=1)
def _load_patterns(path: str) -> Patterns:
    return Patterns.load(path)
