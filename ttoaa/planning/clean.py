"""Reserve windows that hold no removed text: who had another one draws again, and no one else."""

import hashlib
from collections.abc import Mapping

import numpy as np

from ttoaa.data.order import mix64
from ttoaa.planning.reserve import assign, matched


def assign_clean(
    needs: Mapping[str, int], pool: np.ndarray, dirty: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """As `reserve.assign`, but nobody has one of the `dirty` windows, int64[d]."""
    given = assign(needs, pool, seed)
    again = {name: np.flatnonzero(np.isin(windows, dirty)) for name, windows in given.items()}
    if not any(map(len, again.values())):
        return given
    keys = [slot_keys(seed, f"clean/{name}", slots) for name, slots in again.items()]
    drawn = draw(np.concatenate(keys), pool, np.concatenate([dirty, *given.values()]))
    for name, slots in again.items():
        given[name][slots], drawn = drawn[: len(slots)], drawn[len(slots) :]
    return given


def key_of(*names: object) -> np.uint64:
    """The key of a random stream that has this name."""
    text = "\x1f".join(map(str, names)).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def slot_keys(seed: int, name: str, slots: np.ndarray) -> np.ndarray:
    """uint64[n]: who asks for a window, for `draw`; `slots` are int64[n] numbers."""
    return mix64(slots.astype(np.uint64) ^ key_of("window", seed, name))


def draw(keys: np.ndarray, pool: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """int64[n]: for each key (uint64[n]) a window of `pool` of its own, none that is taken.

    By rank, as in `reserve.assign`: another key moves one only if it, or one that it moved, took
    that one's window.
    """
    free = ~np.isin(pool, taken)
    if np.count_nonzero(free) < len(keys):
        raise ValueError(
            f"the reserve has {np.count_nonzero(free)} windows left without a removed text, "
            f"{len(keys)} more are needed in place of what is removed: remove less, or prepare in "
            "a new --workdir with more text or a larger Prepare.reserve_fraction"
        )
    return pool[matched(keys, free)]
