"""Who may use which window of the reserve: validation first, then each experiment its own.

Reserve windows that hold no removed text: who had another one draws again, and no one else.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from ttoaa.data.order import mix64

_SLOT, _RANK, _WISH = map(np.uint64, (0xD6E8FEB86659FD93, 0xD1B54A32D192ED03, 0x9E3779B97F4A7C15))
_FEW, _AHEAD = 256, 1024


def split_reserve(num_windows: int, validation: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64[validation], int64[rest]): validation windows, and those free for experiments.

    The key is fixed, so that every study and every seed on a corpus validates on the same text.
    """
    if validation > num_windows:
        raise ValueError(
            f"the reserve has {num_windows} windows, {validation} are asked for validation: "
            "lower Study.validation_sequences, or prepare in a new --workdir with more text or a "
            "larger Prepare.reserve_fraction"
        )
    windows = np.argsort(_scores("validation", np.arange(num_windows)), kind="stable")
    return windows[:validation], np.sort(windows[validation:])


def assign(needs: Mapping[str, int], pool: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """For each name, int64[need] windows of `pool` that no other name has.

    Every slot (name, k) has a rank and a list of wishes of its own, both keyed hashes; by rank,
    each takes its first wish that is free. So no order of names matters, and another name moves a
    slot only if it, or one that it moved, took that slot's window.
    """
    if sum(needs.values()) > len(pool):
        wanted = ", ".join(f"{name}: {need}" for name, need in needs.items() if need)
        raise ValueError(
            f"the reserve has {len(pool)} windows for experiments, but they ask for more "
            f"({wanted}): lower their demands, or prepare in a new --workdir with more text or a "
            "larger Prepare.reserve_fraction"
        )
    names = np.array([_hash(seed, name) for name in needs], np.uint64)
    counts = np.array(list(needs.values()), np.int64)
    ends = np.cumsum(counts)
    number = (np.arange(counts.sum()) - np.repeat(ends - counts, counts)).astype(np.uint64)
    keys = mix64(np.repeat(names, counts) + number * _SLOT)
    chosen = pool[matched(keys, np.ones(len(pool), bool))]
    return {n: chosen[end - count : end] for n, end, count in zip(needs, ends, counts, strict=True)}


def matched(keys: np.ndarray, free: np.ndarray) -> np.ndarray:
    """int64[n]: a place of its own for each slot, of which uint64[n] are the keys.

    Places are those where bool[places] `free` is true, at least as many as slots.
    Taking turns by rank is the stable matching of Gale and Shapley (1962) where all places rank
    the slots alike, so slots may also propose all at once, and a place keeps the best so far.
    """
    rank, places = mix64(keys ^ _RANK), len(free)
    holder = np.full(places, -1)
    tried = np.zeros(len(keys), np.uint64)
    pending = np.arange(len(keys))
    while len(pending) > _FEW:
        wish = _wishes(keys[pending], tried[pending], places)
        tried[pending] += np.uint64(1)
        order = np.lexsort((rank[pending], wish))
        pending, wish = pending[order], wish[order]
        best = np.concatenate([[True], wish[1:] != wish[:-1]])
        held = holder[wish]
        wins = best & free[wish] & ((held < 0) | (rank[pending] < rank[held]))
        holder[wish[wins]] = pending[wins]
        pending = np.concatenate([pending[~wins], held[wins & (held >= 0)]])
    waiting = pending.tolist()
    while waiting:  # the last of a full reserve need many wishes: each looks at some at once
        slot = waiting.pop()
        wish = _wishes(keys[slot], tried[slot] + np.arange(_AHEAD, dtype=np.uint64), places)
        held = holder[wish]
        good = np.flatnonzero(free[wish] & ((held < 0) | (rank[slot] < rank[held])))
        tried[slot] += np.uint64(good[0] + 1 if len(good) else _AHEAD)
        if not len(good):
            waiting.append(slot)
            continue
        if held[good[0]] >= 0:
            waiting.append(int(held[good[0]]))
        holder[wish[good[0]]] = slot
    out = np.empty(len(keys), np.int64)
    out[holder[holder >= 0]] = np.flatnonzero(holder >= 0)
    return out


def _wishes(keys: np.ndarray, tried: np.ndarray, places: int) -> np.ndarray:
    """int64[n]: where slots that have tried so many places would like to go next."""
    return (mix64(keys + (tried + np.uint64(1)) * _WISH) % np.uint64(places)).astype(np.int64)


def _hash(*key: object) -> int:
    text = "\x1f".join(map(str, ("reserve", *key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _scores(key: str, windows: np.ndarray) -> np.ndarray:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return mix64(windows.astype(np.uint64) ^ np.frombuffer(digest, "<u8"))


def assign_reserve(
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
