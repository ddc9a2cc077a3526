import zlib

import numpy as np
import pytest

from ttoaa.scoring.attacks import (
    AttackedTexts,
    LossAttack,
    MinK,
    MinKPlus,
    ZlibRatio,
    check_attacks,
    min_k,
    min_k_plus,
    zlib_ratio,
)
from ttoaa.scoring.likelihood import Moments

LOG_PROBS = np.array([-1.0, -4.0, -0.5, -2.5])


def test_by_hand():
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
    assert min_k(log_probs, 1.0) == pytest.approx(log_probs.mean())
    standard = min_k_plus(log_probs, np.full(37, 1.5), np.full(37, 2.0), 1.0)
    assert standard == pytest.approx((log_probs.mean() - 1.5) / 2)


def test_each_rises_with_the_likelihood():
    more = LOG_PROBS + 0.1
    steady = np.full(4, -2.0), np.ones(4)
    for attack in (
        min_k,
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
        (lambda: min_k([]), "at least one token"),
        (lambda: min_k([np.nan]), "one finite number per token"),
        (lambda: zlib_ratio([-np.inf], "text"), "one finite number per token"),
        (lambda: min_k(np.zeros((2, 2))), "one finite number per token"),
        (lambda: zlib_ratio([1.0], ""), "needs the text"),
        (lambda: min_k([1.0], 0), "share of tokens must lie in"),
        (lambda: min_k([1.0], 1.01), "share of tokens must lie in"),
        (lambda: min_k_plus([1.0], [1.0], [1.0, 1.0]), "of the same tokens"),
        (lambda: min_k_plus([1.0], [1.0], [-1.0]), "must not be negative"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Model:
    """Counts its passes; every token has the log-probability -position."""

    passes = 0

    def log_likelihood(self, requests):
        self.passes += 1
        return [-np.arange(start, len(tokens), dtype=np.float32) for tokens, start in requests]

    def vocabulary_moments(self, requests):
        self.passes += 1
        found = [-np.arange(start, len(tokens), dtype=np.float32) for tokens, start in requests]
        return [Moments(each, each - 1, np.full(len(each), 2.0)) for each in found]


def test_attacks_by_name_share_their_passes():
    model, texts = Model(), ["one text", "another text"]
    requests = [(np.zeros(5, np.int32), 1), (np.zeros(12, np.int32), 2)]
    attacked = AttackedTexts(model, texts, requests)
    found = {a.name: a.scores(attacked) for a in (LossAttack(), ZlibRatio(), MinK(), MinKPlus())}
    assert found["log_likelihood"] == [-10.0, -65.0]
    assert found["zlib_ratio"] == [zlib_ratio([-1, -2, -3, -4], texts[0]), pytest.approx(
        -6.5 / len(zlib.compress(b"another text")))]  # fmt: skip
    assert found["min_k"] == [-4.0, -10.5] and found["min_k_plus"] == [0.5, 0.5]
    assert model.passes == 2


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([MinK], r"mia: attacks holds .*write @Name\(\) with the parentheses"),
        ([MinK(name="min/k")], "letters, digits and '_'"),
        ([MinK(), MinK(0.1)], "attacks of distinct names"),
        ([], "at least one"),
    ],
)
def test_bad_attacks_are_named(attacks, message):
    with pytest.raises(ValueError, match=message):
        check_attacks(attacks, "mia: attacks")
