import math

import numpy as np
import pytest
from scipy import optimize, stats

from tests.statistics.coverage import largest_error
from ttoaa.statistics.equivalence import (
    binary_equivalence,
    paired_equivalence,
    relative_equivalence,
    two_sample_equivalence,
)


def both_tests(test, margin):
    """The larger p-value of two one-sided t tests of SciPy's."""
    return max(test(-margin, "greater").pvalue, test(margin, "less").pvalue)


@pytest.mark.parametrize("mean", [0.0, 0.3, -0.3, 0.9])
def test_paired_is_two_t_tests(mean):
    d = np.random.default_rng(0).normal(mean, 1, 40)
    found = paired_equivalence(d, 0.5)
    expected = both_tests(lambda at, way: stats.ttest_1samp(d, at, alternative=way), 0.5)
    interval = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    assert found.p == pytest.approx(expected) and found.difference == pytest.approx(d.mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("mean", [0.0, 0.6, -0.6])
def test_two_sample_is_two_of_welchs_tests(mean):
    rng = np.random.default_rng(1)
    a, b = rng.normal(mean, 2, 12), rng.normal(0, 0.5, 30)
    found = two_sample_equivalence(a, b, 1.5)

    def welch(at, way):
        return stats.ttest_ind(a - at, b, equal_var=False, alternative=way)

    interval = welch(0, "two-sided").confidence_interval(0.9)
    assert found.p == pytest.approx(both_tests(welch, 1.5))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    one_has_spread = two_sample_equivalence(np.full(3, 1.0), b, 1.5)
    fixed = stats.ttest_1samp(b, 1.0).confidence_interval(0.9)
    assert one_has_spread.high - one_has_spread.low == pytest.approx(fixed.high - fixed.low)


def test_equivalent_where_the_interval_lies_within_the_margins():
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(80):
        d = rng.normal(0.3, 1, 25)
        found = paired_equivalence(d, 0.6)
        assert found.equivalent == (found.low > -0.6 and found.high < 0.6)
        run, control = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
        shares = binary_equivalence(run, control, 0.25)
        assert shares.equivalent == (shares.low > -0.25 and shares.high < 0.25)
        seen |= {("t", found.equivalent), ("shares", shares.equivalent)}
    assert len(seen) == 4


def test_a_test_that_fails_to_find_a_difference_is_no_equivalence():
    d = np.array([3.0, -2.5, 1.0, -1.2])
    assert stats.ttest_1samp(d, 0).pvalue > 0.5
    assert not paired_equivalence(d, 1.0).equivalent


def test_no_spread_is_no_evidence_for_a_t_test():
    found = paired_equivalence(np.full(50, 0.1), 0.5)
    assert found.difference == pytest.approx(0.1) and math.isnan(found.p) and not found.equivalent
    assert not two_sample_equivalence(np.zeros(3), np.zeros(3), 0.5).equivalent


def likeliest(gained, lost, n, difference):
    """Shares (gained, lost) of the largest likelihood with that difference, by search."""

    def cost(share):
        shares = np.array([share + difference, share, 1 - 2 * share - difference])
        counts = np.array([gained, lost, n - gained - lost])
        return -(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300))).sum()

    ends = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(
        cost, bounds=ends, method="bounded", options={"xatol": 1e-12}
    ).x
    return share + difference, share


@pytest.mark.parametrize("gained, lost, n", [(3, 5, 201), (0, 0, 400), (12, 2, 250), (1, 0, 300)])
@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_the_score_test_is_that_of_the_likeliest_shares_at_the_margin(gained, lost, n, margin):
    run = np.r_[np.ones(gained), np.zeros(lost), np.ones(n - gained - lost)]
    control = np.r_[np.zeros(gained), np.ones(lost), np.ones(n - gained - lost)]
    found = binary_equivalence(run, control, margin)
    p_values = []
    for sign in (1, -1):
        one, other = likeliest(gained, lost, n, sign * margin)
        z = (gained - lost - n * sign * margin) / math.sqrt(n * (one + other - margin**2))
        p_values.append(stats.norm.cdf(sign * z))
    assert found.p == pytest.approx(max(p_values), rel=1e-4)
    assert found.difference == (gained - lost) / n
    swapped = binary_equivalence(control, run, margin)
    assert (swapped.low, swapped.high) == (-found.high, -found.low)


def test_no_difference_among_many_is_evidence():
    """Were the shares 2% apart, no difference among n would have a chance of 0.98**n at most."""
    for n in (200, 400):
        found = binary_equivalence(np.ones(n), np.ones(n), 0.02)
        by_hand = stats.norm.sf(math.sqrt(n * 0.02 / 0.98))
        assert found.p == pytest.approx(by_hand, rel=0.05) and 0.98**n < found.p
        assert found.equivalent and bool(found.p > by_hand) is (n <= 200)
    assert not binary_equivalence(np.ones(50), np.ones(50), 0.02).equivalent


def test_shares_that_differ_as_far_as_can_be():
    found = binary_equivalence(np.ones(20), np.zeros(20), 0.1)
    assert (found.difference, found.high) == (1.0, 1.0) and 0.7 < found.low < 1
    assert found.p > 0.99


@pytest.mark.parametrize("n, lost", [(200, 0.0), (500, 0.02)])
def test_rare_differences_are_rarely_taken_for_equivalence(n, lost):
    """At the margin itself, exactly over all outcomes; t tests err here in up to 13%."""
    margin, wrong = 0.02, 0.0
    outcomes = np.stack(np.meshgrid(range(40), range(40)), -1).reshape(-1, 2)
    outcomes = np.c_[outcomes, n - outcomes.sum(1)]
    shares = [lost + margin, lost, 1 - 2 * lost - margin]
    for counts, chance in zip(outcomes, stats.multinomial.pmf(outcomes, n, shares), strict=True):
        if chance > 1e-6:
            items = np.repeat([1, -1, 0], counts)
            wrong += chance * binary_equivalence(items > 0, items < 0, margin).equivalent
    assert 0.01 < wrong < 0.05


@pytest.mark.parametrize("margin", [0.1, 0.2, 0.4, 0.7])
@pytest.mark.parametrize("n", [1, 3, 5, 10, 20])
def test_a_few_items_never_err_in_more_than_alpha(n, margin):
    """Over all shares at the margin, by enumeration; the score test errs in up to 7.8% here."""
    assert largest_error(n, margin) < 0.05


@pytest.mark.parametrize("gained, lost, n", [(0, 0, 6), (3, 1, 12), (1, 4, 20), (12, 12, 25)])
def test_an_exact_p_is_the_largest_chance_by_definition(gained, lost, n):
    margin = 0.4
    results = np.stack(np.meshgrid(range(n + 1), range(n + 1)), -1).reshape(-1, 2)
    results = np.c_[results, n - results.sum(1)][results.sum(1) <= n]

    def score(gained, lost):
        one, other = likeliest(gained, lost, n, margin)
        return (gained - lost - n * margin) / math.sqrt(max(n * (one + other - margin**2), 1e-12))

    within = [score(*row[:2]) <= score(gained, lost) + 1e-6 for row in results]
    share = np.linspace(0, 0.3, 3001)
    chances = [
        stats.multinomial.pmf(results[within], n, [s + margin, s, 0.6 - 2 * s]).sum() for s in share
    ]
    items = np.repeat([1, -1, 0], [gained, lost, n - gained - lost])
    either = [binary_equivalence(x > 0, x < 0, margin) for x in (items, -items)]
    assert either[0].p == either[1].p
    if gained >= lost:
        assert either[0].p == pytest.approx(max(chances), rel=1e-3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paired_equivalence(np.ones(1), 1), "at least two finite"),
        (lambda: paired_equivalence(np.array([1, np.nan]), 1), "at least two finite"),
        (lambda: paired_equivalence(np.arange(3), 0), "margin .* must be positive"),
        (lambda: two_sample_equivalence(np.arange(3), np.arange(3), math.inf), "must be positive"),
        (lambda: binary_equivalence(np.ones(3), np.ones(2), 0.1), "the same items"),
        (lambda: binary_equivalence(np.array([0.5]), np.ones(1), 0.1), "must be 0 or 1"),
        (lambda: binary_equivalence(np.ones(3), np.ones(3), 1.0), "must lie in"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_margin_relative_to_an_uncertain_effect_is_fiellers():
    rng = np.random.default_rng(0)
    own, d = rng.normal(5, 1, 8), rng.normal(0.3, 0.3, 8)
    found = relative_equivalence(d, own, 0.2)
    for bound in (found.low, found.high):  # where a t test of d - r * own is at 5% on one side
        t = stats.ttest_1samp(d - bound * own, 0).statistic
        assert abs(t) == pytest.approx(stats.t.isf(0.05, 7))
    assert found.difference == pytest.approx(d.mean() / own.mean())
    for share in np.linspace(0.01, 0.4, 40):
        inside = -share < found.low and found.high < share
        assert relative_equivalence(d, own, share).equivalent == inside
    none = relative_equivalence(d * 0.01, own - own.mean(), 0.2)
    assert not none.equivalent and np.isnan([none.difference, none.low]).all()
    assert np.isnan(relative_equivalence(np.zeros(4), np.ones(4), 0.2).p)
