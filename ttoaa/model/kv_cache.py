"""The decoder a token at a time, with the keys and values of all that stands before kept.

A cache has M slots a row. A prompt fills the first of them, each row as many as it has tokens; the
tokens after it stand from slot P on, where P is the longest prompt that fits: then one write serves
all rows. The slots between are never read.

Shapes as in `decoder`; M slots, of which P for the prompt.
"""

import jax
import jax.numpy as jnp

from ttoaa.model.attention import document_ids
from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import Attention, DecoderConfig, Params, bind
from ttoaa.model.sharding import constrain

Cache = list[tuple[jax.Array, jax.Array]]
"""For each layer keys and values [B, K, M, C]."""

_SLOTS = ("batch", "heads", None, None)


def prefill(
    config: DecoderConfig,
    params: Params,
    tokens_BxP: jax.Array,
    execution: Execution = PLAIN,
) -> tuple[jax.Array, Cache]:
    """[B, P, D] as `features` gives it, and the P filled slots of every layer."""
    model = bind(config, params)
    separator, documents = config.document_separator, None
    if separator is not None:
        documents = document_ids(tokens_BxP, separator)
    x_BxPxD, cache = model.embed(tokens_BxP), []
    for block in model.blocks():
        attended, k, v = block.attention.attend(x_BxPxD, documents, execution)
        x_BxPxD = block.add(x_BxPxD, attended)
        cache.append((k, v))
    return model.norm(x_BxPxD), cache


def grow(cache: Cache, slots: int) -> Cache:
    """The same cache with empty slots up to so many."""

    def one(x_BxKxPxC: jax.Array) -> jax.Array:
        more = slots - x_BxKxPxC.shape[2]
        return constrain(jnp.pad(x_BxKxPxC, ((0, 0), (0, 0), (0, more), (0, 0))), *_SLOTS)

    return [(one(k), one(v)) for k, v in cache]


def extend(
    config: DecoderConfig,
    params: Params,
    tokens_B: jax.Array,
    position_B: jax.Array,
    slot: jax.Array,
    visible_BxM: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """[B, D] of one more token a row, and the cache with it in `slot`.

    Args:
        position_B: int32, how many tokens of the row stand before it.
        visible_BxM: the slots that its attention reads, `slot` among them.
    """
    model, grown = bind(config, params), []
    x_Bx1xD = model.embed(tokens_B[:, None])
    for block, kept in zip(model.blocks(), cache, strict=True):
        attended, kept = _attend(block.attention, x_Bx1xD, position_B, slot, visible_BxM, kept)
        x_Bx1xD = block.add(x_Bx1xD, attended)
        grown.append(kept)
    return model.norm(x_Bx1xD)[:, 0], grown


def _attend(
    attention: Attention,
    x_Bx1xD: jax.Array,
    position_B: jax.Array,
    slot: jax.Array,
    visible_BxM: jax.Array,
    kept: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    q_BxHx1xC, *new = attention.project(x_Bx1xD, first_B=position_B)
    k, v = (
        constrain(jax.lax.dynamic_update_slice_in_dim(old, x, slot, axis=2), *_SLOTS)
        for old, x in zip(kept, new, strict=True)
    )
    B, H, _, C = q_BxHx1xC.shape
    q_BxKxGxC = q_BxHx1xC.reshape(B, k.shape[1], -1, C) * C**-0.5
    scores = jnp.einsum("bkgc,bkmc->bkgm", q_BxKxGxC, k).astype(jnp.float32)
    scores = jnp.where(visible_BxM[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    summed = jnp.einsum("bkgm,bkmc->bkgc", weights.astype(v.dtype), v)
    attended = summed / weights.sum(axis=-1, keepdims=True).astype(summed.dtype)
    return attention.join(attended.reshape(B, 1, H, C), heads_first=False), (k, v)
