import jax
import numpy as np
import pytest
from model import reference

from ttoaa.model.decoder import DecoderConfig, abstract_params
from ttoaa.scoring import likelihood
from ttoaa.scoring.likelihood import log_likelihoods, row_losses

MODEL = DecoderConfig(vocab_size=41, layers=2, width=16, heads=4, hidden=24, kv_heads=2)
LENGTHS = (2, 3, 31, 32, 33, 64, 65, 20, 20, 50)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (
            rng.normal(1, 0.5, leaf.shape).astype(np.float32)
            if leaf.ndim == 1
            else rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape).astype(np.float32)
        ),
        abstract_params(MODEL),
    )


@pytest.fixture(scope="module")
def requests():
    """One for each length, the start anywhere that is allowed, both ends among them."""
    rng = np.random.default_rng(1)
    starts = [1, 2, 1, 31, 15, 63, 1, 19, 1, 7]
    return [
        (rng.integers(0, MODEL.vocab_size, n).astype(np.int32), start)
        for n, start in zip(LENGTHS, starts, strict=True)
    ]


@pytest.fixture(scope="module")
def scores(params, requests):
    return log_likelihoods(MODEL, params, requests)


def same(one, other):
    return [a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)]


def test_scores_are_those_of_a_plain_olmo2(params, requests, scores):
    for (tokens, start), score in zip(requests, scores, strict=True):
        assert score.dtype == np.float32 and score.shape == (len(tokens) - start,)
        expected = reference.log_probs(MODEL, params, tokens[None])[0, start - 1 :]
        np.testing.assert_allclose(score, expected, atol=1e-5)


def test_a_later_start_gives_the_end_of_the_same_scores(params, requests):
    tokens, _ = requests[5]
    whole, rest = log_likelihoods(MODEL, params, [(tokens, 1), (tokens, 40)])
    assert whole[39:].tobytes() == rest.tobytes()


def test_the_order_changes_no_bit(params, requests, scores):
    order = np.random.default_rng(2).permutation(len(requests))
    shuffled = log_likelihoods(MODEL, params, [requests[i] for i in order])
    assert all(same(shuffled, [scores[i] for i in order]))


def test_an_item_alone_has_the_same_bits(params, requests, scores):
    alone = [log_likelihoods(MODEL, params, [request])[0] for request in requests]
    assert all(same(alone, scores))


def test_other_neighbours_change_no_bit(params, requests, scores):
    rng = np.random.default_rng(3)
    crowd = [(rng.integers(0, MODEL.vocab_size, 32), 1) for _ in range(70)]
    mixed = log_likelihoods(MODEL, params, [*crowd, *requests, *crowd])
    assert all(same(mixed[70:80], scores))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_changes_no_bit(params, requests, scores, batch):
    assert all(same(log_likelihoods(MODEL, params, requests, batch), scores))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, list])
def test_tokens_of_any_integer_type(params, requests, scores, dtype):
    tokens, start = requests[2]
    given = tokens.tolist() if dtype is list else tokens.astype(dtype)
    assert all(same(log_likelihoods(MODEL, params, [(given, start)]), scores[2:3]))


@pytest.mark.parametrize(("n", "start"), [(5, 0), (5, -1), (5, 5), (5, 6), (1, 1), (0, 1)])
def test_a_request_without_context_or_tokens_is_named(params, requests, n, start):
    bad = (np.ones(n, np.int32), start)
    with pytest.raises(ValueError, match=rf"request 1: start {start} must leave .*of {n} tokens"):
        log_likelihoods(MODEL, params, [requests[0], bad])


def test_nothing_to_score_is_fine(params):
    assert log_likelihoods(MODEL, params, []) == []


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_row_losses_are_mean_losses(params, rows):
    tokens = np.random.default_rng(4).integers(0, MODEL.vocab_size, (rows, 12))
    losses = row_losses(MODEL, params, tokens)
    expected = -reference.log_probs(MODEL, params, tokens).mean(axis=1)
    assert losses.shape == (rows,)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_a_row_loss_depends_on_its_row_alone(params):
    tokens = np.random.default_rng(5).integers(0, MODEL.vocab_size, (5, 12))
    losses = row_losses(MODEL, params, tokens)
    for row in range(5):
        assert row_losses(MODEL, params, tokens[row : row + 1]).tobytes() == losses[row].tobytes()
    assert row_losses(MODEL, params, tokens[::-1]).tobytes() == losses[::-1].tobytes()


def test_rows_of_a_pass_follow_the_platform(monkeypatch):
    assert likelihood.pass_rows(4096) == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert [likelihood.pass_rows(length) for length in (32, 4096, 32_768)] == [512, 4, 1]
    assert likelihood.pass_rows(4096, "cpu") == 2
