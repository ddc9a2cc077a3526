import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from ttoaa.model import attention
from ttoaa.model.attention import Blocks, choose_kernel, document_ids
from ttoaa.model.sharding import AXES, Layout, make_mesh

SMALL = Blocks(128, 256, 128, 128, 256, 128)


def causal_attention(*args, kernel="xla", documents=None):
    """Compiled; splash in tiles so small that a length of 256 has several."""
    return jax.jit(
        lambda *args: attention.causal_attention(
            *args, kernel=kernel, documents_BxL=documents, blocks=SMALL
        )
    )(*args)


@pytest.fixture
def kernels_run_here(monkeypatch):
    """Splash interpreted; in place of cuDNN the same JAX function's XLA implementation."""
    dot_product_attention = jax.nn.dot_product_attention

    def instead(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        assert kwargs["is_causal"]
        return dot_product_attention(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", instead)
    interpret_splash(monkeypatch.setattr)


def interpret_splash(setattr):
    make = functools.partial(splash.make_splash_mha, interpret=True)
    setattr(splash, "make_splash_mha", make)


def draw(B, L, H, K, C, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, L, H, C), (B, L, K, C), (B, L, K, C)]
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]


def draw_documents(B, L, seed=0):
    """Several a row, of all lengths, cut in places of their own."""
    return np.random.default_rng(seed).integers(0, 2, (B, L)).cumsum(axis=1, dtype=np.int32) // 9


def by_hand(q, k, v, documents=None):
    """Float64, one query at a time."""
    B, L, H, C = q.shape
    out = np.empty(q.shape)
    for b in range(B):
        for h in range(H):
            kv = h // (H // k.shape[2])
            for t in range(L):
                seen = np.arange(t + 1)
                if documents is not None:
                    seen = seen[documents[b, seen] == documents[b, t]]
                scores = k[b, seen, kv].astype(np.float64) @ q[b, t, h] / np.sqrt(C)
                weights = np.exp(scores - scores.max())
                out[b, t, h] = weights / weights.sum() @ v[b, seen, kv]
    return out


def gradients_by_hand(q, k, v, dout, documents=None):
    """Float64, one query at a time, by the chain rule: those of q, k and v."""
    B, L, H, C = q.shape
    dq, dk, dv = (np.zeros(x.shape) for x in (q, k, v))
    for b in range(B):
        for h in range(H):
            kv = h // (H // k.shape[2])
            for t in range(L):
                seen = np.arange(t + 1)
                if documents is not None:
                    seen = seen[documents[b, seen] == documents[b, t]]
                keys, values = k[b, seen, kv].astype(np.float64), v[b, seen, kv].astype(np.float64)
                weights = np.exp(keys @ q[b, t, h] / np.sqrt(C))
                weights /= weights.sum()
                dv[b, seen, kv] += np.outer(weights, dout[b, t, h])
                dweights = values @ dout[b, t, h]
                dscores = weights * (dweights - weights @ dweights) / np.sqrt(C)
                dk[b, seen, kv] += np.outer(dscores, q[b, t, h])
                dq[b, t, h] = dscores @ keys
    return dq, dk, dv


@pytest.mark.parametrize(
    "shape", [(2, 7, 4, 4, 8), (1, 9, 6, 2, 4), (3, 5, 4, 1, 2), (1, 1, 2, 2, 4)]
)
def test_equals_a_softmax_over_the_past(shape):
    q, k, v = draw(*shape)
    np.testing.assert_allclose(causal_attention(q, k, v), by_hand(q, k, v), atol=2e-6)


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        ("xla", (2, 33, 4, 2, 8)),
        ("cudnn", (2, 33, 4, 2, 8)),
        ("splash", (1, 256, 2, 1, 8)),
    ],
)
@pytest.mark.parametrize("in_documents", [False, True])
def test_every_kernel_equals_the_softmax_forward_and_backward(
    kernels_run_here, kernel, shape, in_documents
):
    q, k, v = draw(*shape)
    documents = draw_documents(*shape[:2]) if in_documents else None
    dout = np.random.default_rng(1).standard_normal(q.shape).astype(np.float32)
    attend = functools.partial(causal_attention, kernel=kernel, documents=documents)
    out, pull = jax.vjp(attend, q, k, v)
    np.testing.assert_allclose(out, by_hand(q, k, v, documents), atol=3e-6)
    by_chain_rule = gradients_by_hand(q, k, v, dout, documents)
    for ours, theirs in zip(pull(dout), by_chain_rule, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_scores_of_thousands_do_not_overflow():
    q, k, v = draw(1, 6, 2, 2, 8, scale=60)
    assert np.abs(np.einsum("blhc,bmhc->bhlm", q, k)).max() > 5_000
    np.testing.assert_allclose(causal_attention(q, k, v), by_hand(q, k, v), rtol=1e-4, atol=1e-3)


def test_bfloat16_keeps_its_type_and_stays_near():
    q, k, v = draw(2, 16, 2, 2, 8)
    out = causal_attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), by_hand(q, k, v), atol=0.04)


def test_an_end_of_document_belongs_to_the_document_that_it_ends():
    tokens = jnp.array([[5, 0, 6, 7, 0, 0, 8], [0, 5, 5, 5, 5, 5, 0]])
    assert document_ids(tokens, 0).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("platform", "dtype", "length", "head_width", "kernel"),
    [
        ("cpu", "bfloat16", 4096, 128, "xla"),
        ("tpu", "bfloat16", 4096, 128, "splash"),
        ("tpu", "float32", 384, 64, "splash"),
        ("tpu", "bfloat16", 1000, 128, "xla"),
        ("gpu", "bfloat16", 4096, 128, "cudnn"),
        ("cuda", "bfloat16", 1000, 64, "cudnn"),
        ("gpu", "float32", 4096, 128, "xla"),
        ("gpu", "bfloat16", 4096, 100, "xla"),
        ("gpu", "bfloat16", 4096, 256, "xla"),
    ],
)
def test_auto_takes_what_the_platform_and_the_shapes_allow(
    platform, dtype, length, head_width, kernel
):
    arguments = platform, dtype, length, head_width
    assert choose_kernel("auto", *arguments) == kernel
    assert choose_kernel(kernel, *arguments) == kernel
    assert choose_kernel("xla", *arguments) == "xla"


@pytest.mark.parametrize(
    ("asked", "platform", "dtype", "length", "head_width", "says"),
    [
        ("splash", "cpu", "float32", 128, 64, "'splash' does not run on cpu"),
        ("cudnn", "tpu", "bfloat16", 128, 64, "'cudnn' does not run on tpu"),
        ("splash", "tpu", "bfloat16", 200, 64, "multiple of 128, not 200"),
        ("cudnn", "gpu", "float32", 128, 64, "bfloat16, not float32"),
        ("cudnn", "gpu", "bfloat16", 128, 100, "steps of 8, not 100"),
        ("flash", "gpu", "bfloat16", 128, 64, "not 'flash'"),
    ],
)
def test_a_kernel_that_cannot_do_it_is_refused(asked, platform, dtype, length, head_width, says):
    with pytest.raises(ValueError, match=says):
        choose_kernel(asked, platform, dtype, length, head_width)


def test_tiles_divide_the_length_and_pieces_their_tile():
    fitted = Blocks(1024, 1024, 512, 512, 2048, 1024).fit(1280)
    backward = fitted.block_q_dkv, fitted.block_kv_dkv, fitted.block_kv_dkv_compute
    assert (fitted.block_q, fitted.block_kv, fitted.block_kv_compute) == (640, 640, 128)
    assert backward == (256, 1280, 640)
    with pytest.raises(
        ValueError, match=r"Blocks\.key must be an integer that is a multiple of 128 .*, not 100"
    ):
        Blocks(key=100)


@pytest.mark.parametrize(
    ("shape", "says"), [((2, 1), "3 rows .* = 2"), ((1, 4), "2 key-value .* 4")]
)
def test_rows_and_heads_that_the_mesh_cannot_share_out_are_refused(shape, says):
    mesh = jax.sharding.AbstractMesh((1, *shape), AXES)
    q, k, v = draw(3, 128, 4, 2, 8)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match=says):
        attention.causal_attention(q, k, v, kernel="splash")


def test_splash_over_a_mesh_gives_each_device_its_rows_and_heads():
    """Eight devices hold two rows' halves of the heads; queries find their own key-value head."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["shard"] == [1, 128, 2, 8]
    assert max(result["errors"]) < 2e-5


def _splash_over_a_mesh():
    interpret_splash(setattr)
    q, k, v = draw(4, 128, 4, 2, 8)
    documents = draw_documents(4, 128)
    dout = np.random.default_rng(1).standard_normal(q.shape).astype(np.float32)
    with jax.set_mesh(make_mesh(Layout(data=2, fsdp=2, tensor=2))):
        out, pull = jax.vjp(
            functools.partial(causal_attention, kernel="splash", documents=documents), q, k, v
        )
        ours = out, *pull(dout)
    theirs = by_hand(q, k, v, documents), *gradients_by_hand(q, k, v, dout, documents)
    errors = [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]
    print(json.dumps({"shard": out.addressable_shards[0].data.shape, "errors": errors}))


if __name__ == "__main__":
    _splash_over_a_mesh()
