"""The training order: a bijection from positions to windows, for every epoch (contract C1).

Positions and windows are int64 on the host. The bijection is a pure function of (seed, epoch): it
is not stored, a look-up costs O(1), and no library's shuffle can change it.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus

_ROUNDS = 6
_BLOCK = 1 << 14  # positions at once: temporaries stay in a core's cache


def training_order(corpus: Corpus, seed: int, length: int) -> "Order":
    """Return the order in which a run trains on the corpus' windows of `length` tokens."""
    return Order(seed, corpus.num_windows("train", length), corpus.in_order)


@dataclasses.dataclass(frozen=True)
class Order:
    """Position p has window `pi_e(p mod n)` in epoch e = p div n, for a keyed permutation pi_e.

    The permutation is a balanced Feistel network over the smallest even number of bits that holds
    n, iterated until its value is below n ("cycle walking", Black & Rogaway, 2002). With
    `first_in_order`, pi_0 is the identity: the corpus numbers its windows in an order file's order.
    A run that continues the stream of another one has a `start`, and p counts from there.
    """

    seed: int
    num_windows: int
    first_in_order: bool = False
    start: int = 0
    """Rows of the stream that come before position 0."""

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise ValueError("the corpus has no training window: it is shorter than one row")

    @property
    def fingerprint(self) -> str:
        first = ":first=in-order" if self.first_in_order else ""
        start = f":start={self.start}" if self.start else ""
        return f"feistel{_ROUNDS}:seed={self.seed}:windows={self.num_windows}{first}{start}"

    def identity(self) -> dict[str, Any]:
        """Return the arguments that make this order again."""
        first = {"first_in_order": True} if self.first_in_order else {}
        start = {"start": self.start} if self.start else {}
        return {"seed": self.seed, "num_windows": self.num_windows, **first, **start}

    def windows(self, positions: np.ndarray) -> np.ndarray:
        """Return the windows, int64[...], of int64[...] positions >= 0, in any epoch."""
        positions = np.asarray(positions, np.int64)
        if not positions.size:
            return np.empty_like(positions)
        low, high = int(positions.min()), int(positions.max())
        if low < 0:
            raise ValueError(f"positions must be at least 0, not {low}")
        positions, low, high = positions + self.start, low + self.start, high + self.start
        first, last = low // self.num_windows, high // self.num_windows
        if first == last:
            return self._permute(_feistel, positions - first * self.num_windows, first)
        epochs, places = np.divmod(positions, self.num_windows)
        out = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            out[chosen] = self._permute(_feistel, places[chosen], epoch)
        return out

    def positions(self, windows: np.ndarray, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Find where a run of `stop` positions trains on these windows (int64[n]).

        Returns (positions int64[m], which int64[m]): positions[i] trains on windows[which[i]].
        Positions ascend.
        """
        windows = np.asarray(windows, np.int64)
        if windows.size and not 0 <= windows.min() <= windows.max() < self.num_windows:
            raise ValueError(
                f"windows {windows.min()} to {windows.max()} are out of range: the order has "
                f"{self.num_windows}"
            )
        found = [np.empty(0, np.int64)]
        which = [np.empty(0, np.int64)]
        first, last = self.start // self.num_windows, -(-(self.start + stop) // self.num_windows)
        for epoch in range(first, last):
            start = epoch * self.num_windows - self.start
            positions = start + self._permute(_inverse_feistel, windows, epoch)
            ours = np.flatnonzero((positions >= 0) & (positions < stop))
            ours = ours[np.argsort(positions[ours], kind="stable")]
            found.append(positions[ours])
            which.append(ours)
        return np.concatenate(found), np.concatenate(which)

    def _permute(self, network: "_Network", places: np.ndarray, epoch: int) -> np.ndarray:
        """Apply an epoch's permutation, or with the inverse network its inverse, to int64[...]."""
        if self.first_in_order and epoch == 0:
            return places.copy()
        half = max(1, math.ceil((self.num_windows - 1).bit_length() / 2))
        keys = _round_keys(self.seed, epoch)
        flat = places.reshape(-1)
        out = np.empty(flat.shape, np.int64)
        for start in range(0, len(flat), _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block] = _walk(network, flat[block].astype(np.uint64), self.num_windows, half, keys)
        return out.reshape(places.shape)


_Network = Callable[[np.ndarray, int, np.ndarray], np.ndarray]


def _walk(
    network: _Network, value: np.ndarray, below: int, half: int, keys: np.ndarray
) -> np.ndarray:
    limit = np.uint64(below)
    value = network(value, half, keys)
    outside = np.flatnonzero(value >= limit)
    while outside.size:
        moved = network(value[outside], half, keys)
        value[outside] = moved
        outside = outside[moved >= limit]
    return value


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> np.ndarray:
    digest = hashlib.blake2b(f"order:{seed}:{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, "<u8")


def _feistel(value: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & mask
    for key in keys:
        left, right = right, _round(right, key, mask, left)
    return (left << bits) | right


def _inverse_feistel(value: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & mask
    for key in keys[::-1]:
        left, right = _round(left, key, mask, right), left
    return (left << bits) | right


def _round(half: np.ndarray, key: np.uint64, mask: np.uint64, other: np.ndarray) -> np.ndarray:
    mixed = mix64(half ^ key)
    mixed &= mask
    mixed ^= other
    return mixed


_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix64(value: np.ndarray) -> np.ndarray:
    """A bijective mixer of uint64 (the finaliser of SplitMix64, Steele et al., 2014)."""
    value = value ^ (value >> _30)
    value *= _M1
    value ^= value >> _27
    value *= _M2
    value ^= value >> _31
    return value
