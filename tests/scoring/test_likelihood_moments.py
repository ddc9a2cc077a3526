import numpy as np
import pytest
from model import reference
from scoring import tiny

from ttoaa.model.decoder import DecoderConfig
from ttoaa.scoring import length_buckets
from ttoaa.scoring.attacks import min_k_plus
from ttoaa.scoring.likelihood import log_likelihoods, vocabulary_moments

MODEL = DecoderConfig(vocab_size=41, layers=1, width=16, heads=4, hidden=24, kv_heads=2)


@pytest.fixture(scope="module")
def params():
    return tiny.params(MODEL)


@pytest.fixture(scope="module")
def requests():
    rng = np.random.default_rng(1)
    return [
        (rng.integers(0, MODEL.vocab_size, n), start)
        for n, start in ((2, 1), (32, 31), (20, 7), (33, 1), (50, 1))
    ]


@pytest.fixture(scope="module")
def found(params, requests):
    return vocabulary_moments(MODEL, params, requests)


def bits(several):
    return [each.tobytes() for one in several for each in one]


def test_moments_are_those_under_the_models_own_distribution(params, requests, found):
    for (tokens, start), one in zip(requests, found, strict=True):
        z = reference.logits(MODEL, params, tokens[None])[0, start - 1 : -1]
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        mean = (p * np.log(p)).sum(-1)
        std = np.sqrt((p * np.log(p) ** 2).sum(-1) - mean**2)
        log_probs = np.log(p[np.arange(len(p)), tokens[start:]])
        for got, expected in zip(one, (log_probs, mean, std), strict=True):
            assert got.dtype == np.float32 and got.shape == (len(tokens) - start,)
            np.testing.assert_allclose(got, expected, atol=2e-5)


def test_log_probs_are_those_of_the_likelihood(params, requests, found):
    likelihoods = log_likelihoods(MODEL, params, requests[:3])
    for one, log_probs in zip(found[:3], likelihoods, strict=True):
        np.testing.assert_allclose(one.log_probs, log_probs, atol=1e-5)


def test_neighbours_order_and_number_change_no_bit(params, requests, found):
    turned = vocabulary_moments(MODEL, params, requests[::-1])[::-1]
    alone = [vocabulary_moments(MODEL, params, [request])[0] for request in requests]
    rng = np.random.default_rng(2)
    crowd = [(rng.integers(0, MODEL.vocab_size, 32), 1) for _ in range(5)]
    crowded = vocabulary_moments(MODEL, params, [*crowd, *requests])[5:]
    assert bits(found) == bits(turned) == bits(alone) == bits(crowded)


def test_logits_in_pieces_give_the_same(params, requests, found, monkeypatch):
    monkeypatch.setattr(length_buckets, "head_chunks", lambda rows, span, vocab_size: span // 8)
    pieces = vocabulary_moments(MODEL, params, requests[:3])
    for one, other in zip(found[:3], pieces, strict=True):
        np.testing.assert_allclose(np.stack(one), np.stack(other), atol=1e-5)


def test_a_uniform_model_has_no_spread_and_scores_nothing(params):
    uniform = {**params, "head": np.zeros_like(params["head"])}
    (one,) = vocabulary_moments(MODEL, uniform, [(np.arange(20), 1)])
    np.testing.assert_allclose(one.means, -np.log(41), rtol=1e-6)
    assert one.stds.max() < 1e-5
    assert abs(min_k_plus(*one)) < 0.02


def test_a_request_that_cannot_be_scored_is_named(params):
    good = (np.arange(5), 1)
    with pytest.raises(ValueError, match="request 1: start 5"):
        vocabulary_moments(MODEL, params, [good, (np.arange(5), 5)])
    with pytest.raises(ValueError, match="request 1: token 41"):
        vocabulary_moments(MODEL, params, [good, (np.array([0, 41]), 1)])
    assert vocabulary_moments(MODEL, params, []) == []
