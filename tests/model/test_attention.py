import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttoaa.model import attention

causal_attention = jax.jit(attention.causal_attention)


def draw(B, L, H, K, C, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, L, H, C), (B, L, K, C), (B, L, K, C)]
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]


def by_hand(q, k, v):
    """Float64, one query at a time."""
    B, L, H, C = q.shape
    out = np.empty(q.shape)
    for b in range(B):
        for h in range(H):
            kv = h // (H // k.shape[2])
            for t in range(L):
                scores = k[b, : t + 1, kv].astype(np.float64) @ q[b, t, h] / np.sqrt(C)
                weights = np.exp(scores - scores.max())
                out[b, t, h] = weights / weights.sum() @ v[b, : t + 1, kv]
    return out


@pytest.mark.parametrize(
    "shape", [(2, 7, 4, 4, 8), (1, 9, 6, 2, 4), (3, 5, 4, 1, 2), (1, 1, 2, 2, 4)]
)
def test_equals_a_softmax_over_the_past(shape):
    q, k, v = draw(*shape)
    np.testing.assert_allclose(causal_attention(q, k, v), by_hand(q, k, v), atol=2e-6)


def test_scores_of_thousands_do_not_overflow():
    q, k, v = draw(1, 6, 2, 2, 8, scale=60)
    assert np.abs(np.einsum("blhc,bmhc->bhlm", q, k)).max() > 5_000
    np.testing.assert_allclose(causal_attention(q, k, v), by_hand(q, k, v), rtol=1e-4, atol=1e-3)


def test_the_gradient_is_that_of_the_softmax():
    """The largest score is treated as a constant; it must not change the gradient."""
    q, k, v = (x.astype(np.float32) for x in draw(1, 5, 2, 1, 4))
    weight = np.random.default_rng(1).standard_normal(q.shape)

    def plain(q, k, v):
        scores = jnp.einsum("blhc,bmkc->bhlm", q, k) / jnp.sqrt(4.0)
        scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), scores, -jnp.inf)
        return jnp.einsum("bhlm,bmkc->blhc", jax.nn.softmax(scores, axis=-1), v)

    ours, theirs = (
        jax.jit(jax.grad(lambda *a, f=f: (f(*a) * weight).sum(), (0, 1, 2)))(q, k, v)
        for f in (causal_attention, plain)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_bfloat16_keeps_its_type_and_stays_near():
    q, k, v = draw(2, 16, 2, 2, 8)
    out = causal_attention(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(np.float32), by_hand(q, k, v), atol=0.04)
