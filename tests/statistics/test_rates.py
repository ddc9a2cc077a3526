"""How often intervals cover and tests err, simulated in small; in large: coverage.py.

A count out of so many trials must be one that its share makes likely: of a right implementation
one in 10,000 seeds would fail.
"""

import numpy as np
import pytest
from scipy import stats

from ttoaa.scoring.membership import TPR, membership_estimates
from ttoaa.statistics.bootstrap import binomial_interval, difference_in_differences
from ttoaa.statistics.equivalence import paired_equivalence, two_sample_equivalence
from ttoaa.statistics.multiplicity import benjamini_hochberg, holm
from ttoaa.statistics.permutation import two_sample_max_z

RARE = 5e-5


def assert_share(hits, least, most):
    """The count of true `hits` is one that some share from `least` to `most` makes likely."""
    n, count = len(hits), int(np.sum(hits))
    low, high = stats.binom.ppf(RARE, n, least), stats.binom.isf(RARE, n, most)
    assert low <= count <= high, f"{count} of {n}, not {low:.0f} to {high:.0f}"


def trials(seed, count):
    return (np.random.default_rng([seed, k]) for k in range(count))


@pytest.mark.parametrize("n", [5, 30])
def test_clopper_pearson_covers_every_share(n):
    """Exactly, over all counts; its bounds are the tightest that do for each side."""
    bounds = np.array([binomial_interval(k, n) for k in range(n + 1)])
    for share in np.linspace(0.003, 0.997, 71):
        chance = stats.binom.pmf(range(n + 1), n, share)
        below, above = bounds[:, 1] < share, share < bounds[:, 0]
        assert chance[below].sum() <= 0.025 and chance[above].sum() <= 0.025
    for k in range(n):
        assert stats.binom.cdf(k, n, bounds[k, 1]) == pytest.approx(0.025)


def test_the_interval_of_a_tpr_covers():
    truth = stats.norm.sf(stats.norm.isf(0.01) - 2.0)
    hits = []
    for key, rng in enumerate(trials(1, 200)):
        groups = rng.normal(2.0, 1, 200), rng.normal(0, 1, 500)
        (tpr,) = membership_estimates(*groups, *groups, str(key), statistics=[TPR])
        hits.append(tpr.ci_low <= truth <= tpr.ci_high)
    assert_share(hits, 0.93, 0.97)


@pytest.mark.parametrize(("gained", "lost"), [(0.95, 0.05), (0.98, 0.02), (0.02, 0.0)])
def test_differences_in_differences_cover_where_samples_often_have_no_spread(gained, lost):
    hits = []
    for key, rng in enumerate(trials(2, 200)):
        change = rng.choice([1, -1, 0], 25, p=[gained, lost, max(0, 1 - gained - lost)])
        zeros = np.zeros(25)
        groups = (change > 0).astype(float), (change < 0).astype(float)
        one = difference_in_differences("right", str(key), *groups, zeros, zeros)
        hits.append(one.difference_ci_low <= gained - lost <= one.difference_ci_high)
    assert_share(hits, 0.93, 1.0)


def p_values(rng, true, false):
    return stats.norm.sf(rng.normal(np.repeat([0, 2.5], [true, false]), 1))


def test_holm_keeps_the_family_wise_error():
    for false, least in ((0, 1 - (1 - 0.05 / 40) ** 40), (20, 0.03)):
        errs = [(holm(p_values(rng, 40, false))[:40] < 0.05).any() for rng in trials(5, 2000)]
        assert_share(errs, least, 0.05)


def test_benjamini_hochberg_keeps_the_false_discovery_rate():
    """Of independent tests it is alpha times the share of true nulls, exactly."""
    errs = [(benjamini_hochberg(p_values(rng, 40, 0)) < 0.05).any() for rng in trials(6, 2000)]
    assert_share(errs, 0.05, 0.05)
    shares = []
    for rng in trials(7, 2000):
        found = benjamini_hochberg(p_values(rng, 40, 20)) < 0.05
        shares.append(found[:40].sum() / max(1, found.sum()))
    assert abs(np.mean(shares) - 0.05 * 40 / 60) < 4 * stats.sem(shares)


def test_two_groups_keep_the_family_wise_error():
    """Six correlated true nulls of unequal spread, and one that is false."""
    errs = []
    for key, rng in enumerate(trials(8, 400)):
        x = (rng.normal(size=(11, 1)) + rng.normal(size=(11, 7))) * np.arange(1, 8)
        x[:5, 0] += 9
        errs.append((two_sample_max_z(x[:5], x[5:], key, permutations=199).p_K[1:] <= 0.05).any())
    assert_share(errs, 0.03, 0.05)


def test_equivalence_by_t_errs_in_alpha_at_the_margin():
    paired = [
        paired_equivalence(rng.normal(side * 2.0, 1, 10), 2.0).equivalent
        for side, rng in zip([1, -1] * 500, trials(9, 1000), strict=True)
    ]
    assert_share(paired, 0.05, 0.05)
    welch = [
        two_sample_equivalence(rng.normal(4.0, 2, 8), rng.normal(0, 1, 40), 4.0).equivalent
        for rng in trials(10, 1000)
    ]
    assert_share(welch, 0.045, 0.055)
