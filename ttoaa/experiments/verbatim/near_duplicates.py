"""Near-duplicates of texts in the rows of a run: by edit distance, and by normalised text."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.ngram_search import Patterns
from ttoaa.data.order import Order
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.scorer import Scorer
from ttoaa.planning.removal import scan_run

SEED = 8
"""Tokens that a near-duplicate must share with the text in one piece, at `_FEWEST` places at least:
what differs is in few places, as a word, a number or a line."""
_FEWEST = 2
_TOKENS = 1 << 20  # compared at a time
_ROWS = 1024  # read at a time
_COMMON = 200_000  # occurrences beyond which a seed says nothing about a text


class Near(NamedTuple):
    """Near-duplicates of one text, exact copies included."""

    edits: int
    """Stretches that differ from it by few insertions, deletions and substitutions of tokens."""
    normalised: int
    """Stretches that are equal to it but for case, digits and white space."""


def find_rows(
    texts: Sequence[np.ndarray], corpus: Corpus, order: Order, geometry: Geometry
) -> list[np.ndarray]:
    """Return for each text, int[n] with n > `SEED`, the rows of the run that may hold a near one.

    Rows are positions, int64[k] ascending, in all epochs, as the corpus has them.
    """
    found = scan_run(corpus, order, geometry, Patterns(list(np.concatenate(_seeds(texts)))))
    pairs = _sharing(texts, found.pattern, found.where // geometry.length)
    windows, inverse = np.unique(pairs[1], return_inverse=True)
    positions, which = order.positions(windows, geometry.sequences)
    positions = positions[np.argsort(which, kind="stable")]
    ends = np.cumsum(np.bincount(which, minlength=len(windows)))
    result: list[list[np.ndarray]] = [[np.empty(0, np.int64)] for _ in texts]
    for number, place in zip(pairs[0].tolist(), inverse.tolist(), strict=True):
        result[number].append(positions[ends[place - 1] if place else 0 : ends[place]])
    return [np.sort(np.concatenate(each)) for each in result]


def find_edited_rows(texts: Sequence[np.ndarray], model: Scorer) -> list[np.ndarray]:
    """Return as `find_rows` the rows into which an experiment wrote text, as they are trained on.

    These are near-duplicates that items bring in, or that they make with the corpus around them.
    """
    patterns, every = Patterns(list(np.concatenate(_seeds(texts)))), model.edited_rows
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for first in range(0, len(every), _ROWS):
        rows_NxL = model.rows(every[first : first + _ROWS])
        where, pattern = patterns.find(rows_NxL.ravel())
        row, start = np.divmod(where, rows_NxL.shape[1])
        inside = start + SEED <= rows_NxL.shape[1]
        parts.append((pattern[inside], every[first + row[inside]]))
    text, position = _sharing(texts, *(np.concatenate(each) for each in zip(*parts, strict=True)))
    return [position[text == number] for number in range(len(texts))]


def _seeds(texts: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.lib.stride_tricks.sliding_window_view(text, SEED) for text in texts]


def _sharing(texts: Sequence[np.ndarray], seed: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return (text, row), int64[2, k] ascending: the rows that share enough seeds with a text.

    `seed` and `row` are int64[n]: the number of each seed that occurs, and where.
    """
    owner = np.repeat(np.arange(len(texts)), [len(each) for each in _seeds(texts)])
    kept = (np.bincount(seed, minlength=len(owner)) <= _COMMON)[seed]
    found = np.stack([owner[seed[kept]], row[kept]])
    pairs, count = np.unique(found, axis=1, return_counts=True)
    return pairs[:, count >= _FEWEST]


def count_near(text: np.ndarray, rows_NxL: np.ndarray, tokenizer: Tokenizer, edits: float) -> Near:
    """Count near-duplicates of a text, int[n], in rows; `edits` is the share of n that may differ.

    Stretches that overlap by more than half of the text count once.
    """
    if not len(rows_NxL):
        return Near(0, 0)
    count, most = 0, edits * len(text)
    size = max(1, _TOKENS // rows_NxL.shape[1])
    for first in range(0, len(rows_NxL), size):
        near_NxL = edit_distances(text, rows_NxL[first : first + size]) <= most
        count += sum(_count_apart(np.flatnonzero(near), len(text) // 2) for near in near_NxL)
    wanted = normalise(tokenizer.decode(text))
    rows = [normalise(tokenizer.decode(row)) for row in rows_NxL]
    return Near(count, sum(row.count(wanted) for row in rows) if wanted else 0)


def edit_distances(text: np.ndarray, rows_NxL: np.ndarray) -> np.ndarray:
    """Return int64[N, L]: the least edits from a text to any stretch that ends at each token.

    Sellers (1980): insertions, deletions and substitutions of single tokens count one each.
    """
    N, L = rows_NxL.shape
    column = np.arange(L + 1, dtype=np.int32)
    last = np.zeros((N, L + 1), np.int32)
    for i, token in enumerate(np.asarray(text).tolist(), start=1):
        best = last + 1
        best[:, 1:] = np.minimum(best[:, 1:], last[:, :-1] + (rows_NxL != token))
        best[:, 0] = i
        last = np.minimum.accumulate(best - column, axis=1) + column
    return last[:, 1:]


def normalise(text: str) -> str:
    """Lower the case, make every digit 0, and every stretch of white space one space."""
    return " ".join(re.sub(r"\d", "0", text.casefold()).split())


def _count_apart(ends: np.ndarray, apart: int) -> int:
    """Count places that are more than `apart` after the one counted last."""
    count, last = 0, -1 - apart
    for end in ends.tolist():
        if end > last + apart:
            count, last = count + 1, end
    return count
