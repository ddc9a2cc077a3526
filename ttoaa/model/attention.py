"""Causal attention, one interface; the kernel for the platform is chosen here and nowhere else."""

import jax
import jax.numpy as jnp


def causal_attention(q_BxLxHxC: jax.Array, k_BxLxKxC: jax.Array, v_BxLxKxC: jax.Array) -> jax.Array:
    """[B, L, H, C]: softmax(q k / sqrt(C)) v over the past; query head h reads kv head h // (H/K).

    The softmax is in float32, as in OLMo-2. XLA everywhere for now. Heads come first and the
    weights are normalised after the product with v: on CPU a training step takes three quarters of
    the time that it takes the other way round.
    """
    B, L, H, C = q_BxLxHxC.shape
    K = k_BxLxKxC.shape[2]
    q_BxKxGxLxC = q_BxLxHxC.reshape(B, L, K, H // K, C).transpose(0, 2, 3, 1, 4)
    k_BxKxLxC, v_BxKxLxC = k_BxLxKxC.transpose(0, 2, 1, 3), v_BxLxKxC.transpose(0, 2, 1, 3)
    scores = jnp.einsum("bkglc,bkmc->bkglm", q_BxKxGxLxC * C**-0.5, k_BxKxLxC)
    past_LxL = jnp.tril(jnp.ones((L, L), bool))
    scores = jnp.where(past_LxL, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    summed = jnp.einsum("bkglm,bkmc->bkglc", weights.astype(v_BxKxLxC.dtype), v_BxKxLxC)
    out = summed / weights.sum(axis=-1, keepdims=True).astype(summed.dtype)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, L, H, C)
