"""The training order: a bijection from positions to windows, for every epoch (contract C1).

Positions and windows are int64 on the host. The bijection is a pure function of (seed, epoch), so
nothing is stored, a look-up costs O(1), and no library's shuffle can change it under us.
"""

import dataclasses
import hashlib
import math

import numpy as np

_ROUNDS = 6


@dataclasses.dataclass(frozen=True)
class Order:
    """Position p is window `pi_e(p mod n)` of epoch e = p div n, for a keyed permutation pi_e.

    The permutation is a balanced Feistel network over the smallest even number of bits that holds
    n, walked along its cycle until it lands below n (Black & Rogaway, 2002).
    """

    seed: int
    num_windows: int

    def __post_init__(self) -> None:
        if self.num_windows < 1:
            raise ValueError("the corpus has no training window: it is shorter than one row")

    @property
    def fingerprint(self) -> str:
        return f"feistel{_ROUNDS}:seed={self.seed}:windows={self.num_windows}"

    def identity(self) -> dict[str, int]:
        """What makes it again: Order(**identity)."""
        return dataclasses.asdict(self)

    def windows(self, positions: np.ndarray) -> np.ndarray:
        """int64[...] windows of int64[...] positions >= 0, in any epoch."""
        positions = np.asarray(positions, np.int64)
        epochs, places = np.divmod(positions, self.num_windows)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = self._permute(places[chosen], int(epoch))
        return out

    def _permute(self, places: np.ndarray, epoch: int) -> np.ndarray:
        half = max(1, math.ceil((self.num_windows - 1).bit_length() / 2))
        keys = _round_keys(self.seed, epoch)
        out = places.astype(np.uint64)
        outside = np.ones(out.shape, bool)
        while outside.any():
            out[outside] = _feistel(out[outside], half, keys)
            outside = out >= np.uint64(self.num_windows)
        return out.astype(np.int64)


def _round_keys(seed: int, epoch: int) -> np.ndarray:
    digest = hashlib.blake2b(f"order:{seed}:{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return np.frombuffer(digest, "<u8")


def _feistel(value: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> bits, value & mask
    for key in keys:
        left, right = right, left ^ (mix64(right ^ key) & mask)
    return (left << bits) | right


def mix64(value: np.ndarray) -> np.ndarray:
    """A bijective mixer of uint64 (the finaliser of SplitMix64, Steele et al., 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
