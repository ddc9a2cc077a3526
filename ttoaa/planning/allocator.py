"""Puts edits where nothing else is, without anyone's order in a list mattering (contract C3).

The stream is a line of tokens: address = position * L + offset. Every edit draws addresses from a
random stream of its own; where two edits collide, a keyed hash says who moves. So adding an
experiment moves an edit of another one only if the two would overlap. Dictated places come first,
then whoever may only go where something occurs, then the longer before the shorter and the more
confined before the free: else short ones, strewn everywhere, would leave long ones no room.

Places any number of edits with those of a few blocks of rows in memory at a time.

Rows do not touch one another. So each edit first draws a block of rows, then addresses within it:
blocks are settled one after the other, however many at once, with the same result. Who finds its
block full draws another.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ttoaa.data.order import mix64
from ttoaa.planning.column_files import Scratch

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


_SWEEP_BLOCK = 1 << 16  # rows; part of what a seed means
_CHUNK = 1 << 20  # edits that draw their blocks at a time
_BLOCKS_TRIED = 8
_SWEEP_STEP = np.uint64(0xA24BAED4963EE407)


class Sweep:
    """The placing of edits 0 … n - 1, of which `requests` gives those of int64[k] numbers."""

    def __init__(
        self,
        count: int,
        requests: Callable[[np.ndarray], Requests],
        length: int,
        sequences: int,
        scratch: Scratch | None = None,
        at_once: int = 1 << 20,
    ) -> None:
        """`at_once` edits are settled at a time (or a block's, if more): a matter of memory."""
        self._count, self._requests, self._length = count, requests, length
        self._at_once = at_once
        self._num_blocks = -(-sequences // _SWEEP_BLOCK)
        scratch = scratch or Scratch()
        self._edit, self._address = scratch(count, np.int64), scratch(count, np.int64)
        self._late: dict[int, list[tuple[int, int]]] = {}

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(addresses, edits), both int64 and by ascending address, a part of training at a time.

        Raises PlacementError, never drops an edit.
        """
        first = self._deal()
        groups = list(self._groups(first))
        stuck = [self._settle(first, *group) for group in groups]
        self._settle_late(np.concatenate([np.empty(0, np.int64), *stuck]), first)
        for low, high in groups:
            part = slice(first[low], first[high])
            edit, address = self._edit[part], self._address[part]
            late = [pair for block in range(low, high) for pair in self._late.get(block, ())]
            if late or (edit < 0).any():
                more = np.array(late, np.int64).reshape(-1, 2)
                address = np.concatenate([address[edit >= 0], more[:, 0]])
                edit = np.concatenate([edit[edit >= 0], more[:, 1]])
                order = np.argsort(address)
                address, edit = address[order], edit[order]
            yield address, edit

    def _deal(self) -> np.ndarray:
        """int64[blocks + 1]: sorts edits by block into `_edit`; where each block's begin."""
        scratch = self._address  # not needed yet
        sizes = np.zeros(self._num_blocks, np.int64)
        for low in range(0, self._count, _CHUNK):
            edits = np.arange(low, min(low + _CHUNK, self._count))
            block = self._block(self._requests(edits), 0)
            scratch[low : low + len(edits)] = block
            sizes += np.bincount(block, minlength=self._num_blocks)
        first = np.concatenate([[0], np.cumsum(sizes)])
        begin = first[:-1].copy()
        for low in range(0, self._count, _CHUNK):
            block = scratch[low : low + _CHUNK]
            order = np.argsort(block, kind="stable")
            sizes = np.bincount(block, minlength=self._num_blocks)
            shift = np.repeat(begin - (np.cumsum(sizes) - sizes), sizes)
            self._edit[shift + np.arange(len(block))] = low + order
            begin += sizes
        return first

    def _groups(self, first: np.ndarray) -> Iterator[tuple[int, int]]:
        """Neighbouring blocks that are settled together."""
        low = 0
        while low < self._num_blocks:
            high = int(np.searchsorted(first, first[low] + self._at_once, "right")) - 1
            high = min(max(high, low + 1), self._num_blocks)
            yield low, high
            low = high

    def _settle(self, first: np.ndarray, low: int, high: int) -> np.ndarray:
        """Settles a group; those that found no room, and have -1 in `_edit`."""
        part = slice(first[low], first[high])
        edits = np.sort(self._edit[part])  # by number: the items' columns are read in order
        requests = self._requests(edits)
        block = self._block(requests, 0)
        address = self._place(edits, requests, block, Taken())
        stuck = address < 0
        address[stuck] = (
            block[stuck] + 1
        ) * _SWEEP_BLOCK * self._length - 1  # still among its block's
        order = np.argsort(address)
        self._address[part] = address[order]
        self._edit[part] = np.where(stuck, -1, edits)[order]
        return edits[stuck]

    def _place(
        self, edits: np.ndarray, requests: Requests, block: np.ndarray, taken: Taken
    ) -> np.ndarray:
        turn = requests.turn(self._length)
        inside = self._clipped(requests, block)
        try:
            return settle(inside, turn, self._length, taken)
        except PlacementError as error:
            raise PlacementError(str(error), [int(edits[each]) for each in error.edits]) from None

    def _block(self, requests: Requests, attempt: int) -> np.ndarray:
        """int64[k]: the block that each draws."""
        with np.errstate(over="ignore"):
            bits = mix64(requests.key ^ (_SWEEP_STEP * np.uint64(attempt + 1)))
        row = requests.low + below(bits, requests.high - requests.low)
        fixed = requests.fixed >= 0
        row[fixed] = requests.fixed[fixed] // self._length
        return row // _SWEEP_BLOCK

    def _clipped(self, requests: Requests, block: np.ndarray) -> Requests:
        """With what of each range is in the block."""
        low = np.maximum(requests.low, block * _SWEEP_BLOCK)
        high = np.minimum(requests.high, (block + 1) * _SWEEP_BLOCK)
        return dataclasses.replace(requests, low=low, high=high)

    def _settle_late(self, stuck: np.ndarray, first: np.ndarray) -> None:
        """Gives other blocks to those whose block was full: rare, so block by block."""
        for attempt in range(1, _BLOCKS_TRIED):
            if not len(stuck):
                return
            stuck = np.sort(stuck)
            requests = self._requests(stuck)
            drawn, left = self._block(requests, attempt), []
            for block in np.unique(drawn).tolist():
                mine = np.flatnonzero(drawn == block)
                inside, edits = requests.take(mine), stuck[mine]
                taken = self._taken(block, first)
                address = self._place(edits, inside, drawn[mine], taken)
                for edit, found in zip(edits.tolist(), address.tolist(), strict=True):
                    if found >= 0:
                        self._late.setdefault(block, []).append((found, edit))
                left.append(edits[address < 0])
            stuck = np.concatenate(left)
        stuck = np.sort(stuck)
        for edit in stuck[np.argsort(mix64(self._requests(stuck).key))].tolist():
            self._search_everywhere(edit, first)

    def _taken(self, block: int, first: np.ndarray) -> Taken:
        part = slice(first[block], first[block + 1])
        address, edit = self._address[part], self._edit[part]
        late = np.array(self._late.get(block, []), np.int64).reshape(-1, 2)
        address = np.concatenate([address[edit >= 0], late[:, 0]])
        edit = np.concatenate([edit[edit >= 0], late[:, 1]])
        by_number = np.argsort(edit)
        start = address[by_number]
        end = start + self._requests(edit[by_number]).length
        order = np.argsort(start)
        taken = Taken()
        taken.add(start[order], end[order])
        return taken

    def _search_everywhere(self, edit: int, first: np.ndarray) -> None:
        request = self._requests(np.array([edit]))
        best: tuple[float, int, int] = (np.inf, -1, -1)
        for block in range(self._num_blocks):
            inside = self._clipped(request, np.array([block]))
            if inside.low[0] < inside.high[0]:
                found = search(inside, 0, self._taken(block, first), self._length)
                best = min(best, (*found, block))
        _, address, block = best
        if address < 0:
            raise PlacementError("no room is left", [edit])
        self._late.setdefault(block, []).append((address, edit))
