"""Rotary position embedding (Su et al., 2021) in float32, in one form for CPU and one for TPU."""

import functools

import jax
import jax.numpy as jnp


def rotate(x_BxHxLxC: jax.Array, theta: float, first_B: jax.Array | None = None) -> jax.Array:
    """Rotate each pair of channels (c, c + C / 2) by an angle that grows with the position l.

    The tokens of a row have the positions from first_B on, by default from 0. The halves are
    swapped before they are multiplied: a CPU concatenates sums half as fast.
    """
    cos, sin = _cos_sin(x_BxHxLxC, theta, first_B)
    a, b = jnp.split(x_BxHxLxC.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([b, a], -1) * jnp.concatenate([-sin, sin], -1)
    kept = jnp.concatenate([a, b], -1) * jnp.concatenate([cos, cos], -1)
    return (kept + turned).astype(x_BxHxLxC.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rotate_by_matmul(x_BxHxLxC: jax.Array, theta: float) -> jax.Array:
    """Rotate as `rotate` does, by a permutation matrix: a TPU moves half a tile more slowly."""
    return _rotate_by_matmul(x_BxHxLxC, theta, 1)


def _rotate_by_matmul(x_BxHxLxC: jax.Array, theta: float, direction: int) -> jax.Array:
    dtype, half = x_BxHxLxC.dtype, x_BxHxLxC.shape[-1] // 2
    cos, sin = (jnp.tile(wave, 2) for wave in _cos_sin(x_BxHxLxC, theta))
    swap_CxC = jnp.eye(2 * half, k=half, dtype=dtype) - jnp.eye(2 * half, k=-half, dtype=dtype)
    # Each sum has one term, so the product is exact; float32 needs the highest precision for that.
    exact = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    swapped = jnp.matmul(x_BxHxLxC, swap_CxC, precision=exact).astype(jnp.float32)
    return (x_BxHxLxC.astype(jnp.float32) * cos + direction * sin * swapped).astype(dtype)


# The gradient is rotated back, in its own type.
rotate_by_matmul.defvjp(
    lambda x, theta: (rotate_by_matmul(x, theta), None),
    lambda theta, _, dy: (_rotate_by_matmul(dy, theta, -1),),
)


def _cos_sin(
    x_BxHxLxC: jax.Array, theta: float, first_B: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return float32 cosines and sines [L, C / 2], or [B, 1, L, C / 2] with first positions."""
    L, C = x_BxHxLxC.shape[2:]
    frequency = theta ** -(jnp.arange(0, C, 2, dtype=jnp.float32) / C)
    position = jnp.arange(L, dtype=jnp.float32)
    if first_B is not None:
        position = position + first_B.astype(jnp.float32)[:, None, None]
    angle = position[..., None] * frequency
    return jnp.cos(angle), jnp.sin(angle)
