import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ttoaa.scoring import generation
from ttoaa.scoring.requests import item_key

N, V = 4000, 12
LOGITS = np.random.default_rng(3).permutation(np.linspace(0, 2, V)).astype(np.float32)


@pytest.fixture(scope="module")
def keys():
    return np.stack([item_key(0, number, np.array([1])) for number in range(N)])


choose = jax.jit(generation.choose_tokens, static_argnames="top_k")


def draw(keys, logits, temperature=1.0, top_k=None, top_p=None):
    """One token for each key, all from the same logits, others being impossible."""
    row = np.full(V, -3e38, np.float32)
    row[: len(logits)] = logits
    rows = np.broadcast_to(row, (len(keys), V))
    return np.asarray(choose(rows, keys, 0, temperature, top_k=top_k, top_p=top_p))


def by_hand(logits, temperature, top_k, top_p):
    """float64[V]: temperature, then the k likeliest, then the nucleus of what is left."""
    p = np.exp(logits.astype(np.float64) / temperature)
    order = np.argsort(-p, kind="stable")[:top_k]
    p_ordered = p[order] / p[order].sum()
    if top_p is not None:
        kept = 1 + int(np.sum(np.cumsum(p_ordered)[:-1] < top_p))
        order, p_ordered = order[:kept], p_ordered[:kept] / p_ordered[:kept].sum()
    out = np.zeros(len(p))
    out[order] = p_ordered
    return out


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "support"),
    [
        (1.0, None, None, V),
        (0.6, None, None, V),
        (1.7, 5, None, 5),
        (1.0, None, 0.8, 7),
        (0.8, 7, 0.7, 4),
        (1.0, 40, 1.0, V),
    ],
)
def test_draws_follow_the_distribution(keys, temperature, top_k, top_p, support):
    expected = by_hand(LOGITS, temperature, top_k, top_p)
    assert (expected > 0).sum() == support
    counts = np.bincount(draw(keys, LOGITS, temperature, top_k, top_p), minlength=V)
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert stats.chisquare(counts[kept], N * expected[kept]).pvalue > 1e-3


def test_the_temperature_comes_before_the_nucleus(keys):
    p = np.array([0.5, 0.3, 0.2])
    # Squared and summing to 1 again: 0.66, 0.24, 0.11.
    assert set(draw(keys, np.log(p), 0.5, top_p=0.6)) == {0}
    assert set(draw(keys, np.log(p), 1.0, top_p=0.6)) == {0, 1}


def test_the_nucleus_counts_what_the_likeliest_k_leave(keys):
    p = np.array([0.4, 0.3, 0.2, 0.1])
    # Of the first two alone, the first has 4/7.
    assert set(draw(keys, np.log(p), top_k=2, top_p=0.55)) == {0}
    assert set(draw(keys, np.log(p), top_p=0.55)) == {0, 1}


@pytest.mark.parametrize(("top_p", "kept"), [(0.499, {0}), (0.501, {0, 1}), (0.751, {0, 1, 2})])
def test_the_nucleus_holds_the_token_that_reaches_its_probability(keys, top_p, kept):
    assert set(draw(keys, np.log([0.5, 0.25, 0.25]), top_p=top_p)) == kept


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-9}, {"top_p": 1e-9, "top_k": 5}])
def test_the_narrowest_cuts_are_greedy(keys, cut):
    logits = np.array([0.1, 2.0, 1.0, 2.0, -1.0])
    assert set(draw(keys, logits, temperature=3.0, **cut)) == {1}
    assert set(draw(keys, logits, temperature=None)) == {1}


def test_of_equals_the_first_are_among_the_likeliest(keys):
    assert set(draw(keys, np.zeros(9), top_k=3)) == {0, 1, 2}


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_the_coldest_temperature_is_greedy(keys, scale):
    logits = scale * np.array([1.0, 3.0, 2.9, -5.0])
    assert set(draw(keys, logits, temperature=1e-6)) == {1}


def test_a_draw_is_of_its_key_and_number_alone(keys):
    rng = np.random.default_rng(5)
    logits, some = rng.normal(0, 1, (64, V)).astype(np.float32), keys[:64]
    together = np.asarray(choose(logits, some, 3, 1.0))
    alone = [int(choose(logits[i : i + 1], some[i : i + 1], 3, 1.0)[0]) for i in range(64)]
    assert together.tolist() == alone
    order = rng.permutation(64)
    np.testing.assert_array_equal(choose(logits[order], some[order], 3, 1.0), together[order])
    assert (np.asarray(choose(logits, some, 4, 1.0)) != together).mean() > 0.5


def test_numbers_of_one_key_are_drawn_apart():
    key = np.stack([item_key(0, 0, np.array([1]))] * N)
    numbers = jnp.arange(N)
    each = jax.vmap(lambda key, number: choose(LOGITS[None], key[None], number, 1.0)[0])
    counts = np.bincount(np.asarray(each(key, numbers)), minlength=V)
    expected = by_hand(LOGITS, 1.0, None, None)
    assert stats.chisquare(counts, N * expected).pvalue > 1e-3
