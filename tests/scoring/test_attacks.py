import zlib

import numpy as np
import pytest

from ttoaa.scoring.attacks import calibrated, loss, min_k, min_k_plus, zlib_ratio

LOG_PROBS = np.array([-1.0, -4.0, -0.5, -2.5])


def test_by_hand():
    assert loss(LOG_PROBS) == -2.0
    assert calibrated(LOG_PROBS, [-2.0, -4.0, -1.5, -1.5]) == 0.25
    assert min_k(LOG_PROBS, 0.5) == -3.25
    # Standard scores 1, -1.5, 0.5, -2: the least two are not those of the least log-probabilities.
    means, stds = [-2.0, -1.0, -1.0, -0.5], [1.0, 2.0, 1.0, 1.0]
    assert min_k_plus(LOG_PROBS, means, stds, 0.5) == -1.75
    assert min_k_plus(LOG_PROBS, means, stds, 0.25) == -2.0


def test_zlib_takes_bytes_of_the_text_compressed():
    text = "der Bär " * 40
    size = len(zlib.compress(text.encode("utf-8")))
    assert size < 40 < len(text)
    assert zlib_ratio(LOG_PROBS, text) == -2.0 / size


@pytest.mark.parametrize(
    "n, share, count",
    [(4, 0.2, 1), (9, 0.2, 1), (10, 0.2, 2), (100, 0.29, 29), (3, 1.0, 3), (1, 0.01, 1)],
)
def test_the_share_is_rounded_down_to_one_token_at_least(n, share, count):
    log_probs = -np.random.default_rng(n).permutation(n).astype(float)
    lowest = np.arange(n - count, n)
    assert min_k(log_probs, share) == pytest.approx(-lowest.mean())


def test_a_share_of_all_is_the_loss():
    log_probs = np.random.default_rng(0).normal(size=37)
    assert min_k(log_probs, 1.0) == pytest.approx(loss(log_probs))
    standard = min_k_plus(log_probs, np.full(37, 1.5), np.full(37, 2.0), 1.0)
    assert standard == pytest.approx((loss(log_probs) - 1.5) / 2)


def test_each_rises_with_the_likelihood():
    more = LOG_PROBS + 0.1
    steady = np.full(4, -2.0), np.ones(4)
    for attack in (
        loss,
        min_k,
        lambda x: calibrated(x, steady[0]),
        lambda x: zlib_ratio(x, "some text"),
        lambda x: min_k_plus(x, *steady),
    ):
        assert attack(more) > attack(LOG_PROBS)


def test_a_certain_or_uniform_model_gives_no_wild_scores():
    # Nothing to expect: log p is its mean, up to float32's rounding, and there is no spread.
    rounding = np.full(4, 1e-6)
    assert abs(min_k_plus(LOG_PROBS, LOG_PROBS - rounding, np.zeros(4), 1.0)) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: loss([]), "one token at least"),
        (lambda: loss([np.nan]), "one finite number a token"),
        (lambda: calibrated([-np.inf], [-np.inf]), "one finite number a token"),
        (lambda: loss(np.zeros((2, 2))), "one finite number a token"),
        (lambda: calibrated([1.0, 2.0], [1.0]), "the same tokens, not 2 and 1"),
        (lambda: zlib_ratio([1.0], ""), "needs the text"),
        (lambda: min_k([1.0], 0), "share of tokens must lie in"),
        (lambda: min_k([1.0], 1.01), "share of tokens must lie in"),
        (lambda: min_k_plus([1.0], [1.0], [1.0, 1.0]), "of the same tokens"),
        (lambda: min_k_plus([1.0], [1.0], [-1.0]), "never negative"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
