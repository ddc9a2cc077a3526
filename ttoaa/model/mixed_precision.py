"""Einsum of low-precision activations and float32 weights, with gradients in each operand's type.

Attention and the decoder's projections use it.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mixed_einsum(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Compute jnp.einsum(spec, a, b) in the smaller of the two types.

    Each gradient has its operand's type: that of a float32 weight is summed over tokens and devices
    in float32. The gradients are written as einsums of their own. JAX's rule transposes a product
    instead, which costs XLA's CPU backend a fifth of a training step.
    """
    return _einsum(spec, a, b)


def _einsum(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return jnp.einsum(spec, a.astype(dtype), b.astype(dtype))


Pair = tuple[jax.Array, jax.Array]


def _forward(spec: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, Pair]:
    return _einsum(spec, a, b), (a, b)


def _backward(spec: str, operands: Pair, dy: jax.Array) -> Pair:
    a, b = operands
    inputs, y = spec.split("->")
    axes_a, axes_b = inputs.split(",")
    a_in_dy, b_in_dy = a.astype(dy.dtype), b.astype(dy.dtype)
    da = jnp.einsum(f"{y},{axes_b}->{axes_a}", dy, b_in_dy, preferred_element_type=a.dtype)
    db = jnp.einsum(f"{axes_a},{y}->{axes_b}", a_in_dy, dy, preferred_element_type=b.dtype)
    return da, db


mixed_einsum.defvjp(_forward, _backward)
