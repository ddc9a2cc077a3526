import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ttoaa.scoring.membership import membership_estimates
from ttoaa.statistics.bootstrap import (
    across_seeds,
    binomial_interval,
    bootstrap,
    bootstrap_mean,
    difference_in_differences,
    paired_estimate,
    paired_estimates,
)
from ttoaa.statistics.survival import median_time


def table(values, condition="c", outcome="loss", start=0):
    return pd.DataFrame(
        {
            "item": [f"i{start + k}" for k in range(len(values))],
            "condition": condition,
            "outcome": outcome,
            "value": np.asarray(values, float),
        }
    )


def test_paired_estimates_by_hand():
    run, control = table([1.0, 2.0, 6.0]), table([2.0, 4.0, 6.0])
    (estimate,) = paired_estimates(run, control, lambda outcome: -1)
    assert (estimate.outcome, estimate.condition, estimate.n) == ("loss", "c", 3)
    assert estimate.value == pytest.approx(3.0)
    assert estimate.control_value == pytest.approx(4.0)
    assert estimate.difference == pytest.approx(1.0)  # the loss fell by 1, as expected
    assert math.isnan(estimate.difference_ci_low), "three items are too few for an interval"


def test_pairs_by_item_not_by_row_and_keeps_order_of_appearance():
    run = pd.concat([table(np.arange(6), "late"), table(np.arange(6) ** 2, "early")])
    shuffled = run.iloc[[11, 3, 1, 8, 2, 7, 0, 4, 10, 5, 9, 6]]
    first, second = paired_estimates(run, shuffled, lambda outcome: 1)
    assert (first.condition, second.condition) == ("late", "early")
    for estimate in (first, second):  # equal item by item: certain, whatever the rows' order
        assert (estimate.difference_ci_low, estimate.difference_ci_high) == (0.0, 0.0)


def test_deterministic_and_sign_flips_the_interval():
    rng = np.random.default_rng(0)
    run, control = table(rng.normal(size=40)), table(rng.normal(size=40))
    (up,) = paired_estimates(run, control, lambda outcome: 1)
    (down,) = paired_estimates(run, control, lambda outcome: -1)
    assert paired_estimates(run, control, lambda outcome: 1) == [up]
    assert down.difference == -up.difference
    assert down.difference_ci_low == pytest.approx(-up.difference_ci_high, abs=1e-12)


@pytest.mark.parametrize(
    "run, control, message",
    [
        (table([1, 2, 3]), table([1, 2]), "item 'i2' of loss/c is missing in the control"),
        (table([1, 2]), table([1, 2, 3]), "item 'i2' of loss/c is missing in the run"),
        (table([1, math.nan]), table([1, 2]), "item 'i1' of loss/c has no finite value in the run"),
        (table([1, 2]), pd.concat([table([1, 2])] * 2), "occurs twice in the control"),
    ],
)
def test_tables_that_do_not_pair_are_errors(run, control, message):
    with pytest.raises(ValueError, match=message):
        paired_estimates(run, control, lambda outcome: 1)


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=300)
    mean, low, high = bootstrap_mean(values, "key")
    reference = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.012)
    assert bootstrap_mean(values, "key") == (mean, low, high)


@pytest.mark.parametrize(
    "n, draw", [(6, "normal"), (7, "normal"), (10, "normal"), (40, "exponential")]
)
def test_bootstrap_coverage(n, draw):
    rng = np.random.default_rng(3)
    mean = {"normal": 0.0, "exponential": 1.0}[draw]
    samples = getattr(rng, draw)(size=(400, n))
    covered = [
        low <= mean <= high
        for _, low, high in (bootstrap_mean(row, k) for k, row in enumerate(samples))
    ]
    # Plain percentiles of resamples cover about 0.90 at n = 10.
    assert 0.92 <= np.mean(covered) <= 0.98


def _length_of_the_mean(vectors_NxI):
    """A statistic that noise makes larger, as resampling adds to it."""

    def statistic(counts_RxN):
        mean_RxI = counts_RxN @ vectors_NxI / counts_RxN.sum(1, keepdims=True)
        return np.linalg.norm(mean_RxI, axis=1)[:, None]

    return statistic


def test_centred_bounds_are_the_plain_ones_less_the_bias():
    vectors = 0.1 + np.random.default_rng(4).standard_normal((40, 6))
    statistic = _length_of_the_mean(vectors)
    value, low, high = bootstrap([40], statistic, "key")
    same, lower, upper = bootstrap([40], statistic, "key", centred=True)
    # E|mean*|^2 = |mean|^2 + the mean square from the mean / n, and that of |mean*| about its half.
    bias = vectors.var(0).sum() / 40 / (2 * value[0]) * 5 / 6
    assert same == value and (low - lower) == pytest.approx(high - upper)
    assert (low - lower)[0] == pytest.approx(bias, rel=0.25)
    mean = [bootstrap([40], lambda c: c @ vectors / 40, "key", centred=c) for c in (False, True)]
    np.testing.assert_allclose(mean[0][1], mean[1][1], atol=0.02)  # a mean has no bias


def test_centred_coverage_of_what_eight_others_would_have():
    """Of the logarithm of a length, as for errors of a mean of eight facts."""
    path = 0.8 * np.sin(np.arange(30) / 4)

    def eight(rng):
        return path + 0.2 * rng.standard_normal((8, 1)) + 2 * rng.standard_normal((8, 30))

    rng = np.random.default_rng(5)
    expected = np.mean([np.log(np.linalg.norm(eight(rng).mean(0))) for _ in range(4000)])
    covered = {}
    for centred in (False, True):
        rng, inside = np.random.default_rng(6), []
        for k in range(300):
            length = _length_of_the_mean(eight(rng))
            bounds = bootstrap([8], lambda c, of=length: np.log(of(c)), k, centred=centred)[1:]
            inside.append(bounds[0][0] <= expected <= bounds[1][0])
        covered[centred] = np.mean(inside)
    assert 0.91 <= covered[True] <= 0.98
    assert covered[False] < 0.85


@pytest.mark.parametrize("n", [6, 7])
def test_few_items_have_the_interval_of_t(n):
    values = np.random.default_rng(n).normal(size=n)
    t = stats.ttest_1samp(values, 0).confidence_interval()
    assert bootstrap_mean(values, "key")[1:] == pytest.approx((t.low, t.high), rel=0.06, abs=0.05)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_of_few_shares_stays_within_one(sign):
    run, control = np.array([1, 1, 1, 0, 1, 1]), np.array([0, 0, 0, 1, 0, 0])
    one = paired_estimate("right", "c", run, control, sign)
    bounds = one.difference_ci_low, one.difference_ci_high
    assert -1 <= min(bounds) < one.difference < max(bounds) <= 1 and 1 in map(abs, bounds)


@pytest.mark.parametrize("n", [1, 5])
def test_fewer_than_six_items_have_no_interval(n):
    """Not of a mean, an exact share, a contrast, an AUC or a median time."""
    values, many = np.arange(n) / n, np.arange(9.0)
    answers, right = np.zeros(n), np.ones(9)
    assert bootstrap_mean(values)[0] == pytest.approx(values.mean())
    found = [
        paired_estimate("right", "c", answers, answers, 1),
        difference_in_differences("right", "c", answers, answers, right, right),
        difference_in_differences("right", "c", right, right, answers, answers),
        *membership_estimates(values, many, values, many, "c"),
        *membership_estimates(many, values - 1, many, values, "c"),
    ]
    bounds = [(e.ci_low, e.ci_high, e.difference_ci_low, e.difference_ci_high) for e in found]
    assert np.isnan([*bootstrap_mean(values)[1:], *median_time(values, right[:n])[1:]]).all()
    assert np.isnan(bounds).all() and all(math.isfinite(e.difference) for e in found)
    assert [e.groups or e.n for e in found] == [n] * len(found)
    six = paired_estimate("right", "c", np.zeros(6), np.zeros(6), 1)
    assert (six.ci_low, six.ci_high) == binomial_interval(0, 6)


def test_shares_get_exact_intervals():
    low, high = binomial_interval(0, 20)
    assert low == 0 and high == pytest.approx(1 - 0.025 ** (1 / 20))
    (estimate,) = paired_estimates(table([0] * 20), table([0] * 20), lambda outcome: 1)
    assert (estimate.ci_low, estimate.ci_high) == (low, high)
    # No pair differs, yet up to `high` of them could: a zero-width interval would be a lie.
    assert (estimate.difference_ci_low, estimate.difference_ci_high) == pytest.approx((-high, high))


@pytest.mark.parametrize("n", [6, 10, 25])
@pytest.mark.parametrize("change", [0, 1, -1])
def test_pairs_that_all_differ_alike_cover_whatever_makes_that_likely(n, change):
    """Every share of pairs with the other sign, or with none, under which 2.5% of samples show it.

    The bound is attained: a little less would not cover.
    """
    run, control = {0: (1, 1), 1: (1, 0), -1: (0, 1)}[change]
    one = paired_estimate("right", "c", np.full(n, run), np.full(n, control), 1)
    low, high = one.difference_ci_low, one.difference_ci_high
    others = np.linspace(0, 1 - 0.025 ** (1 / n), 50)
    means = [change + other * (to - change) for other in others for to in (-1, 0, 1)]
    assert (low, high) == pytest.approx((min(means), max(means)))
    flipped = paired_estimate("right", "c", np.full(n, run), np.full(n, control), -1)
    assert (flipped.difference_ci_low, flipped.difference_ci_high) == pytest.approx((-high, -low))


def test_groups_without_spread_are_not_certain():
    ones, zeros = np.ones(25), np.zeros(25)
    one = difference_in_differences("right", "c", ones, zeros, zeros, zeros)
    unseen = 1 - 0.025 ** (1 / 25)
    assert (one.value, one.difference) == (1.0, 1.0)
    # Of the gained, some could have been lost; of the holdouts, some gained.
    assert one.difference_ci_low == pytest.approx(1 - math.hypot(2 * unseen, unseen))
    assert one.difference_ci_high == pytest.approx(1 + unseen)  # holdouts may have been lost
    assert (one.ci_low, one.ci_high) == pytest.approx((1 - math.hypot(unseen, unseen), 1.0))
    flipped = difference_in_differences("right", "c", ones, zeros, zeros, zeros, sign=-1)
    assert flipped.difference_ci_low == pytest.approx(-one.difference_ci_high)


def test_one_group_without_spread_widens_what_the_other_has():
    rng = np.random.default_rng(6)
    run, control = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    zeros = np.zeros(60)
    alone = paired_estimate("right", "c", run, control, 1)
    one = difference_in_differences("right", "c", run, control, zeros, zeros)
    unseen = 1 - 0.025 ** (1 / 60)
    reach = math.hypot(alone.difference - alone.difference_ci_low, unseen)
    assert one.difference_ci_low == pytest.approx(one.difference - reach, abs=0.02)
    # Losses are no answers: values that are all 0.5 may be certain.
    flat = difference_in_differences("loss", "c", run, control, zeros + 0.5, zeros)
    wide, narrow, pair = (e.difference_ci_high - e.difference_ci_low for e in (one, flat, alone))
    assert narrow < wide and narrow == pytest.approx(pair, abs=0.03)


def test_groups_with_spread_have_the_bootstraps_bounds_to_the_bit():
    rng = np.random.default_rng(7)
    run_a, control_a, run_b, control_b = rng.integers(0, 2, (4, 40)).astype(float)
    one = difference_in_differences("right", "c", run_a, control_a, run_b, control_b)
    a, b = (np.stack([r, r - c], 1) for r, c in ((run_a, control_a), (run_b, control_b)))
    _, low, high = bootstrap(
        [40, 40],
        lambda x, y: x @ a / 40 - y @ b / 40,
        *("difference in differences", "right", "c"),
    )
    assert (one.ci_low, one.difference_ci_low) == tuple(low)
    assert (one.ci_high, one.difference_ci_high) == tuple(high)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: bootstrap_mean([]), "at least one item in each sample"),
        (lambda: bootstrap_mean([1.0, math.inf]), "finite"),
        (lambda: across_seeds([]), "at least one seed"),
        (lambda: paired_estimate("o", "c", np.ones(2), np.ones(1), 1), "same items, not 2 and 1"),
        (lambda: paired_estimate("o", "c", np.array([math.nan]), np.ones(1), 1), "finite"),
        (
            lambda: difference_in_differences("o", "c", np.ones(3), np.ones(1), *[np.ones(2)] * 2),
            "same items, not 3 and 1",
        ),
        (
            lambda: difference_in_differences("o", "c", *[np.ones(2)] * 3, np.array([1, math.nan])),
            "finite",
        ),
        (
            lambda: difference_in_differences("o", "c", *[np.ones(2)] * 2, *[np.ones(0)] * 2),
            "at least one item",
        ),
    ],
)
def test_values_that_have_no_estimate_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_difference_in_differences_removes_the_groups_difficulty():
    rng = np.random.default_rng(4)
    a, b = rng.normal(2, 1, 200), rng.normal(0, 1, 300)
    estimate = difference_in_differences(
        "acc", "16x", a + 0.5 + rng.normal(0, 0.1, 200), a, b + rng.normal(0, 0.1, 300), b
    )
    assert estimate.control_value == pytest.approx(a.mean() - b.mean())
    assert estimate.value - estimate.control_value == pytest.approx(estimate.difference)
    assert estimate.difference == pytest.approx(0.5, abs=0.04)
    normal_width = 2 * 1.96 * math.sqrt(0.01 / 200 + 0.01 / 300)
    width = estimate.difference_ci_high - estimate.difference_ci_low
    assert width == pytest.approx(normal_width, rel=0.2)


def test_across_seeds_is_the_t_interval():
    values = [0.2, 0.5, 0.3]
    mean, low, high = across_seeds(values)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (mean, low, high) == pytest.approx((1 / 3, reference.low, reference.high))
    assert across_seeds([0.7])[0] == 0.7
    assert all(math.isnan(bound) for bound in across_seeds([0.7])[1:])


def test_copies_of_an_item_in_one_group_are_one_item():
    """Three copies of every item, as groups, have the bounds of the items; singly, too narrow."""
    rng = np.random.default_rng(5)
    once = [rng.normal(size=n) for n in (40, 40, 100, 100)]
    thrice = [np.repeat(values, 3) for values in once]
    groups = tuple(np.repeat(np.arange(n), 3) for n in (40, 100))
    for function in (difference_in_differences, _membership):
        of_items, of_copies = function("o", "c", *once), function("o", "c", *thrice, groups=groups)
        assert of_copies.groups == 40 and of_items.groups is None
        for name in ("difference", "difference_ci_low", "difference_ci_high", "ci_low", "ci_high"):
            assert getattr(of_copies, name) == pytest.approx(getattr(of_items, name), abs=1e-12)
        singly = function("o", "c", *thrice)
        assert singly.difference_ci_high < of_items.difference_ci_high - 1e-3
    few = tuple(np.repeat(np.arange(n), 3) // (3 * n // 5) for n in (40, 100))
    for function in (difference_in_differences, _membership):
        assert np.isnan(function("o", "c", *thrice, groups=few).difference_ci_low)


def _membership(outcome, condition, members, control_members, others, control_others, groups=None):
    scores = members, others, control_members, control_others
    return membership_estimates(*scores, condition, groups=groups)[0]


def test_groups_are_resampled_whole():
    rng = np.random.default_rng(4)
    effects = rng.normal(size=20)
    run = np.repeat(effects, 30) + 0.1 * rng.normal(size=600)
    control, group = np.zeros(600), np.repeat(np.arange(20), 30)
    own = paired_estimate("loss", "x", run, control, 1)
    grouped = paired_estimate("loss", "x", run, control, 1, group)
    assert (grouped.n, grouped.groups, own.groups) == (600, 20, None)
    assert grouped.difference == pytest.approx(own.difference)
    sem = stats.sem(run.reshape(20, 30).mean(1)) * stats.t.ppf(0.975, 19)
    assert grouped.difference - grouped.difference_ci_low == pytest.approx(sem, rel=0.1)
    assert (grouped.difference - grouped.difference_ci_low) > 3 * (
        own.difference - own.difference_ci_low
    )


def test_groups_of_one_item_are_items():
    run, control = np.arange(12.0), np.arange(12.0)[::-1] / 3
    for values in (run, np.ones(12)):  # shares too, whose interval is exact
        alone = paired_estimate("loss", "x", values, control, 1)
        assert paired_estimate("loss", "x", values, control, 1, np.arange(12)) == alone


@pytest.mark.parametrize("groups", [1, 5])
def test_few_groups_have_no_interval(groups):
    run = np.arange(60.0)
    found = paired_estimate("loss", "x", run, run - 1, 1, np.arange(60) % groups)
    assert found.difference == 1 and found.groups == groups
    assert np.isnan([found.ci_low, found.ci_high, found.difference_ci_low]).all()
    assert not np.isnan(paired_estimate("x", "x", run, run - 1, 1, np.arange(60) % 6).ci_low)


def test_outcomes_without_groups_may_share_a_table_with_others():
    grouped = table(range(12)).assign(group=[k // 2 for k in range(12)])
    both = pd.concat([grouped, table(range(9), outcome="right")])
    found = paired_estimates(both, both.assign(value=0.0), lambda outcome: 1)
    assert [(e.outcome, e.n, e.groups) for e in found] == [("loss", 12, 6), ("right", 9, None)]
