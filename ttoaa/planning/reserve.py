"""Assign the windows of the reserve: validation first, then to each experiment its own.

An experiment that gets a window with a removed text draws another one; no other experiment changes.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from ttoaa.data.order import mix64

_NUMBER, _RANK, _PREFERENCE = map(
    np.uint64, (0xD6E8FEB86659FD93, 0xD1B54A32D192ED03, 0x9E3779B97F4A7C15)
)
_FEW, _AHEAD = 256, 1024


def split_reserve(num_windows: int, validation: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (validation windows, windows free for experiments), int64[validation] and int64[rest].

    The key is fixed, so that every study and every seed on a corpus validates on the same text.
    """
    if validation > num_windows:
        raise ValueError(
            f"the reserve has {num_windows} windows, and validation needs {validation}: "
            "lower Study.validation_sequences, or prepare in a new --workdir with more text or a "
            "larger Prepare.reserve_fraction"
        )
    windows = np.argsort(_scores("validation", np.arange(num_windows)), kind="stable")
    return windows[:validation], np.sort(windows[validation:])


def assign(needs: Mapping[str, int], pool: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Assign to each name int64[need] windows of `pool`, disjoint between names.

    Every request (name, k) has a rank and a sequence of preferred windows, both from keyed hashes;
    by rank, each takes its first preference that is free. So the order of names does not matter,
    and another name changes a request's window only if it, or one that it displaced, took it.
    """
    if sum(needs.values()) > len(pool):
        wanted = ", ".join(f"{name}: {need}" for name, need in needs.items() if need)
        raise ValueError(
            f"the reserve has {len(pool)} windows for experiments, but they need more "
            f"({wanted}): lower their demands, or prepare in a new --workdir with more text or a "
            "larger Prepare.reserve_fraction"
        )
    names = np.array([_hash(seed, name) for name in needs], np.uint64)
    counts = np.array(list(needs.values()), np.int64)
    ends = np.cumsum(counts)
    number = (np.arange(counts.sum()) - np.repeat(ends - counts, counts)).astype(np.uint64)
    keys = mix64(np.repeat(names, counts) + number * _NUMBER)
    chosen = pool[match_requests(keys, np.ones(len(pool), bool))]
    return {n: chosen[end - count : end] for n, end, count in zip(needs, ends, counts, strict=True)}


def match_requests(keys: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Match each request, by its key in uint64[n], to a place of its own; returns int64[n] places.

    Places are the indices where bool[places] `free` is true, at least as many as requests. Choosing
    in order of rank is the stable matching of Gale and Shapley (1962) if all places rank the
    requests alike, so requests can also propose in parallel, and a place keeps the best one.
    """
    rank, places = mix64(keys ^ _RANK), len(free)
    holder = np.full(places, -1)
    tried = np.zeros(len(keys), np.uint64)
    pending = np.arange(len(keys))
    while len(pending) > _FEW:
        place = _preferences(keys[pending], tried[pending], places)
        tried[pending] += np.uint64(1)
        order = np.lexsort((rank[pending], place))
        pending, place = pending[order], place[order]
        best = np.concatenate([[True], place[1:] != place[:-1]])
        held = holder[place]
        wins = best & free[place] & ((held < 0) | (rank[pending] < rank[held]))
        holder[place[wins]] = pending[wins]
        pending = np.concatenate([pending[~wins], held[wins & (held >= 0)]])
    waiting = pending.tolist()
    while waiting:  # in a full reserve the last ones need many proposals: try several at once
        request = waiting.pop()
        place = _preferences(
            keys[request], tried[request] + np.arange(_AHEAD, dtype=np.uint64), places
        )
        held = holder[place]
        good = np.flatnonzero(free[place] & ((held < 0) | (rank[request] < rank[held])))
        tried[request] += np.uint64(good[0] + 1 if len(good) else _AHEAD)
        if not len(good):
            waiting.append(request)
            continue
        if held[good[0]] >= 0:
            waiting.append(int(held[good[0]]))
        holder[place[good[0]]] = request
    out = np.empty(len(keys), np.int64)
    out[holder[holder >= 0]] = np.flatnonzero(holder >= 0)
    return out


def _preferences(keys: np.ndarray, tried: np.ndarray, places: int) -> np.ndarray:
    """Return the next preferred place of requests that have tried `tried` places, int64[n]."""
    return (mix64(keys + (tried + np.uint64(1)) * _PREFERENCE) % np.uint64(places)).astype(np.int64)


def _hash(*key: object) -> int:
    text = "\x1f".join(map(str, ("reserve", *key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _scores(key: str, windows: np.ndarray) -> np.ndarray:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return mix64(windows.astype(np.uint64) ^ np.frombuffer(digest, "<u8"))


def assign_reserve(
    needs: Mapping[str, int], pool: np.ndarray, dirty: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Assign as `assign`, but without the `dirty` windows, int64[d], which hold a removed text."""
    given = assign(needs, pool, seed)
    again = {name: np.flatnonzero(np.isin(windows, dirty)) for name, windows in given.items()}
    if not any(map(len, again.values())):
        return given
    keys = [request_keys(seed, f"clean/{name}", slots) for name, slots in again.items()]
    drawn = draw_windows(np.concatenate(keys), pool, np.concatenate([dirty, *given.values()]))
    for name, slots in again.items():
        given[name][slots], drawn = drawn[: len(slots)], drawn[len(slots) :]
    return given


def key_of(*names: object) -> np.uint64:
    """Return the key of the random stream with this name."""
    text = "\x1f".join(map(str, names)).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def request_keys(seed: int, name: str, numbers: np.ndarray) -> np.ndarray:
    """Return the keys of requests for `draw_windows`, uint64[n], of int64[n] numbers."""
    return mix64(numbers.astype(np.uint64) ^ key_of("window", seed, name))


def draw_windows(keys: np.ndarray, pool: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Draw for each key (uint64[n]) a different window of `pool` that is not taken, int64[n].

    By rank, as in `assign`. Raises ValueError if too few windows are left.
    """
    free = ~np.isin(pool, taken)
    if np.count_nonzero(free) < len(keys):
        raise ValueError(
            f"the reserve has {np.count_nonzero(free)} windows left without a removed text, "
            f"{len(keys)} more are needed to replace removed rows: remove less, or prepare in "
            "a new --workdir with more text or a larger Prepare.reserve_fraction"
        )
    return pool[match_requests(keys, free)]
