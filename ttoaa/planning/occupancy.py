"""Puts edits where nothing else is, without anyone's order in a list mattering (contract C3).

The stream is a line of tokens: address = position * L + offset. Every edit draws addresses from a
random stream of its own; where two edits collide, a keyed hash says who moves. So adding an
experiment moves an edit of another one only if the two would overlap. Dictated places come first,
then whoever may only go where something occurs, then the longer before the shorter and the more
confined before the free: else short ones, strewn everywhere, would leave long ones no room.
"""

import dataclasses
import itertools

import numpy as np

from ttoaa.data.order import mix64

_ROUNDS = 256
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NONE = np.empty(0, np.int64)


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
    at: np.ndarray
    """bool[n]: low and high count candidate addresses, not positions."""

    def __len__(self) -> int:
        return len(self.key)

    def take(self, chosen: np.ndarray) -> "Requests":
        fields = (field.name for field in dataclasses.fields(self))
        return Requests(**{name: getattr(self, name)[chosen] for name in fields})

    def turn(self, row: int) -> np.ndarray:
        """int16[n]: who is placed before whom, lower first, in rows of `row` tokens."""
        size = np.where(self.length == row, 63, np.frexp(self.length)[1])
        width = np.frexp(self.high - self.low)[1]
        turn = 2 + (63 - size) * 64 + width
        return np.where(self.fixed >= 0, 0, np.where(self.at, 1, turn)).astype(np.int16)


class Taken:
    """The occupied intervals [start, end), disjoint; sorted levels, so that adding is cheap."""

    def __init__(self) -> None:
        self._levels: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, start: np.ndarray, end: np.ndarray) -> None:
        """Sorted ones."""
        if len(start):
            self._levels.append((start, end))
        while len(self._levels) > 1 and len(self._levels[-2][0]) < 2 * len(self._levels[-1][0]):
            self._merge()

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """(start, end), sorted."""
        while len(self._levels) > 1:
            self._merge()
        return self._levels[0] if self._levels else (_NONE, _NONE)

    def _merge(self) -> None:
        pairs = zip(self._levels.pop(), self._levels.pop(), strict=True)
        start, end = (np.concatenate(pair) for pair in pairs)
        order = np.argsort(start, kind="stable")  # a mere merge: both are sorted
        self._levels.append((start[order], end[order]))

    def free(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """bool[n]: the interval overlaps nothing that is taken."""
        out = np.ones(len(start), bool)
        for starts, ends in self._levels:
            before = np.searchsorted(starts, end, "left") - 1
            out &= (before < 0) | (ends[np.maximum(before, 0)] <= start)
        return out


def settle(
    requests: Requests,
    turn: np.ndarray,
    length: int,
    taken: Taken,
    candidates: np.ndarray = _NONE,
) -> np.ndarray:
    """int64[n] addresses: disjoint, inside one row of `length` tokens each, uniform where free.

    -1 where no room is left. `candidates` are int64[c] addresses, and what is placed joins `taken`.
    Cost is linear in edits but for sorting. Raises PlacementError where dictated places clash.
    """
    address = requests.fixed.copy()
    rank = mix64(requests.key ^ np.uint64(0xD1B54A32D192ED03))
    order = np.argsort(turn, kind="stable")
    borders = np.flatnonzero(np.diff(turn[order], prepend=-1, append=np.iinfo(np.int16).max))
    for first, last in itertools.pairwise(borders):
        pending = order[first:last]
        if turn[pending[0]] == 0:
            _add_fixed(pending, requests, taken)
            continue
        for attempt in range(_ROUNDS):
            start = draw(requests, pending, attempt, length, candidates)
            sort = np.argsort(start)
            pending, start = pending[sort], start[sort]
            end = start + requests.length[pending]
            wins = taken.free(start, end) & (start % length + requests.length[pending] <= length)
            wins[wins] = _best(start[wins], end[wins], rank[pending[wins]])
            address[pending[wins]] = start[wins]
            taken.add(start[wins], end[wins])
            pending = pending[~wins]
            if not len(pending):
                break
        for edit in pending[np.argsort(rank[pending])]:
            _, found = search(requests, int(edit), taken, length, candidates)
            address[edit] = found
            if found >= 0:
                taken.add(np.array([found]), np.array([found + requests.length[edit]]))
    return address


def _add_fixed(edits: np.ndarray, requests: Requests, taken: Taken) -> None:
    edits = edits[np.argsort(requests.fixed[edits], kind="stable")]
    start = requests.fixed[edits]
    end = start + requests.length[edits]
    clash = np.flatnonzero(end[:-1] > start[1:])
    if len(clash):
        pair = [int(edits[clash[0]]), int(edits[clash[0] + 1])]
        raise PlacementError("two edits are asked to cover the same tokens", pair)
    taken.add(start, end)


def draw(
    requests: Requests, edits: np.ndarray, attempt: int, length: int, candidates: np.ndarray
) -> np.ndarray:
    """int64[k] addresses, inside the row but where a candidate is not."""
    keys, low = requests.key[edits], requests.low[edits]
    with np.errstate(over="ignore"):
        row_bits = mix64(keys + _STEP * np.uint64(2 * attempt + 1))
        offset_bits = mix64(keys + _STEP * np.uint64(2 * attempt + 2))
    place = low + below(row_bits, requests.high[edits] - low)
    out = place * length + below(offset_bits, length - requests.length[edits] + 1)
    at = np.flatnonzero(requests.at[edits])
    out[at] = candidates[place[at]]
    return out


def below(bits: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """int64[n] uniform in [0, bound) from uint64 bits; the bias is below bound / 2**53."""
    return np.minimum((_unit(bits) * bound).astype(np.int64), bound - 1)


def _unit(bits: np.ndarray) -> np.ndarray:
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _best(start: np.ndarray, end: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """bool[n]: the interval outranks every other proposed one that it overlaps; sorted by start."""
    loses = np.zeros(len(start), bool)
    for distance in range(1, len(start)):
        overlap = np.flatnonzero(start[distance:] < end[:-distance])
        if not len(overlap):
            break
        later = overlap + distance
        earlier_wins = rank[overlap] < rank[later]
        loses[later[earlier_wins]] = True
        loses[overlap[~earlier_wins]] = True
    return ~loses


def search(
    requests: Requests, edit: int, taken: Taken, length: int, candidates: np.ndarray = _NONE
) -> tuple[float, int]:
    """(time, address) of a uniform choice among all addresses left, for one that kept colliding.

    Each free address rings once, after an exponential time of its own for this edit; the first to
    ring is taken, so the choice changes only with what is free at that place. (inf, -1): none is.
    """
    low, high, size = int(requests.low[edit]), int(requests.high[edit]), int(requests.length[edit])
    key = requests.key[edit] ^ _STEP
    if requests.at[edit]:
        found = candidates[low:high]
        found = found[(found % length + size <= length) & taken.free(found, found + size)]
        return _first_to_ring(key, found, np.ones(len(found)))
    start, end = taken.all()
    first, last = np.searchsorted(start, [low * length, high * length])
    rows = np.arange(low, high) * length
    # Nothing straddles rows, so sorted beginnings and endings of free stretches pair up.
    begin = np.sort(np.concatenate([rows, end[first:last]]))
    finish = np.sort(np.concatenate([rows + length, start[first:last]]))
    choices = np.maximum(finish - begin - size + 1, 0)
    room = np.bincount(begin // length - low, choices, high - low)[: high - low]
    time, row = _first_to_ring(key, rows[room > 0], room[room > 0])
    if row < 0:
        return time, row
    inside = np.flatnonzero((choices > 0) & (begin // length == row // length))
    free = [np.arange(begin[k], begin[k] + choices[k]) for k in inside]
    places = np.concatenate(free)
    return time, _first_to_ring(mix64(np.array([key]))[0], places, np.ones(len(places)))[1]


def _first_to_ring(key: np.uint64, places: np.ndarray, rates: np.ndarray) -> tuple[float, int]:
    """(time, place) of the first of those that ring at these rates; (inf, -1) if there are none."""
    if not len(places):
        return np.inf, -1
    units = _unit(mix64(mix64(places.astype(np.uint64)) ^ key))
    times = -np.log1p(-units) / rates
    first = int(np.argmin(times))
    return float(times[first]), int(places[first])
