"""Next-token cross-entropy that never holds float32 logits of a whole batch.

Shapes: B rows, L positions, D width, V vocabulary, N positions of a chunk.
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
    """Return cross-entropies in nats and log-partition functions, both float32[B, L].

    The logits are x @ head in x's type. The partition function and head's gradient are summed in
    float32. With one chunk the logits are kept for the backward pass. With several, L is cut into
    chunks, only one chunk has logits at a time, and the backward pass recomputes them. (B is not
    cut, so that each device works on its own rows of every chunk.) For a position without a target
    pass any id, and give its loss the weight 0.

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
        logits = x_BxLxD @ head
        losses = _losses_from_logits(logits, targets_BxL)
        return losses, (x_BxLxD, head_DxV, targets_BxL, losses[1], logits)
    losses = jax.lax.map(
        lambda chunk: _losses_from_logits(chunk[0] @ head, chunk[1]),
        (_split(x_BxLxD, chunks), _split(targets_BxL, chunks)),
    )
    losses = _merge(losses[0]), _merge(losses[1])
    return losses, (x_BxLxD, head_DxV, targets_BxL, losses[1], None)


def _backward(chunks: int, residuals: Any, cotangents: Pair) -> tuple[jax.Array, jax.Array, None]:
    x_BxLxD, head_DxV, targets_BxL, log_partition_BxL, logits = residuals
    head = constrain(head_DxV.astype(x_BxLxD.dtype), None, "vocab")
    rows = (x_BxLxD, targets_BxL, log_partition_BxL, *cotangents)
    if chunks == 1:
        dx, dhead = _gradients(head, logits, *rows)
        return dx, dhead.astype(head_DxV.dtype), None

    def add_chunk(dhead: jax.Array, chunk: Any) -> Pair:
        dx, more = _gradients(head, chunk[0] @ head, *chunk)
        return dhead + more, dx

    zero = jnp.zeros(head.shape, jnp.float32)
    dhead, dx = jax.lax.scan(add_chunk, zero, tuple(_split(array, chunks) for array in rows))
    return _merge(dx), dhead.astype(head_DxV.dtype), None


token_losses.defvjp(_forward, _backward)


def _losses_from_logits(logits_BxNxV: jax.Array, targets_BxN: jax.Array) -> Pair:
    logits = logits_BxNxV.astype(jnp.float32)
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    # A sum instead of a look-up, which would gather a vocabulary that is sharded over devices.
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


def _split(array_BxL: jax.Array, chunks: int) -> jax.Array:
    """[B, L, ...] → [chunks, B, L / chunks, ...]."""
    B, L, *rest = array_BxL.shape
    return jnp.moveaxis(array_BxL.reshape(B, chunks, L // chunks, *rest), 1, 0)


def _merge(array: jax.Array) -> jax.Array:
    """[chunks, B, N, ...] → [B, chunks * N, ...]."""
    chunks, B, N, *rest = array.shape
    return jnp.moveaxis(array, 0, 1).reshape(B, chunks * N, *rest)
