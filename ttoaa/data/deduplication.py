"""Find texts that repeat an earlier one, whole or for the most part, by shared n-grams of words."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

COMMON = 16
"""Texts listed for an n-gram; further ones with it are compared with these only."""


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """What each of N texts repeats."""

    original: np.ndarray
    """int64[N]: the earlier text that it repeats, which repeats none itself; -1: it is new."""
    share: np.ndarray
    """float64[N]: the share of n-grams in common, 1 for the same text, 0 for a new one."""
    exact: np.ndarray
    """bool[N]: whether it has the same words in the same order as a text before it."""


def find_duplicates(texts: Sequence[str], n: int = 8, threshold: float = 0.5) -> Duplicates:
    """Compare each text with all earlier ones that are kept, in time linear in their words.

    A text repeats another if they have the same words, or if `threshold` of the different n-grams
    of the one with fewer are in the other: a part of a text repeats the whole. Case and white space
    do not count. Of several candidates the one with most in common is named. Matches are exact:
    n-grams are compared, not their hashes. A text of fewer than n words only repeats the same one.
    """
    original, share = np.full(len(texts), -1), np.zeros(len(texts))
    exact = np.zeros(len(texts), bool)
    numbers: dict[str, int] = {}
    whole: dict[bytes, int] = {}
    holders: dict[bytes, list[int]] = {}
    grams_of: dict[int, int] = {}
    for i, text in enumerate(texts):
        ids = [numbers.setdefault(word, len(numbers)) for word in text.lower().split()]
        words = np.array(ids, np.int32)
        same = whole.setdefault(words.tobytes(), i)
        if same != i:
            exact[i] = True
            original[i] = same if original[same] < 0 else original[same]
            share[i] = share[same] if original[same] >= 0 else 1
            continue
        grams = {words[k : k + n].tobytes() for k in range(len(words) - n + 1)}
        common = collections.Counter(j for gram in grams for j in holders.get(gram, ()))
        shares = {j: count / min(len(grams), grams_of[j]) for j, count in common.items()}
        best = max(shares, key=lambda j: (shares[j], -j), default=-1)
        if best >= 0 and shares[best] >= threshold:
            original[i], share[i] = best, shares[best]
            continue
        grams_of[i] = len(grams)
        for gram in grams:
            there = holders.setdefault(gram, [])
            if len(there) < COMMON:
                there.append(i)
    return Duplicates(original, share, exact)
