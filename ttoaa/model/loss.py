"""Cross-entropy of the next token, without float32 logits of the whole batch.

Shapes: B rows, L positions, D width, V vocabulary; N of the L positions are in a chunk.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ttoaa.model.sharding import constrain

Pair = tuple[jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def token_losses(
    x_BxLxD: jax.Array, head_DxV: jax.Array, targets_BxL: jax.Array, chunks: int = 1
) -> Pair:
    """float32[B, L] cross-entropies in nats, and float32[B, L] log partition functions.

    The logits are x @ head in x's type; a partition function is summed in float32, and so is
    head's gradient.
    With one chunk the logits are kept for the backward pass. With more, L is cut (not B, so that
    each device works on its own rows of every chunk), one chunk at a time has logits, and the
    backward pass makes them again. A position without a target takes any id and weight 0.

    Raises:
        ValueError: L is not a multiple of chunks.
    """
    return _forward(x_BxLxD, head_DxV, targets_BxL, chunks)[0]


def _forward(
    x_BxLxD: jax.Array, head_DxV: jax.Array, targets_BxL: jax.Array, chunks: int
) -> tuple[Pair, Any]:
    L = x_BxLxD.shape[1]
    if chunks < 1 or L % chunks:
        raise ValueError(f"loss_chunks must divide the {L} positions of a row, not be {chunks}")
    head = constrain(head_DxV.astype(x_BxLxD.dtype), None, "vocab")
    if chunks == 1:
        kept = x_BxLxD @ head
        losses = _losses(kept, targets_BxL)
        return losses, (x_BxLxD, head_DxV, targets_BxL, losses[1], kept)
    losses = jax.lax.map(
        lambda piece: _losses(piece[0] @ head, piece[1]),
        (_cut(x_BxLxD, chunks), _cut(targets_BxL, chunks)),
    )
    losses = _join(losses[0]), _join(losses[1])
    return losses, (x_BxLxD, head_DxV, targets_BxL, losses[1], None)


def _backward(chunks: int, residuals: Any, cotangents: Pair) -> tuple[jax.Array, jax.Array, None]:
    x_BxLxD, head_DxV, targets_BxL, log_partition_BxL, kept = residuals
    head = constrain(head_DxV.astype(x_BxLxD.dtype), None, "vocab")
    rows = (x_BxLxD, targets_BxL, log_partition_BxL, *cotangents)
    if chunks == 1:
        dx, dhead = _gradients(head, kept, *rows)
        return dx, dhead.astype(head_DxV.dtype), None

    def add(dhead: jax.Array, piece: Any) -> Pair:
        dx, more = _gradients(head, piece[0] @ head, *piece)
        return dhead + more, dx

    zero = jnp.zeros(head.shape, jnp.float32)
    dhead, dx = jax.lax.scan(add, zero, tuple(_cut(one, chunks) for one in rows))
    return _join(dx), dhead.astype(head_DxV.dtype), None


token_losses.defvjp(_forward, _backward)


def _losses(logits_BxNxV: jax.Array, targets_BxN: jax.Array) -> Pair:
    logits = logits_BxNxV.astype(jnp.float32)
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    # A sum and not a look-up: a vocabulary sharded over devices would be gathered for that.
    target = jnp.where(_is_target(logits, targets_BxN), logits, 0).sum(axis=-1)
    return log_partition - target, log_partition


def _gradients(
    head: jax.Array,
    logits: jax.Array,
    x: jax.Array,
    targets: jax.Array,
    log_partition: jax.Array,
    dloss: jax.Array,
    dlog_partition: jax.Array,
) -> Pair:
    p = jnp.exp(logits.astype(jnp.float32) - log_partition[..., None])
    dlogits = (dloss + dlog_partition)[..., None] * p
    dlogits -= jnp.where(_is_target(logits, targets), dloss[..., None], 0)
    dlogits = dlogits.astype(x.dtype)
    dx = jnp.einsum("bnv,dv->bnd", dlogits, head)
    dhead = jnp.einsum("bnd,bnv->dv", x, dlogits, preferred_element_type=jnp.float32)
    return dx, dhead


def _is_target(logits_BxNxV: jax.Array, targets_BxN: jax.Array) -> jax.Array:
    ids = jax.lax.broadcasted_iota(targets_BxN.dtype, logits_BxNxV.shape, 2)
    return ids == targets_BxN[..., None]


def _cut(array_BxL: jax.Array, chunks: int) -> jax.Array:
    """[chunks, B, L / chunks, ...] of [B, L, ...]."""
    B, L, *rest = array_BxL.shape
    return jnp.moveaxis(array_BxL.reshape(B, chunks, L // chunks, *rest), 1, 0)


def _join(pieces: jax.Array) -> jax.Array:
    chunks, B, N, *rest = pieces.shape
    return jnp.moveaxis(pieces, 0, 1).reshape(B, chunks * N, *rest)
