import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from ttoaa.scoring.membership import (
    auc,
    chance_tpr,
    exposure,
    membership_estimates,
    privleak_estimate,
    tpr_at_fpr,
)
from ttoaa.statistics.bootstrap import keyed_rng


def scores(seed, members=60, nonmembers=150, shift=1.0, decimals=1):
    """Rounded, so that there are ties within and between the groups."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(shift, 1, members).round(decimals),
        rng.normal(0, 1, nonmembers).round(decimals),
    )


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed):
    members, nonmembers = scores(seed)
    labels = np.r_[np.ones(len(members)), np.zeros(len(nonmembers))]
    pooled = np.r_[members, nonmembers]
    assert auc(members, nonmembers) == pytest.approx(roc_auc_score(labels, pooled))
    fpr, tpr, _ = roc_curve(labels, pooled, drop_intermediate=False)
    for budget in (0.0, 0.01, 0.05, 0.2, 1.0):
        assert tpr_at_fpr(members, nonmembers, budget) == pytest.approx(tpr[fpr <= budget].max())


def test_by_hand_with_ties():
    members, nonmembers = np.array([3.0, 2.0, 1.0]), np.array([2.0, 0.0])
    assert auc(members, nonmembers) == pytest.approx((2 + 1.5 + 1) / 6)
    assert tpr_at_fpr(members, nonmembers, 0.0) == pytest.approx(1 / 3)  # the tie at 2 is no hit
    assert tpr_at_fpr(members, nonmembers, 0.49) == pytest.approx(1 / 3)
    assert tpr_at_fpr(members, nonmembers, 0.5) == pytest.approx(1.0)


def test_budget_is_not_lost_to_rounding():
    nonmembers = np.arange(100.0)  # 0.29 * 100 is 28.999… in binary
    assert tpr_at_fpr(np.array([70.5]), nonmembers, 0.29) == 1.0
    assert tpr_at_fpr(np.array([70.5]), nonmembers, 0.28) == 0.0


def test_weighted_bootstrap_matches_explicit_resampling():
    members, nonmembers = scores(1, decimals=6)
    estimates = membership_estimates(members, nonmembers, *scores(2, shift=0), "16x")
    rng = np.random.default_rng(0)
    for estimate, statistic in zip(estimates, (auc, tpr_at_fpr), strict=True):
        resampled = [
            statistic(rng.choice(members, len(members)), rng.choice(nonmembers, len(nonmembers)))
            for _ in range(2000)
        ]
        assert estimate.value == pytest.approx(statistic(members, nonmembers))
        # The expanded percentiles are a little wider than 2.5 and 97.5.
        low, high = np.quantile(resampled, [0.023, 0.977])
        assert (estimate.ci_low, estimate.ci_high) == pytest.approx((low, high), abs=0.04)


def test_estimates_are_paired_with_the_control_and_signed():
    members, nonmembers = scores(3)
    same = membership_estimates(members, nonmembers, members, nonmembers, "1x")
    assert [estimate.outcome for estimate in same] == ["auc", "tpr_at_1pct_fpr"]
    for estimate in same:
        assert estimate.n == len(members)
        assert (estimate.difference_ci_low, estimate.difference_ci_high) == (0, 0)
    chance = scores(4, shift=0)
    up = membership_estimates(members, nonmembers, *chance, "1x")
    down = membership_estimates(members, nonmembers, *chance, "1x", sign=lambda outcome: -1)
    assert up[0].difference == pytest.approx(up[0].value - up[0].control_value)
    assert down[0].difference == -up[0].difference < 0


@pytest.mark.parametrize("nonmembers", [30, 99, 150])
def test_chance_is_the_mean_of_scores_that_know_nothing(nonmembers):
    rng = np.random.default_rng(nonmembers)
    rates = [tpr_at_fpr(rng.normal(size=40), rng.normal(size=nonmembers)) for _ in range(3000)]
    assert abs(chance_tpr(nonmembers) - np.mean(rates)) < 4 * stats.sem(rates)
    assert chance_tpr(500) == 6 / 501


@pytest.mark.parametrize(("shift", "rate"), [(100, 1), (-100, 0)])
def test_a_rate_without_spread_has_the_exact_bounds(shift, rate):
    control = scores(6)
    exact = stats.binomtest(rate * 60, 60).proportion_ci(method="exact")
    groups = scores(5, shift=shift)
    for one in membership_estimates(*groups, *control, "16x"):
        assert (one.value, one.ci_low, one.ci_high) == (rate, exact.low, exact.high)
    # A pair takes one of each: no more than the smaller group has.
    few = stats.binomtest(rate * 7, 7).proportion_ci(method="exact")
    members, nonmembers = groups
    for pair in ((members, nonmembers[:7]), (members[:7], nonmembers)):
        one, _ = membership_estimates(*pair, *pair, "16x")
        assert (one.value, one.ci_low, one.ci_high) == (rate, few.low, few.high)


def test_auc_interval_is_about_delongs():
    """DeLong et al. 1988: the variance from how often each score wins."""
    members, nonmembers = scores(9, 150, 300, decimals=2)
    wins = (members[:, None] > nonmembers) + (members[:, None] == nonmembers) / 2
    error = np.sqrt(wins.mean(1).var(ddof=1) / 150 + wins.mean(0).var(ddof=1) / 300)
    one, _ = membership_estimates(members, nonmembers, members, nonmembers, "1x")
    value = one.value
    assert value == pytest.approx(wins.mean())
    assert (one.ci_low, one.ci_high) == pytest.approx(
        (value - 1.96 * error, value + 1.96 * error), abs=0.006
    )


def test_auc_interval_covers():
    covered = 0
    truth = 0.7602499  # Phi(1 / sqrt 2)
    for seed in range(200):
        members, nonmembers = scores(seed, 30, 40, decimals=9)
        estimate = membership_estimates(members, nonmembers, members, nonmembers, str(seed))[0]
        covered += estimate.ci_low <= truth <= estimate.ci_high
    assert 0.90 <= covered / 200 <= 0.99


def test_bad_scores_are_errors():
    with pytest.raises(ValueError, match="without nan"):
        auc(np.array([1.0, np.nan]), np.array([0.0]))
    with pytest.raises(ValueError, match="fpr"):
        tpr_at_fpr(np.array([1.0]), np.array([0.0]), 1.5)
    with pytest.raises(ValueError, match="16x: run and control must score the same items"):
        membership_estimates(np.ones(3), np.ones(3), np.ones(2), np.ones(3), "16x")


def test_ranks_by_hand():
    others = np.array([-5.0, -3.0, -9.0, -7.0, -1.0, -4.0, -8.0])  # a space of 8
    first, third, last = exposure(np.array([-0.5, -3.5, -10.0]), others)
    assert (first, last) == (3.0, 0.0)
    assert third == pytest.approx(3 - math.log2(3))


def test_ties_count_against_the_secret():
    assert exposure(np.array([0.0]), np.zeros(15)) == [0.0]
    assert exposure(np.array([2.0]), np.array([2.0, 1.0, 1.0])) == [1.0]


def test_a_model_that_knows_nothing_exposes_its_mean():
    rng = np.random.default_rng(0)
    found = np.concatenate(
        [exposure(rng.normal(size=20), rng.normal(size=1023)) for _ in range(200)]
    )
    exact = 10 - np.log2(np.arange(1, 1025)).mean()  # every rank of 1,024 alike
    # Twenty secrets share their candidates, whose own draw moves all of them: 200 groups count.
    groups = found.reshape(200, 20).mean(1)
    assert abs(found.mean() - exact) < 4 * stats.sem(groups)
    assert exact == pytest.approx(math.log2(math.e), abs=0.01)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: exposure(np.array([]), np.ones(3)), "non-empty vector"),
        (lambda: exposure(np.ones(3), np.array([np.nan])), "without nan"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_privleak_is_the_relative_change_of_the_share_of_nonmembers_above_members():
    rng = keyed_rng("privleak")
    nonmembers, control = rng.normal(size=40), rng.normal(size=30)
    retrain = np.mean(nonmembers[:, None] > control[None])
    for shift in (0.0, 1.0, 20.0):
        found = privleak_estimate(control + shift, nonmembers, control, nonmembers, "x")
        now = np.mean(nonmembers[:, None] > control[None] + shift)
        assert found.value == pytest.approx(100 * (now - retrain) / retrain)
        assert found.difference == -found.value and found.control_value == 0 and found.n == 30
        assert found.ci_low <= found.value <= found.ci_high
    assert found.value == -100
    perfect = privleak_estimate(control, nonmembers, control + 20, nonmembers, "x")
    assert np.isfinite(perfect.value)  # A_retrain is 0
    with pytest.raises(ValueError, match="must score the same items"):
        privleak_estimate(control[1:], nonmembers, control, nonmembers, "x")
