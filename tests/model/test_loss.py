import json
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ttoaa.model.loss import token_losses
from ttoaa.model.sharding import Layout, make_mesh, spec

Z = 0.1
B, L, D, V = 3, 8, 16, 37


def draw(B=B, L=L, D=D, V=V):
    """x, head, targets, weights: the last position has no target."""
    rng = np.random.default_rng(0)
    weights = rng.random((B, L))
    weights[:, -1] = 0
    return (
        rng.standard_normal((B, L, D)).astype(np.float32),
        rng.standard_normal((D, V)).astype(np.float32),
        rng.integers(0, V, (B, L)).astype(np.int32),
        weights.astype(np.float32),
    )


def by_hand(x, head, targets, weights):
    """Float64: losses, log partitions, gradients of the objective by x and by head."""
    x, head, weights = (np.asarray(array, np.float64) for array in (x, head, weights))
    logits = x @ head
    log_partition = np.log(np.exp(logits).sum(-1))
    one_hot = np.eye(head.shape[1])[targets]
    p = np.exp(logits - log_partition[..., None])
    dlogits = weights[..., None] * (p - one_hot + 2 * Z * log_partition[..., None] * p)
    loss = log_partition - (logits * one_hot).sum(-1)
    return loss, log_partition, dlogits @ head.T, np.einsum("bld,blv->dv", x, dlogits)


def objective(losses, weights):
    loss, log_partition = losses
    return (weights * loss).sum() + Z * (weights * log_partition**2).sum()


def everything(losses_of, x, head, targets, weights):
    """What `by_hand` returns, of a function of x, head and targets."""

    def both(x, head):
        losses = losses_of(x, head, targets)
        return objective(losses, weights), losses

    (dx, dhead), losses = jax.jit(jax.grad(both, (0, 1), has_aux=True))(x, head)
    return *losses, dx, dhead


def plain(x, head, targets):
    logits = (x @ head.astype(x.dtype)).astype(jnp.float32)
    log_partition = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return log_partition - target, log_partition


def in_chunks(chunks):
    return lambda x, head, targets: token_losses(x, head, targets, chunks)


@pytest.mark.parametrize("chunks", [1, 2, 8])
def test_float32_equals_the_formula_forward_and_backward(chunks):
    arrays = draw()
    for ours, theirs in zip(everything(in_chunks(chunks), *arrays), by_hand(*arrays), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("chunks", [1, 4])
def test_bfloat16_is_as_near_as_plain_autodiff(chunks):
    x, head, targets, weights = draw(B=4, L=16, D=64, V=301)
    x, head = jnp.asarray(x, jnp.bfloat16), (0.1 * head).astype(jnp.bfloat16).astype(np.float32)
    exact = by_hand(x, head, targets, weights)
    ours = everything(in_chunks(chunks), x, head, targets, weights)
    theirs = everything(plain, x, head, targets, weights)
    for one, other, right in zip(ours, theirs, exact, strict=True):
        assert one.dtype == other.dtype
        near, plainly = (np.linalg.norm(np.asarray(y, np.float64) - right) for y in (one, other))
        assert near < 1.5 * plainly
        assert near < 0.01 * np.linalg.norm(right)
    # Devices and microbatches add their parts of head's gradient: these are not rounded first.
    assert (ours[3] != ours[3].astype(jnp.bfloat16)).mean() > 0.5


def test_logits_of_thousands_do_not_overflow():
    x, head, targets, _ = draw()
    loss, log_partition = token_losses(1_000 * x, head, targets, 2)
    logits = 1_000 * x @ head
    assert logits.max() > 5_000
    target = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(log_partition, logits.max(-1), rtol=1e-5, atol=5)
    np.testing.assert_allclose(loss, logits.max(-1) - target, rtol=1e-4, atol=5)


@pytest.mark.parametrize("chunks", [0, 3, 16])
def test_chunks_that_do_not_divide_the_row_are_refused(chunks):
    x, head, targets, _ = draw()
    with pytest.raises(ValueError, match=f"must divide the 8 positions of a row, not be {chunks}"):
        token_losses(x, head, targets, chunks)


def test_one_chunk_keeps_logits_in_the_type_of_x_and_more_keep_none():
    x, head, targets, _ = draw()

    def kept(chunks):
        """Types of what the backward pass holds that is as large as all logits."""
        _, pull = jax.vjp(in_chunks(chunks), jnp.asarray(x, jnp.bfloat16), head, targets)
        return [leaf.dtype for leaf in jax.tree.leaves(pull) if leaf.size >= B * L * V]

    assert kept(1) == [jnp.bfloat16]
    assert kept(4) == []


def test_no_array_of_a_chunked_pass_is_as_large_as_all_logits():
    x, head, targets, weights = draw(B=2, L=64, D=8, V=512)

    def compiled(chunks):
        def run(x, head):
            return objective(token_losses(x, head, targets, chunks), weights)

        x_ = jnp.asarray(x, jnp.bfloat16)
        return jax.jit(jax.value_and_grad(run, (0, 1))).lower(x_, head).compile()

    logits = x.size // 8 * 512
    assert largest_array(compiled(1)) == logits
    assert largest_array(compiled(8)) <= logits // 8
    assert compiled(8).memory_analysis().temp_size_in_bytes < 4 * logits / 2


def largest_array(compiled):
    shapes = re.findall(r"(?:f32|bf16)\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def test_a_vocabulary_over_devices_is_never_gathered():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    for chunks, seen in json.loads(ran.stdout).items():
        assert max(seen["errors"]) < 2e-5
        # Each device: its quarter of 8 rows, a chunk of 32 positions, its half of 128 entries.
        assert seen["largest"] == 2 * 32 // int(chunks) * 64
        # All that is gathered, once for both passes: the head's width, which FSDP scatters.
        assert seen["gathered"] == ["8,64"]


def _over_a_mesh(chunks):
    arrays = draw(B=8, L=32, D=8, V=128)
    mesh = make_mesh(Layout(data=2, fsdp=2, tensor=2))
    rows, matrix = (NamedSharding(mesh, spec(*axes)) for axes in (("batch",), ("embed", "vocab")))

    def run(x, head, targets, weights):
        losses = token_losses(x, head, targets, chunks)
        return objective(losses, weights), losses

    with jax.set_mesh(mesh):
        placed = jax.device_put(arrays, (rows, matrix, rows, rows))
        gradients = jax.grad(run, (0, 1), has_aux=True)
        step = jax.jit(gradients, out_shardings=((rows, matrix), (rows, rows)))
        compiled = step.lower(*placed).compile()
        (dx, dhead), losses = compiled(*placed)
    text, right = compiled.as_text(), by_hand(*arrays)
    return {
        "errors": [
            float(np.abs(a - b).max()) for a, b in zip((*losses, dx, dhead), right, strict=True)
        ],
        "largest": largest_array(compiled),
        "gathered": re.findall(r"= \w+\[([\d,]+)\]\S* all-gather\(", text),
    }


if __name__ == "__main__":
    print(json.dumps({chunks: _over_a_mesh(chunks) for chunks in (1, 4)}))
