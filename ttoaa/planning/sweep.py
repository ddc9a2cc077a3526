"""Places any number of edits with those of a few blocks of rows in memory at a time.

Rows do not touch one another. So each edit first draws a block of rows, then addresses within it:
blocks are settled one after the other, however many at once, with the same result. Who finds its
block full draws another.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from ttoaa.data.order import mix64
from ttoaa.planning.growing import Scratch
from ttoaa.planning.occupancy import PlacementError, Requests, Taken, below, search, settle

_BLOCK = 1 << 16  # rows; part of what a seed means
_CHUNK = 1 << 20  # edits that draw their blocks at a time
_BLOCKS_TRIED = 8
_STEP = np.uint64(0xA24BAED4963EE407)


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
        self._num_blocks = -(-sequences // _BLOCK)
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
        address[stuck] = (block[stuck] + 1) * _BLOCK * self._length - 1  # still among its block's
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
            bits = mix64(requests.key ^ (_STEP * np.uint64(attempt + 1)))
        row = requests.low + below(bits, requests.high - requests.low)
        fixed = requests.fixed >= 0
        row[fixed] = requests.fixed[fixed] // self._length
        return row // _BLOCK

    def _clipped(self, requests: Requests, block: np.ndarray) -> Requests:
        """With what of each range is in the block."""
        low = np.maximum(requests.low, block * _BLOCK)
        high = np.minimum(requests.high, (block + 1) * _BLOCK)
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
