"""A fingerprint of every leaf of a tree: the same on any mesh, another where one bit is.

Integer sums modulo 2**32 do not depend on the order of summation. Nothing is gathered: a device
mixes each of its elements with the element's index in the whole array, and two sums are reduced.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def fingerprints(tree: Any) -> dict[str, list[Any]]:
    """[kind, uint32, uint32] of every leaf, by path; every process must call it, all get the same.

    The kind is type and shape, such as 'float32[3, 4]'.
    """
    # A program for each shape, not one of all leaves: that takes XLA minutes for a large model.
    sums = jax.device_get([_begin(leaf) for leaf in jax.tree.leaves(tree)])
    return {
        leaf: [kind, int(first), int(second)]
        for (leaf, kind), (first, second) in zip(kinds(tree).items(), sums, strict=True)
    }


def _begin(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return _program(_everywhere(leaf))(leaf)
    # Perhaps read only when it is asked for: it is gone again before the next one is.
    return jax.device_get(_program(None)(np.asarray(leaf)))


def kinds(tree: Any) -> dict[str, str]:
    """Type and shape of every leaf, by path."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p): f"{leaf.dtype}{list(leaf.shape)}" for p, leaf in flat}


def _everywhere(leaf: Any) -> NamedSharding | None:
    """On all devices of the leaf's mesh, so that every process can read it; None without a mesh."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec())


@functools.cache
def _program(out: NamedSharding | None) -> Any:
    return jax.jit(_sums, out_shardings=out)


def _sums(leaf: jax.Array) -> jax.Array:
    """uint32[2]: sums over the elements of two mixes of (value's bits, row-major index)."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = jnp.uint32(math.prod(leaf.shape[axis + 1 :]) % 2**32)
        index += stride * jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    first = _mix(bits + _mix(index + jnp.uint32(0x9E3779B9)))
    second = _mix(bits * jnp.uint32(0x9E3779B1) ^ _mix(index + jnp.uint32(0x7F4A7C15)))
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _mix(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
