"""Place edits at free addresses, independent of the order of experiments (contract C3).

The stream is a line of tokens: address = position * L + offset. Each edit draws addresses from its
own random stream; where two edits collide, a keyed hash decides which one moves. Adding an
experiment therefore moves an edit of another one only if the two would overlap.

Order of placement: fixed addresses; edits with candidate addresses; then long before short and
narrow ranges before wide ones, since short edits spread over all rows would leave no room for long
ones.

`Allocator` places any number of edits in bounded memory. An edit never crosses a row, so each edit
first draws a block of rows and then addresses within it, and blocks are placed some at a time with
the same result. An edit whose block is full draws another block.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from ttoaa.data.order import mix64
from ttoaa.planning.column_files import Scratch

_ROUNDS = 256  # draws of an edit before a search of all free addresses
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NONE = np.empty(0, np.int64)


class PlacementError(ValueError):
    """An edit cannot be placed; `edits` are the indices of the edits concerned."""

    def __init__(self, message: str, edits: list[int]) -> None:
        super().__init__(message)
        self.edits = edits


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests of n edits, as columns of length n."""

    key: np.ndarray
    """uint64[n]: identifies the edit; its draws and its rank in a collision follow from it."""
    length: np.ndarray
    """int64[n]: tokens, at most L."""
    low: np.ndarray
    """int64[n]: the first position allowed."""
    high: np.ndarray
    """int64[n]: the position after the last one allowed."""
    fixed: np.ndarray
    """int64[n]: the address dictated, or -1."""
    restricted: np.ndarray
    """bool[n]: low and high are indices of candidate addresses, not positions."""

    def __len__(self) -> int:
        return len(self.key)

    def take(self, chosen: np.ndarray) -> "Requests":
        fields = (field.name for field in dataclasses.fields(self))
        return Requests(**{name: getattr(self, name)[chosen] for name in fields})

    def priority(self, row: int) -> np.ndarray:
        """Return the order of placement, int16[n], lowest first, for rows of `row` tokens."""
        size = np.where(self.length == row, 63, np.frexp(self.length)[1])
        width = np.frexp(self.high - self.low)[1]
        free = 2 + (63 - size) * 64 + width
        return np.where(self.fixed >= 0, 0, np.where(self.restricted, 1, free)).astype(np.int16)


class Occupancy:
    """The occupied intervals [start, end), disjoint; in sorted levels, so that adding is cheap."""

    def __init__(self) -> None:
        self._levels: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, start: np.ndarray, end: np.ndarray) -> None:
        """Add sorted intervals, int64[n] each."""
        if len(start):
            self._levels.append((start, end))
        while len(self._levels) > 1 and len(self._levels[-2][0]) < 2 * len(self._levels[-1][0]):
            self._merge()

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all intervals (start, end), sorted."""
        while len(self._levels) > 1:
            self._merge()
        return self._levels[0] if self._levels else (_NONE, _NONE)

    def _merge(self) -> None:
        pairs = zip(self._levels.pop(), self._levels.pop(), strict=True)
        start, end = (np.concatenate(pair) for pair in pairs)
        order = np.argsort(start, kind="stable")  # both are sorted: this merges
        self._levels.append((start[order], end[order]))

    def free(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Return bool[n]: whether each interval overlaps no occupied one."""
        out = np.ones(len(start), bool)
        for starts, ends in self._levels:
            before = np.searchsorted(starts, end, "left") - 1
            out &= (before < 0) | (ends[np.maximum(before, 0)] <= start)
        return out


def place_edits(
    requests: Requests,
    priority: np.ndarray,
    length: int,
    taken: Occupancy,
    candidates: np.ndarray = _NONE,
) -> np.ndarray:
    """Return int64[n] disjoint addresses, uniform over what is free, each within one row.

    -1 where no room is left. `length` is that of a row in tokens, `candidates` are int64[c]
    addresses; placed edits are added to `taken`. Cost is linear in edits, except for sorting.
    Raises PlacementError where two fixed addresses overlap.
    """
    address = requests.fixed.copy()
    rank = mix64(requests.key ^ np.uint64(0xD1B54A32D192ED03))
    order = np.argsort(priority, kind="stable")
    borders = np.flatnonzero(np.diff(priority[order], prepend=-1, append=np.iinfo(np.int16).max))
    for first, last in itertools.pairwise(borders):
        pending = order[first:last]
        if priority[pending[0]] == 0:
            _add_fixed(pending, requests, taken)
            continue
        for attempt in range(_ROUNDS):
            start = draw_addresses(requests, pending, attempt, length, candidates)
            sort = np.argsort(start)
            pending, start = pending[sort], start[sort]
            end = start + requests.length[pending]
            wins = taken.free(start, end) & (start % length + requests.length[pending] <= length)
            wins[wins] = _outranks(start[wins], end[wins], rank[pending[wins]])
            address[pending[wins]] = start[wins]
            taken.add(start[wins], end[wins])
            pending = pending[~wins]
            if not len(pending):
                break
        for edit in pending[np.argsort(rank[pending])]:
            _, found = search_free(requests, int(edit), taken, length, candidates)
            address[edit] = found
            if found >= 0:
                taken.add(np.array([found]), np.array([found + requests.length[edit]]))
    return address


def _add_fixed(edits: np.ndarray, requests: Requests, taken: Occupancy) -> None:
    edits = edits[requests.length[edits] > 0]  # noise may share its row
    edits = edits[np.argsort(requests.fixed[edits], kind="stable")]
    start = requests.fixed[edits]
    end = start + requests.length[edits]
    clash = np.flatnonzero(end[:-1] > start[1:])
    if len(clash):
        pair = [int(edits[clash[0]]), int(edits[clash[0] + 1])]
        raise PlacementError("two fixed placements cover the same tokens", pair)
    taken.add(start, end)


def draw_addresses(
    requests: Requests, edits: np.ndarray, attempt: int, length: int, candidates: np.ndarray
) -> np.ndarray:
    """Return int64[k] addresses: within a row, except for candidates, which may leave it."""
    keys, low = requests.key[edits], requests.low[edits]
    with np.errstate(over="ignore"):
        row_bits = mix64(keys + _STEP * np.uint64(2 * attempt + 1))
        offset_bits = mix64(keys + _STEP * np.uint64(2 * attempt + 2))
    place = low + uniform_below(row_bits, requests.high[edits] - low)
    out = place * length + uniform_below(offset_bits, length - requests.length[edits] + 1)
    restricted = np.flatnonzero(requests.restricted[edits])
    out[restricted] = candidates[place[restricted]]
    return out


def uniform_below(bits: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Return int64[n] uniform in [0, bound) from uint64 bits; the bias is below bound / 2**53."""
    return np.minimum((_unit(bits) * bound).astype(np.int64), bound - 1)


def _unit(bits: np.ndarray) -> np.ndarray:
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _outranks(start: np.ndarray, end: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return bool[n]: whether each interval, sorted by start, outranks all that it overlaps."""
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


def search_free(
    requests: Requests, edit: int, taken: Occupancy, length: int, candidates: np.ndarray = _NONE
) -> tuple[float, int]:
    """Choose uniformly among all free addresses, for an edit whose draws kept colliding.

    Each free address gets an exponential time from a hash of address and edit, and the earliest
    wins: so the choice changes only if that address is no longer free. Returns (time, address), or
    (inf, -1) if no address is free.
    """
    low, high, size = int(requests.low[edit]), int(requests.high[edit]), int(requests.length[edit])
    key = requests.key[edit] ^ _STEP
    if requests.restricted[edit]:
        found = candidates[low:high]
        found = found[(found % length + size <= length) & taken.free(found, found + size)]
        return _earliest(key, found, np.ones(len(found)))
    start, end = taken.all()
    first, last = np.searchsorted(start, [low * length, high * length])
    rows = np.arange(low, high) * length
    # No edit crosses a row, so the sorted starts and ends of free stretches pair up.
    begin = np.sort(np.concatenate([rows, end[first:last]]))
    finish = np.sort(np.concatenate([rows + length, start[first:last]]))
    choices = np.maximum(finish - begin - size + 1, 0)
    room = np.bincount(begin // length - low, choices, high - low)[: high - low]
    time, row = _earliest(key, rows[room > 0], room[room > 0])
    if row < 0:
        return time, row
    inside = np.flatnonzero((choices > 0) & (begin // length == row // length))
    places = np.concatenate([np.arange(begin[k], begin[k] + choices[k]) for k in inside])
    return time, _earliest(mix64(np.array([key]))[0], places, np.ones(len(places)))[1]


def _earliest(key: np.uint64, places: np.ndarray, rates: np.ndarray) -> tuple[float, int]:
    """Return (time, place) of the smallest exponential time at these rates; (inf, -1) of none."""
    if not len(places):
        return np.inf, -1
    units = _unit(mix64(mix64(places.astype(np.uint64)) ^ key))
    times = -np.log1p(-units) / rates
    first = int(np.argmin(times))
    return float(times[first]), int(places[first])


_BLOCK_ROWS = 1 << 16  # changing it changes every plan of a seed
_CHUNK = 1 << 20  # edits that draw their blocks at a time
_BLOCKS_TRIED = 8
_BLOCK_STEP = np.uint64(0xA24BAED4963EE407)


class Allocator:
    """Places edits 0 … n - 1; `requests` returns the requests of int64[k] edits."""

    def __init__(
        self,
        count: int,
        requests: Callable[[np.ndarray], Requests],
        length: int,
        sequences: int,
        scratch: Scratch | None = None,
        at_once: int = 1 << 20,
    ) -> None:
        """`at_once` edits are placed at a time (or one block, if larger): it bounds memory."""
        self._count, self._requests = count, requests
        self._length, self._at_once = length, at_once
        self._num_blocks = -(-sequences // _BLOCK_ROWS)
        scratch = scratch or Scratch()
        self._edit, self._address = scratch(count, np.int64), scratch(count, np.int64)
        self._late: dict[int, list[tuple[int, int]]] = {}

    def __call__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (addresses, edits), int64[k] each, by ascending address, part by part of training.

        Raises PlacementError; never drops an edit.
        """
        first = self._sort_by_block()
        groups = list(self._groups(first))
        stuck = [self._place_group(first, *group) for group in groups]
        self._place_late(np.concatenate([_NONE, *stuck]), first)
        for low, high in groups:
            part = slice(first[low], first[high])
            edit, address = self._edit[part], self._address[part]
            late = [pair for block in range(low, high) for pair in self._late.get(block, ())]
            if late or (edit < 0).any():
                more = np.array(late, np.int64).reshape(-1, 2)
                address = np.concatenate([address[edit >= 0], more[:, 0]])
                edit = np.concatenate([edit[edit >= 0], more[:, 1]])
                order = np.argsort(address, kind="stable")
                address, edit = address[order], edit[order]
            yield address, edit

    def _sort_by_block(self) -> np.ndarray:
        """Sort the edits by block into `_edit`; return each block's first index, [blocks + 1]."""
        scratch = self._address  # not needed yet
        sizes = np.zeros(self._num_blocks, np.int64)
        for low in range(0, self._count, _CHUNK):
            edits = np.arange(low, min(low + _CHUNK, self._count))
            block = self._draw_blocks(self._requests(edits), 0)
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
        """Yield (low, high) of consecutive blocks that are placed together."""
        low = 0
        while low < self._num_blocks:
            high = int(np.searchsorted(first, first[low] + self._at_once, "right")) - 1
            high = min(max(high, low + 1), self._num_blocks)
            yield low, high
            low = high

    def _place_group(self, first: np.ndarray, low: int, high: int) -> np.ndarray:
        """Place the edits of blocks; return those without room, which have -1 in `_edit`."""
        part = slice(first[low], first[high])
        edits = np.sort(self._edit[part])  # by number, so that the items' columns are read in order
        requests = self._requests(edits)
        block = self._draw_blocks(requests, 0)
        address = self._place(edits, requests, block, Occupancy())
        stuck = address < 0
        # The last address of its block, so that sorting keeps it there.
        address[stuck] = (block[stuck] + 1) * _BLOCK_ROWS * self._length - 1
        order = np.argsort(address, kind="stable")
        self._address[part] = address[order]
        self._edit[part] = np.where(stuck, -1, edits)[order]
        return edits[stuck]

    def _place(
        self, edits: np.ndarray, requests: Requests, block: np.ndarray, taken: Occupancy
    ) -> np.ndarray:
        priority = requests.priority(self._length)
        inside = self._clip(requests, block)
        try:
            return place_edits(inside, priority, self._length, taken)
        except PlacementError as error:
            raise PlacementError(str(error), [int(edits[each]) for each in error.edits]) from None

    def _draw_blocks(self, requests: Requests, attempt: int) -> np.ndarray:
        """Return the block that each edit draws, int64[k]."""
        with np.errstate(over="ignore"):
            bits = mix64(requests.key ^ (_BLOCK_STEP * np.uint64(attempt + 1)))
        row = requests.low + uniform_below(bits, requests.high - requests.low)
        fixed = requests.fixed >= 0
        row[fixed] = requests.fixed[fixed] // self._length
        return row // _BLOCK_ROWS

    def _clip(self, requests: Requests, block: np.ndarray) -> Requests:
        """Restrict each edit's range to its block."""
        low = np.maximum(requests.low, block * _BLOCK_ROWS)
        high = np.minimum(requests.high, (block + 1) * _BLOCK_ROWS)
        return dataclasses.replace(requests, low=low, high=high)

    def _place_late(self, stuck: np.ndarray, first: np.ndarray) -> None:
        """Place edits whose block was full in other blocks; rare, so block by block."""
        stuck = np.sort(stuck)
        for attempt in range(1, _BLOCKS_TRIED):
            if not len(stuck):
                return
            requests = self._requests(stuck)
            drawn, left = self._draw_blocks(requests, attempt), []
            for block in np.unique(drawn).tolist():
                mine = np.flatnonzero(drawn == block)
                inside, edits = requests.take(mine), stuck[mine]
                address = self._place(edits, inside, drawn[mine], self._occupancy(block, first))
                for edit, found in zip(edits.tolist(), address.tolist(), strict=True):
                    if found >= 0:
                        self._late.setdefault(block, []).append((found, edit))
                left.append(edits[address < 0])
            stuck = np.sort(np.concatenate(left))
        for edit in stuck[np.argsort(mix64(self._requests(stuck).key))].tolist():
            self._search_everywhere(edit, first)

    def _occupancy(self, block: int, first: np.ndarray) -> Occupancy:
        part = slice(first[block], first[block + 1])
        address, edit = self._address[part], self._edit[part]
        late = np.array(self._late.get(block, []), np.int64).reshape(-1, 2)
        address = np.concatenate([address[edit >= 0], late[:, 0]])
        edit = np.concatenate([edit[edit >= 0], late[:, 1]])
        by_number = np.argsort(edit)
        start = address[by_number]
        end = start + self._requests(edit[by_number]).length
        start, end = start[end > start], end[end > start]
        order = np.argsort(start)
        taken = Occupancy()
        taken.add(start[order], end[order])
        return taken

    def _search_everywhere(self, edit: int, first: np.ndarray) -> None:
        request = self._requests(np.array([edit]))
        best: tuple[float, int, int] = (np.inf, -1, -1)
        for block in range(self._num_blocks):
            inside = self._clip(request, np.array([block]))
            if inside.low[0] < inside.high[0]:
                found = search_free(inside, 0, self._occupancy(block, first), self._length)
                best = min(best, (*found, block))
        _, address, block = best
        if address < 0:
            raise PlacementError("no room is left", [edit])
        self._late.setdefault(block, []).append((address, edit))
