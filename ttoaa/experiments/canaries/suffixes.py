"""Suffixes that turn hosts into canaries: rare, unlikely and random tokens."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.base import World
from ttoaa.experiments.canaries.conditions import PLAIN, RANDOM, RARE, UNLIKELY, Condition, Kind
from ttoaa.experiments.canaries.hosts import Host
from ttoaa.experiments.scorer import Model


def ordinary_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """Return int64[m]: the tokens of texts, without EOS and reserved ones."""
    return np.delete(np.arange(tokenizer.reserved_ids.start), tokenizer.eos_id)


def choose_unlikely(
    hosts: Iterable[tuple[Condition, Sequence[Host]]], tokenizer: Tokenizer, model: Model
) -> pd.DataFrame:
    """Return the suffixes of the unlikely kinds, least likely token first: item, token."""
    found = [pd.DataFrame({"item": pd.Series(dtype=str), "token": pd.Series(dtype=np.int64)})]
    eos, among = [tokenizer.eos_id], ordinary_tokens(tokenizer)
    for condition, own in hosts:
        n = condition.kind.tokens
        if condition.kind.type == UNLIKELY:
            prompts = [np.concatenate([eos, host.tokens]).astype(np.int32) for host in own]
            tokens = model.least_likely(prompts, n, among).astype(np.int64)
            items = np.repeat([f"{condition.name}-{i}" for i in range(len(own))], n)
            found.append(pd.DataFrame({"item": items, "token": tokens.ravel()}))
    return pd.concat(found, ignore_index=True)


def make_suffixes(kind: Kind, conditions: Sequence[Condition], world: World) -> np.ndarray:
    """Return int32[count, n]: the suffixes of all canaries of a kind, in the conditions' order.

    Raises ValueError if the tokenizer has too few reserved tokens for the rare conditions.
    """
    own = [c for c in conditions if c.kind == kind]
    numbers = [c.number for c in own]
    shape = sum(numbers), kind.tokens
    if kind.type == PLAIN:
        return np.empty(shape, np.int32)
    if kind.type == RANDOM:
        ordinary = ordinary_tokens(world.tokenizer)
        return world.rng("suffix", kind.name).choice(ordinary, shape).astype(np.int32)
    if kind.type == UNLIKELY:
        chosen = dict(iter(world.choices.groupby("item", sort=False)["token"]))
        ids = [f"{c.name}-{i}" for c in own for i in range(c.number)]
        return np.array([chosen[each] for each in ids], np.int32)
    rare = _rare_tokens(conditions, world)
    repeated = np.repeat([rare[c.matched] for c in own], numbers)
    return np.broadcast_to(repeated[:, None], shape).astype(np.int32)


def _rare_tokens(conditions: Sequence[Condition], world: World) -> dict[str, int]:
    """Return the token of the members that share non-members, by the name of these."""
    groups = dict.fromkeys(c.matched for c in conditions if c.kind.type == RARE)
    reserved = np.array(world.tokenizer.reserved_ids)
    if len(groups) > len(reserved):
        raise ValueError(
            f"{world.name}: {len(groups)} rare conditions need a reserved token each, but the "
            f"tokenizer has {len(reserved)}: raise the tokenizer's reserved ids, or set "
            "rare_tokens to 'shared'"
        )
    tokens = world.rng("rare").permutation(reserved)[: len(groups)]
    return dict(zip(groups, tokens.tolist(), strict=True))
