"""Who may use which window of the reserve: validation first, then each experiment its own."""

import hashlib
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
            "lower Study.validation_sequences or raise Prepare.reserve_fraction"
        )
    windows = np.argsort(_scores("validation", np.arange(num_windows)), kind="stable")
    return windows[:validation], np.sort(windows[validation:])


def assign(needs: Mapping[str, int], pool: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """For each name, int64[need] windows of `pool` that no other name has.

    Each name ranks the windows by a keyed hash, and so does each window the names; the result is
    their stable matching (Gale & Shapley, 1962), which depends on no order and changes for a name
    only along collisions when another name is added.
    """
    if sum(needs.values()) > len(pool):
        wanted = ", ".join(f"{name}: {need}" for name, need in needs.items() if need)
        raise ValueError(
            f"the reserve has {len(pool)} windows for experiments, but they ask for more "
            f"({wanted}): raise Prepare.reserve_fraction or lower their demands"
        )
    names = [name for name in needs if needs[name]]
    score = {name: _scores(f"reserve:{seed}:{name}", pool) for name in names}
    wish = {name: np.argsort(score[name], kind="stable") for name in names}
    asked = dict.fromkeys(names, 0)
    owner = np.full(len(pool), -1)
    best = np.full(len(pool), np.iinfo(np.uint64).max, np.uint64)
    missing = {name: needs[name] for name in names}
    while any(missing.values()):
        for number, name in enumerate(names):
            picks = wish[name][asked[name] : asked[name] + missing[name]]
            asked[name] += len(picks)
            won = picks[score[name][picks] < best[picks]]
            for loser, lost in zip(*np.unique(owner[won], return_counts=True), strict=True):
                if loser >= 0:
                    missing[names[loser]] += int(lost)
            owner[won], best[won] = number, score[name][won]
            missing[name] -= len(won)
    out = {name: np.empty(0, np.int64) for name in needs}
    for number, name in enumerate(names):
        held = np.flatnonzero(owner == number)
        # A window keeps the place that the name alone would give it: only what collided moves.
        places = wish[name][: needs[name]].copy()
        lost = ~np.isin(places, held)
        instead = held[~np.isin(held, places)]
        places[lost] = instead[np.argsort(score[name][instead], kind="stable")]
        out[name] = pool[places]
    return out


def _scores(key: str, windows: np.ndarray) -> np.ndarray:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return mix64(windows.astype(np.uint64) ^ np.frombuffer(digest, "<u8"))
