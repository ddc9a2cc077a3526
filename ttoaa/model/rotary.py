"""Rotary position embedding (Su et al., 2021), in float32, in the form that suits the machine."""

import functools

import jax
import jax.numpy as jnp


def rotate(x_BxHxLxC: jax.Array, theta: float, first_B: jax.Array | None = None) -> jax.Array:
    """[B, H, L, C]: each pair of channels c, c + C/2 turned by an angle that grows with l.

    A row's tokens stand at the positions from first_B on, by default from 0. The halves change
    places before they are multiplied: a CPU joins results of sums half as fast.
    """
    cos, sin = _waves(x_BxHxLxC, theta, first_B)
    a, b = jnp.split(x_BxHxLxC.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([b, a], -1) * jnp.concatenate([-sin, sin], -1)
    kept = jnp.concatenate([a, b], -1) * jnp.concatenate([cos, cos], -1)
    return (kept + turned).astype(x_BxHxLxC.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rotate_by_product(x_BxHxLxC: jax.Array, theta: float) -> jax.Array:
    """The same for a TPU, which multiplies by a permutation faster than it moves half a tile."""
    return _rotate_by_product(x_BxHxLxC, theta, 1)


def _rotate_by_product(x_BxHxLxC: jax.Array, theta: float, direction: int) -> jax.Array:
    dtype, half = x_BxHxLxC.dtype, x_BxHxLxC.shape[-1] // 2
    cos, sin = (jnp.tile(wave, 2) for wave in _waves(x_BxHxLxC, theta))
    turned_CxC = jnp.eye(2 * half, k=half, dtype=dtype) - jnp.eye(2 * half, k=-half, dtype=dtype)
    # One term a sum: exact, in float32 with all of its bits.
    exact = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    turned = jnp.matmul(x_BxHxLxC, turned_CxC, precision=exact).astype(jnp.float32)
    return (x_BxHxLxC.astype(jnp.float32) * cos + direction * sin * turned).astype(dtype)


# The gradient is turned back, in its own type as without this rule.
rotate_by_product.defvjp(
    lambda x, theta: (rotate_by_product(x, theta), None),
    lambda theta, _, dy: (_rotate_by_product(dy, theta, -1),),
)


def _waves(
    x_BxHxLxC: jax.Array, theta: float, first_B: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """float32[L, C / 2] cosines and sines, or [B, 1, L, C / 2] where rows start apart."""
    L, C = x_BxHxLxC.shape[2:]
    frequency = theta ** -(jnp.arange(0, C, 2, dtype=jnp.float32) / C)
    position = jnp.arange(L, dtype=jnp.float32)
    if first_B is not None:
        position = position + first_B.astype(jnp.float32)[:, None, None]
    angle = position[..., None] * frequency
    return jnp.cos(angle), jnp.sin(angle)
