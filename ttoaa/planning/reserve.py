"""Who may use which window of the reserve: validation first, then each experiment its own."""

import hashlib
import itertools
from collections.abc import Mapping

import numpy as np

from ttoaa.data.order import mix64


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
    out = {name: np.empty(need, np.int64) for name, need in needs.items()}
    slots = [(name, k) for name, need in needs.items() for k in range(need)]
    taken: set[int] = set()
    for name, k in sorted(slots, key=lambda slot: _hash("rank", seed, *slot)):
        wishes = (_hash("wish", seed, name, k, n) % len(pool) for n in itertools.count())
        wish = next(wish for wish in wishes if wish not in taken)
        taken.add(wish)
        out[name][k] = pool[wish]
    return out


def _hash(*key: object) -> int:
    text = "\x1f".join(map(str, ("reserve", *key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _scores(key: str, windows: np.ndarray) -> np.ndarray:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return mix64(windows.astype(np.uint64) ^ np.frombuffer(digest, "<u8"))
