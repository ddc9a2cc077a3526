"""Gaussian noise on input embeddings, drawn on the device from a key for each row (contract C9).

JAX's Threefry keys are counter-based: the noise of a row has the same bits on every mesh, in every
process and after every restart, for one version of JAX and one kind of device. Only the unit noise
has; scaling and adding it inside a compiled step may round once more.
"""

import jax
import jax.numpy as jnp

from ttoaa.model.sharding import constrain


def unit_noise(key_Bx2: jax.Array, length: int, width: int) -> jax.Array:
    """Return float32[B, length, width] of N(0, 1), each row from its key of two uint32 words."""
    keys_B = jax.random.wrap_key_data(key_Bx2, impl="threefry2x32")
    tokens_L = jnp.arange(length)

    def of_token(key: jax.Array, token: jax.Array) -> jax.Array:
        # A key for each token: XLA would fold the counters of a whole row at compile time.
        return jax.random.normal(jax.random.fold_in(key, token), (width,), jnp.float32)

    of_row = jax.vmap(of_token, (None, 0))
    noise_BxLxD = jax.vmap(of_row, (0, None))(keys_B, tokens_L)
    return constrain(noise_BxLxD, "batch", None, None)


def resolve_sigma(scale_Bx2: jax.Array, embedding_VxD: jax.Array) -> jax.Array:
    """Return float32[B]: absolute part + relative part * RMS of the embedding matrix."""
    rms = jnp.sqrt(jnp.mean(jnp.square(embedding_VxD.astype(jnp.float32))))
    return scale_Bx2[:, 0] + scale_Bx2[:, 1] * rms
