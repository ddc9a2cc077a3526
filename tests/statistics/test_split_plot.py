import numpy as np
import pytest
from scipy import stats

from tests.statistics import split_plot_errors as simulated
from ttoaa.statistics.bootstrap import binomial_interval
from ttoaa.statistics.split_plot import fit

VALUES = np.random.default_rng(0).normal(size=(3, 6, 4)) + np.arange(6)[:, None]
"""Outcomes, runs and seeds; the last two runs have the experiment."""


def test_runs_without_the_experiment_are_a_randomized_block_design():
    """By least squares with a dummy for each run and each seed."""
    weights = np.array([[-1.0, 1, 0, 0, 0, 0]])
    found = fit(VALUES, 2).contrast(weights)
    runs, seeds = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    X = np.concatenate([np.eye(4)[runs.ravel()], np.eye(4)[seeds.ravel()][:, 1:]], 1)
    for c, y in enumerate(VALUES[:, :4].reshape(3, -1)):
        beta, (squares,), _, _ = np.linalg.lstsq(X, y, rcond=None)
        error = np.sqrt(squares / 9 * np.linalg.inv(X.T @ X)[:2, :2] @ [-1, 1] @ [-1, 1])
        assert found.estimate[c, 0] == pytest.approx(beta[1] - beta[0])
        assert (found.error[c, 0], found.freedom[c, 0]) == pytest.approx((error, 9))
        p = 2 * stats.t.sf(abs(beta[1] - beta[0]) / error, 9)
        assert found.p_two_sided()[c, 0] == pytest.approx(p)


def test_the_plots_compare_as_paired_seeds():
    found = fit(VALUES, 2).contrast(np.array([[-1, -1, -1, -1, 2, 2]]) / 4)
    differences = VALUES[:, 4:].mean(1) - VALUES[:, :4].mean(1)
    expected = stats.ttest_1samp(differences, 0, axis=1, alternative="greater").pvalue
    np.testing.assert_allclose(found.p_positive()[:, 0], expected)


def test_a_variance_of_two_runs_is_moderated_by_that_of_the_other_outcomes():
    values = VALUES.copy()
    values[0, 5] = values[0, 4]  # no noise between them
    own = ((values[:, 5] - values[:, 4]).var(1, ddof=1)) / 2
    design = fit(values, 2)
    without = design.variance[:, 0]
    common = np.mean(own / without) * without
    np.testing.assert_allclose(design.variance[:, 1], (4 * common + 3 * own) / 7)
    assert design.freedom == (9, 7, 3)


@pytest.mark.parametrize("kind", simulated.KINDS)
@pytest.mark.parametrize("ratio", [1, 30])
def test_errors_are_at_most_five_percent_and_large_effects_are_found(kind, ratio):
    """Of three seeds. A test that never finds anything would have no errors either."""
    values = simulated.matrices(kind, ratio, 3, 300)
    found, _ = simulated.interacts(values)
    assert binomial_interval(int(found.sum()), 300)[0] <= 0.05
    called = simulated.equivalent(simulated.at_the_margin(values))
    for cells in (called[..., 0], called[..., -1]):  # an effect of another one, and the contrast
        assert cells.mean() <= 0.07  # 0.06 with 2,000 matrices, of skewed counts
    assert simulated.equivalent(values)[..., 1].mean() > 0.9
    values[:, 0, 1] += 15
    assert (simulated.interacts(values)[1][:, 0, 0] < 5e-4).mean() > 0.9


def test_without_noise_nothing_is_tested_and_few_seeds_or_runs_are_refused():
    found = fit(np.ones((1, 4, 3)), 2).contrast(np.array([[-1, 1, 0, 0]]))
    assert found.p_two_sided() == found.p_positive() == 1
    for values, treated in ((VALUES[..., :1], 2), (VALUES, 1), (VALUES * np.nan, 2)):
        with pytest.raises(ValueError, match="a split plot needs"):
            fit(values, treated)
