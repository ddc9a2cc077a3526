"""Puts edits where nothing else is, without anyone's order in a list mattering (contract C3).

The stream is a line of tokens: address = position * L + offset. Every edit draws addresses from a
random stream of its own; where two edits collide, a keyed hash says who moves. So adding an
experiment moves an edit of another one only if the two would overlap.
"""

import dataclasses

import numpy as np

from ttoaa.data.order import mix64

_ROUNDS = 64
_STEP = np.uint64(0x9E3779B97F4A7C15)


class PlacementError(ValueError):
    """An edit that cannot be placed; `edits` are the indices of those in question."""

    def __init__(self, message: str, edits: list[int]) -> None:
        super().__init__(message)
        self.edits = edits


@dataclasses.dataclass(frozen=True)
class Requests:
    """One row for each edit; all arrays have the same length n."""

    key: np.ndarray
    """uint64[n]: who the edit is; its draws and its rank in a collision follow from it."""
    length: np.ndarray
    """int64[n]: tokens, at most L."""
    low: np.ndarray
    """int64[n]: the first position that it may go to."""
    high: np.ndarray
    """int64[n]: the first position that it may no longer go to."""
    fixed: np.ndarray
    """int64[n]: the address that it must have, or -1."""


def place(requests: Requests, length: int) -> np.ndarray:
    """int64[n] addresses: disjoint, inside one row of `length` tokens each, uniform where free.

    Cost is linear in edits but for sorting. Raises PlacementError, never drops an edit.
    """
    address = requests.fixed.copy()
    rank = mix64(requests.key ^ np.uint64(0xD1B54A32D192ED03))
    taken = _Taken()
    taken.add_fixed(np.flatnonzero(requests.fixed >= 0), requests)
    pending = np.flatnonzero(requests.fixed < 0)
    for attempt in range(_ROUNDS):
        if not len(pending):
            return address
        start = _draw(requests, pending, attempt, length)
        end = start + requests.length[pending]
        wins = taken.free(start, end)
        wins[wins] = _best(start[wins], end[wins], rank[pending[wins]])
        address[pending[wins]] = start[wins]
        taken.add(start[wins], end[wins])
        pending = pending[~wins]
    for edit in pending[np.argsort(rank[pending])]:
        alone = slice(edit, edit + 1)
        address[alone] = _search(requests, int(edit), taken, length)
        taken.add(address[alone], address[alone] + requests.length[alone])
    return address


class _Taken:
    """The occupied intervals [start, end), disjoint and sorted."""

    def __init__(self) -> None:
        self.start = np.empty(0, np.int64)
        self.end = np.empty(0, np.int64)

    def add(self, start: np.ndarray, end: np.ndarray) -> None:
        start, end = np.concatenate([self.start, start]), np.concatenate([self.end, end])
        order = np.argsort(start, kind="stable")
        self.start, self.end = start[order], end[order]

    def add_fixed(self, edits: np.ndarray, requests: Requests) -> None:
        edits = edits[np.argsort(requests.fixed[edits], kind="stable")]
        start = requests.fixed[edits]
        end = start + requests.length[edits]
        clash = np.flatnonzero(end[:-1] > start[1:])
        if len(clash):
            pair = [int(edits[clash[0]]), int(edits[clash[0] + 1])]
            raise PlacementError("two edits are asked to cover the same tokens", pair)
        self.add(start, end)

    def free(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """bool[n]: the interval overlaps nothing that is taken."""
        if not len(self.start):
            return np.ones(len(start), bool)
        before = np.searchsorted(self.start, end, "left") - 1
        return (before < 0) | (self.end[np.maximum(before, 0)] <= start)


def _draw(requests: Requests, edits: np.ndarray, attempt: int, length: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        row_bits = mix64(requests.key[edits] + _STEP * np.uint64(2 * attempt + 1))
        offset_bits = mix64(requests.key[edits] + _STEP * np.uint64(2 * attempt + 2))
    low = requests.low[edits]
    position = low + _below(row_bits, requests.high[edits] - low)
    return position * length + _below(offset_bits, length - requests.length[edits] + 1)


def _below(bits: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """int64[n] uniform in [0, bound) from uint64 bits; the bias is below bound / 2**53."""
    unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.minimum((unit * bound).astype(np.int64), bound - 1)


def _best(start: np.ndarray, end: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """bool[n]: the interval outranks every other proposed one that it overlaps."""
    order = np.argsort(start)
    start, end, rank = start[order], end[order], rank[order]
    loses = np.zeros(len(start), bool)
    for distance in range(1, len(start)):
        overlap = np.flatnonzero(start[distance:] < end[:-distance])
        if not len(overlap):
            break
        later = overlap + distance
        earlier_wins = rank[overlap] < rank[later]
        loses[later[earlier_wins]] = True
        loses[overlap[~earlier_wins]] = True
    wins = np.empty(len(start), bool)
    wins[order] = ~loses
    return wins


def _search(requests: Requests, edit: int, taken: _Taken, length: int) -> int:
    """A uniform choice among all addresses left, for an edit that kept colliding."""
    low, high = int(requests.low[edit]) * length, int(requests.high[edit]) * length
    first, last = np.searchsorted(taken.start, [low, high])
    rows = np.arange(low, high, length)
    # Nothing straddles rows, so sorted beginnings and endings of free stretches pair up.
    begin = np.sort(np.concatenate([rows, taken.end[first:last]]))
    finish = np.sort(np.concatenate([rows + length, taken.start[first:last]]))
    choices = np.maximum(finish - begin - requests.length[edit] + 1, 0)
    total = int(choices.sum())
    if not total:
        raise PlacementError("no room is left", [edit])
    pick = int(mix64(requests.key[edit : edit + 1] ^ _STEP)[0]) % total
    ends = np.cumsum(choices)
    stretch = int(np.searchsorted(ends, pick, "right"))
    return int(begin[stretch] + pick - (ends[stretch] - choices[stretch]))
