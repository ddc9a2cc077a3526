"""Small trees that are hard to carry, and how tests compare them, in any process."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


def trees(seed):
    """(params, opt) as NumPy: bfloat16, NaN, -0.0, denormals, a scalar count."""
    rng = np.random.default_rng(seed)
    odd = np.array([np.nan, -0.0, 0.0, np.inf, 1e-42, -np.nan], np.float32)
    params = {
        "embedding": rng.standard_normal((64, 48)).astype(np.float32),
        "block": {"half": rng.standard_normal((5, 8)).astype(ml_dtypes.bfloat16), "odd": odd},
    }
    count = np.asarray(seed, np.int32)
    moments = jax.tree.map(lambda x: (x * x).astype(np.float32), params)
    return params, (count, moments)


def put(tree, where=None):
    """The tree on devices: the first one, or as `where(leaf)` says."""
    if where is None:
        return jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, where(x), lambda index: x[index]), tree
    )


def abstract(tree, where=lambda leaf: None):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(x)), tree)


def bits(tree):
    return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def same_shards(tree, reference):
    """Whether what this process holds of every leaf are the bits of the whole NumPy one."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(reference), strict=True)
    return all(
        np.asarray(shard.data).tobytes() == whole[shard.index].tobytes()
        for leaf, whole in pairs
        for shard in leaf.addressable_shards
    )


def meta_of(step):
    return {"step": step, "ledger": {"step": 0.1 + step}, "note": "é"}


def by_ravel(leaf):
    """The fingerprint in NumPy, of the array as one row of numbers."""
    raw = np.asarray(leaf)
    kind = f"{raw.dtype}{list(raw.shape)}"
    values = np.frombuffer(raw.tobytes(), {1: "u1", 2: "<u2", 4: "<u4"}[raw.dtype.itemsize])

    def mix(h):
        h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return h ^ (h >> np.uint32(16))

    bits_, index = values.astype(np.uint32), np.arange(values.size, dtype=np.uint32)
    first = mix(bits_ + mix(index + np.uint32(0x9E3779B9)))
    second = mix(bits_ * np.uint32(0x9E3779B1) ^ mix(index + np.uint32(0x7F4A7C15)))
    return [kind, int(first.sum(dtype=np.uint32)), int(second.sum(dtype=np.uint32))]


def flipped(folder, step):
    """Flips a bit at the start, middle and end of each file of a checkpoint; yields the file."""
    root = folder / str(step)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        size = len(content)
        for offset in sorted({0, size // 2, size - 1} if size else ()):
            changed = bytearray(content)
            changed[offset] ^= 1 << (offset % 8)
            path.write_bytes(changed)
            yield str(path.relative_to(root))
            path.write_bytes(content)
