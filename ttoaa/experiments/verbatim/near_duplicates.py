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
from ttoaa.planning.removal import scan_run

SEED = 8
"""Tokens that a near-duplicate must share with the text in one piece, at `_FEWEST` places at least:
what differs is in few places, as a word, a number or a line."""
_FEWEST = 2
_TOKENS = 1 << 20  # compared at a time
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
    seeds = [np.lib.stride_tricks.sliding_window_view(text, SEED) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(each) for each in seeds])
    found = scan_run(corpus, order, geometry, Patterns(list(np.concatenate(seeds))))
    rare = np.bincount(found.pattern, minlength=len(owner)) <= _COMMON
    kept = rare[found.pattern]
    window, text = found.where[kept] // geometry.length, owner[found.pattern[kept]]
    pairs, count = np.unique(np.stack([text, window]), axis=1, return_counts=True)
    pairs = pairs[:, count >= _FEWEST]
    windows, inverse = np.unique(pairs[1], return_inverse=True)
    positions, which = order.positions(windows, geometry.sequences)
    positions = positions[np.argsort(which, kind="stable")]
    ends = np.cumsum(np.bincount(which, minlength=len(windows)))
    result: list[list[np.ndarray]] = [[np.empty(0, np.int64)] for _ in texts]
    for number, place in zip(pairs[0].tolist(), inverse.tolist(), strict=True):
        result[number].append(positions[ends[place - 1] if place else 0 : ends[place]])
    return [np.sort(np.concatenate(each)) for each in result]


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
