"""For a few items, the text of another experiment that holds most of each: for a person."""

import numpy as np

from ttoaa.checks.meetings import ngrams
from ttoaa.checks.texts import Texts, counted


def nearest(
    texts: Texts, item: np.ndarray, other: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(int64[m] items, float64[m] containments) for m pairs of an item and an experiment.

    The containment is the share of the item's different n-grams that stand in that one text; the
    text is the inserted one of the experiment that holds most, the first of equals. One pass over
    all texts. Every pair must have an n-gram in common (see `meetings.same_ngrams`).
    """
    asked = _ngrams_of(texts, item, n)
    known, which = np.unique(np.concatenate(asked), return_inverse=True)
    pair = np.repeat(np.arange(len(item)), [*map(len, asked)])
    order = np.argsort(which, kind="stable")
    pair, first = pair[order], np.searchsorted(which[order], np.arange(len(known) + 1))
    best, most = np.full(len(item), -1), np.zeros(len(item), np.int64)
    for items, hashes, owner in ngrams(texts, n):
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hit = np.flatnonzero((known[at] == hashes) & ~texts.held_out[owner + items.start])
        hits = np.unique((owner[hit] + items.start) * len(known) + at[hit])
        whose, ngram = np.divmod(hits, len(known))
        count = first[ngram + 1] - first[ngram]
        whose = np.repeat(whose, count)
        asker = pair[np.repeat(first[ngram], count) + counted(count)]
        fit = texts.experiment[whose] == other[asker]
        met, common = np.unique(asker[fit] * len(texts) + whose[fit], return_counts=True)
        asker, whose = np.divmod(met, len(texts))
        order = np.lexsort((whose, -common, asker))
        top = order[np.flatnonzero(np.diff(asker[order], prepend=-1))]
        better = top[common[top] > most[asker[top]]]
        best[asker[better]], most[asker[better]] = whose[better], common[better]
    return best, most / np.array([len(a) for a in asked])


def _ngrams_of(texts: Texts, item: np.ndarray, n: int) -> list[np.ndarray]:
    """uint64[k] different n-grams of each of these items."""
    return [
        np.unique(np.concatenate([hashes for _, hashes, _ in ngrams(texts.only(np.array([i])), n)]))
        for i in item
    ]
