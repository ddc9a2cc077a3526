"""Products of activations and weights, each gradient in its operand's own type."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """jnp.einsum of two arrays, say bfloat16 activations and a float32 weight, in the smaller type.

    The weight's gradient is summed in its float32, over tokens and over devices. It is asked for as
    a product and not as the transpose of one, as JAX's own rule does it and for which XLA's CPU
    backend transposes activations: a fifth of a training step.
    """
    return _product(spec, a, b)


def _product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return jnp.einsum(spec, a.astype(dtype), b.astype(dtype))


Pair = tuple[jax.Array, jax.Array]


def _forward(spec: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, Pair]:
    return _product(spec, a, b), (a, b)


def _backward(spec: str, operands: Pair, dy: jax.Array) -> Pair:
    a, b = operands
    inputs, y = spec.split("->")
    of_a, of_b = inputs.split(",")
    da = jnp.einsum(f"{y},{of_b}->{of_a}", dy, b.astype(dy.dtype), preferred_element_type=a.dtype)
    db = jnp.einsum(f"{of_a},{y}->{of_b}", a.astype(dy.dtype), dy, preferred_element_type=b.dtype)
    return da, db


product.defvjp(_forward, _backward)
