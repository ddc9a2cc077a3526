"""Which items meet which experiments: what is equal in an item and in texts that are inserted.

What is compared are keys: one for each text (is it the same?) or one for each n-gram (how much of
it is the same?). Cost is linear in keys but for sorting, however often a text repeats by design.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ttoaa.checks.texts import Texts, counted
from ttoaa.data.order import mix64

_KEYS = 1 << 25  # sorted at a time
_PAIRS = 1 << 22  # of (item, experiment) counted at a time
COMMON = 16
"""A key that more experiments have is nobody's mark: it counts for the first of them alone."""


@dataclasses.dataclass(frozen=True)
class Meetings:
    """Pairs of an item and an experiment that inserts something of it, as columns of m rows.

    An item that is inserted meets other experiments only; one that is held out also its own.
    """

    item: np.ndarray
    """int64[m], ascending."""
    other: np.ndarray
    """int64[m]: the experiment that inserts what the item has."""
    common: np.ndarray
    """int64[m]: how many different keys of the item that experiment inserts."""
    example: np.ndarray
    """int64[m]: an item of the other experiment that has one of them."""

    def __len__(self) -> int:
        return len(self.item)

    def where(self, chosen: np.ndarray) -> "Meetings":
        return Meetings(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


def same_texts(texts: Texts) -> Meetings:
    """Items whose whole text another experiment inserts, or their own although held out."""
    order = np.lexsort((np.arange(len(texts)), texts.signature))
    return _combined(texts, list(_meet(texts, texts.signature[order], order)))


def same_ngrams(texts: Texts, n: int) -> tuple[Meetings, np.ndarray]:
    """(meetings by n-grams, int64[items] different n-grams of each; 0 of a shorter text)."""
    total = np.zeros(len(texts), np.int64)
    width = max(1, (len(texts) - 1).bit_length())
    parts = max(1, int(np.maximum(texts.length - n + 1, 0).sum()) // _KEYS)
    found: list[Meetings] = []
    for part in range(parts):
        keys = np.sort(
            np.concatenate([np.empty(0, np.uint64), *_keys(texts, n, width, part, parts)])
        )
        keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]
        item = (keys & np.uint64((1 << width) - 1)).astype(np.int64)
        total += np.bincount(item, minlength=len(texts))
        found.extend(_meet(texts, keys >> np.uint64(width), item))
    return _combined(texts, found), total


def _keys(texts: Texts, n: int, width: int, part: int, parts: int) -> Iterator[np.ndarray]:
    """The n-grams of one part of all hashes: the hash above, the item in the `width` low bits."""
    for items, hashes, owner in ngrams(texts, n):
        mine = hashes % np.uint64(parts) == part
        high = mix64(hashes[mine]) >> np.uint64(width) << np.uint64(width)
        yield high | (owner[mine] + items.start).astype(np.uint64)


def ngrams(texts: Texts, n: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(items, hashes uint64[k] of their n-grams in order, int64[k] whose, counted from 0)."""
    for items, tokens, length in texts.blocks():
        hashes = _rolling(mix64(tokens.astype(np.uint64) + np.uint64(1)), n)
        left = np.repeat(length, length) - counted(length)  # tokens up to the end of the text
        whole = left[: len(hashes)] >= n
        yield items, hashes[whole], np.repeat(np.arange(len(length)), length)[: len(hashes)][whole]


def _rolling(values: np.ndarray, n: int) -> np.ndarray:
    """uint64[len - n + 1]: a polynomial of every n values in a row, by doubling."""
    if n == 1 or len(values) < n:
        return values[: max(0, len(values) - n + 1)]
    half = n // 2
    part = _rolling(values, half)
    out = part[: len(part) - half] * np.uint64(pow(0x9E3779B97F4A7C15, half, 1 << 64))
    out += part[half:]
    if n % 2:
        out = out[:-1] * np.uint64(0x9E3779B97F4A7C15) + values[n - 1 :]
    return out


def _meet(texts: Texts, key: np.ndarray, item: np.ndarray) -> Iterator[Meetings]:
    """Meetings in a sorted list of different (key, item)."""
    again = np.flatnonzero(key[1:] == key[:-1])
    among = np.zeros(len(key), bool)
    among[again] = among[again + 1] = True
    key, item = key[among], item[among]
    if not len(key):
        return
    group = np.cumsum(np.diff(key, prepend=~key[:1]) != 0) - 1
    # One inserted item speaks for its experiment in each group: sorted by item is by experiment.
    speak = np.flatnonzero(~texts.held_out[item])
    experiment = texts.experiment[item[speak]]
    changed = np.diff(group[speak] * len(texts.experiments) + experiment, prepend=-1) != 0
    speak, experiment = speak[changed], experiment[changed]
    speakers = np.bincount(group[speak], minlength=group[-1] + 1)
    first = np.cumsum(speakers) - speakers
    speakers = np.minimum(speakers, COMMON)
    asking = np.flatnonzero(texts.held_out[item] | (speakers[group] > 1))
    ends = np.cumsum(speakers[group[asking]]) // _PAIRS
    for chosen in np.split(asking, np.flatnonzero(np.diff(ends)) + 1):
        count = speakers[group[chosen]]
        whom = np.repeat(first[group[chosen]], count) + counted(count)
        who = np.repeat(item[chosen], count)
        fit = texts.held_out[who] | (texts.experiment[who] != experiment[whom])
        who, whom = who[fit], whom[fit]
        ones = np.ones(len(who), np.int64)
        yield _combined(texts, [Meetings(who, experiment[whom], ones, item[speak[whom]])])


def _combined(texts: Texts, parts: list[Meetings]) -> Meetings:
    """A row for each (item, other), its counts added."""
    names = [field.name for field in dataclasses.fields(Meetings)]
    empty = np.empty(0, np.int64)
    whole = {n: np.concatenate([empty, *(getattr(p, n) for p in parts)]) for n in names}
    pairs = whole["item"] * len(texts.experiments) + whole["other"]
    different, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    common = np.bincount(which, whole["common"], len(different)).astype(np.int64)
    return Meetings(whole["item"][first], whole["other"][first], common, whole["example"][first])
