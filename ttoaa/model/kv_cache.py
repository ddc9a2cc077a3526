"""Decode one token at a time with cached keys and values.

A row of the cache has M slots. Its prompt fills the first ones, and generated tokens follow from
slot P on, where P is the longest prompt that fits: so one write serves all rows. The unused slots
before P are never read. Other shapes are those of `decoder`.
"""

import jax
import jax.numpy as jnp

from ttoaa.model.attention import document_ids
from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import Attention, DecoderConfig, Params, bind
from ttoaa.model.sharding import constrain

Cache = list[tuple[jax.Array, jax.Array]]
"""Keys and values [B, K, M, C] of each layer."""

_SLOT_AXES = ("batch", "heads", None, None)


def prefill(
    config: DecoderConfig,
    params: Params,
    tokens_BxP: jax.Array,
    execution: Execution = PLAIN,
) -> tuple[jax.Array, Cache]:
    """Run the prompts: return features [B, P, D] and the P filled slots of every layer."""
    model = bind(config, params)
    separator, documents = config.document_separator, None
    if separator is not None:
        documents = document_ids(tokens_BxP, separator)
    x_BxPxD, cache = model.embed(tokens_BxP), []
    for block in model.blocks():
        attended, k, v = block.attention.attend(x_BxPxD, documents, execution)
        x_BxPxD = block.add_residuals(x_BxPxD, attended)
        cache.append((k, v))
    return model.norm(x_BxPxD), cache


def add_slots(cache: Cache, slots: int) -> Cache:
    """Add empty slots, up to `slots` in all."""

    def pad(x_BxKxPxC: jax.Array) -> jax.Array:
        more = slots - x_BxKxPxC.shape[2]
        return constrain(jnp.pad(x_BxKxPxC, ((0, 0), (0, 0), (0, more), (0, 0))), *_SLOT_AXES)

    return [(pad(k), pad(v)) for k, v in cache]


def decode_token(
    config: DecoderConfig,
    params: Params,
    tokens_B: jax.Array,
    position_B: jax.Array,
    slot: jax.Array,
    visible_BxM: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Run one more token per row: return features [B, D] and the cache with the token in `slot`.

    Args:
        position_B: int32, the token's position in its row.
        visible_BxM: bool, the slots that its attention reads, `slot` included.
    """
    model, new_cache = bind(config, params), []
    x_Bx1xD = model.embed(tokens_B[:, None])
    for block, slots in zip(model.blocks(), cache, strict=True):
        attended, slots = _attend(block.attention, x_Bx1xD, position_B, slot, visible_BxM, slots)
        x_Bx1xD = block.add_residuals(x_Bx1xD, attended)
        new_cache.append(slots)
    return model.norm(x_Bx1xD)[:, 0], new_cache


def _attend(
    attention: Attention,
    x_Bx1xD: jax.Array,
    position_B: jax.Array,
    slot: jax.Array,
    visible_BxM: jax.Array,
    slots: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Write a token's key and value into `slot`, then attend to the visible slots."""
    q_BxHx1xC, *new = attention.project(x_Bx1xD, first_B=position_B)
    k, v = (
        constrain(jax.lax.dynamic_update_slice_in_dim(old, x, slot, axis=2), *_SLOT_AXES)
        for old, x in zip(slots, new, strict=True)
    )
    B, H, _, C = q_BxHx1xC.shape
    q_BxKxGxC = q_BxHx1xC.reshape(B, k.shape[1], -1, C) * C**-0.5
    scores = jnp.einsum("bkgc,bkmc->bkgm", q_BxKxGxC, k).astype(jnp.float32)
    scores = jnp.where(visible_BxM[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    summed = jnp.einsum("bkgm,bkmc->bkgc", weights.astype(v.dtype), v)
    attended = summed / weights.sum(axis=-1, keepdims=True).astype(summed.dtype)
    return attention.project_out(attended.reshape(B, 1, H, C), heads_first=False), (k, v)
