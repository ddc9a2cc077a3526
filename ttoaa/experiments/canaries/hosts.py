"""Hosts of canaries: distinct pieces of the reserve, alike for members and non-members."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ttoaa.experiments.base import World


class Host(NamedTuple):
    """A piece of the reserve."""

    tokens: np.ndarray
    """int32[host_tokens]"""
    document: int
    """The number of its document."""


def choose_hosts(
    world: World, tokens: int, totals: Sequence[int], split: int
) -> tuple[list[Host], list[Host]]:
    """Return the hosts of `totals` members and non-members; of the first `split` windows, members'.

    They are disjoint, distinct, and without EOS as far as possible. An unsuitable host is replaced
    in place, so a different window of the reserve (because another experiment was added) changes
    only the canaries cut from it. Members and non-members are chosen alike. Raises ValueError if
    the reserve has too few distinct pieces.
    """
    eos, cut = world.tokenizer.eos_id, world.reserve_NxL.shape[1] // tokens
    pieces = world.reserve_NxL[:, : cut * tokens].reshape(-1, tokens)
    documents = world.documents.repeat(cut)
    order = world.rng("hosts").permutation(len(pieces))
    first = np.zeros(len(pieces), bool)  # of equal pieces one counts, a random one
    first[order[np.unique(pieces[order], axis=0, return_index=True)[1]]] = True
    rank = np.where(first & ~(pieces == eos).any(1), 0, np.where(first, 1, 2))
    sides = order[order < split * cut], order[order >= split * cut]
    found: list[list[Host]] = []
    for side, total in zip(sides, totals, strict=True):
        chosen = _choose(side, total, rank, world.rng("replace", len(found)))
        if (rank[chosen] == 2).any():
            raise ValueError(
                f"{world.name}: the reserve has too few distinct pieces of {tokens} tokens for "
                f"{total} canaries: raise spare or host_tokens, or lower members"
            )
        found.append([Host(pieces[k], int(documents[k])) for k in chosen.tolist()])
    return found[0], found[1]


def _choose(
    pieces: np.ndarray, total: int, rank: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the first `total` of int64[n] `pieces`, with better ones in place of bad ones."""
    chosen, spare = pieces[:total].copy(), pieces[total:]
    spare = spare[np.argsort(rank[spare], kind="stable")]
    bad = rng.permutation(total)
    bad = bad[rank[chosen[bad]] > 0]
    bad = bad[np.argsort(-rank[chosen[bad]], kind="stable")][: len(spare)]
    better = rank[spare[: len(bad)]] < rank[chosen[bad]]
    chosen[bad[better]] = spare[: len(bad)][better]
    return chosen
