import itertools
from math import comb, nan

import numpy as np
import pytest
from scipy import stats

from ttoaa.statistics.permutation import paired_max_z, two_sample_max_z


def t_of(x_NxK):
    return stats.ttest_1samp(x_NxK, 0, nan_policy="omit").statistic


def stepped(observed_K, permuted_RxK):
    """Westfall and Young's step-down p-values, outcome by outcome."""
    p, worst = {}, 0.0
    left = sorted(range(len(observed_K)), key=lambda k: -abs(observed_K[k]))
    while left:
        k = left[0]
        bar = abs(observed_K[k]) - 1e-9
        worst = max(worst, float(np.mean(np.abs(permuted_RxK[:, left]).max(1) >= bar)))
        p[k] = worst
        left = left[1:]
    return [p[k] for k in range(len(observed_K))]


def test_z_is_the_t_statistic():
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1, (12, 4))
    x[3, 1] = x[7, 1] = x[0, 3] = nan
    np.testing.assert_allclose(paired_max_z(x, permutations=1).z_K, t_of(x))
    a, b = rng.normal(1, 3, (9, 4)), rng.normal(0, 1, (5, 4))
    welch = stats.ttest_ind(a, b, equal_var=False).statistic
    np.testing.assert_allclose(two_sample_max_z(a, b, permutations=1).z_K, welch)


def test_paired_p_values_are_those_of_all_signs():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (9, 3)) + np.array([0.9, 0.5, 0.0])
    signs = np.array(list(itertools.product([-1, 1], repeat=9)))
    exact = stepped(t_of(x), np.stack([t_of(s[:, None] * x) for s in signs]))
    found = paired_max_z(x, permutations=20_000).p_K
    np.testing.assert_allclose(found, exact, atol=4 * 0.5 / np.sqrt(20_000))


def test_two_sample_p_values_are_those_of_all_labels():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 1, (5, 3)) + np.array([2.0, 0.8, 0.0]), rng.normal(0, 1, (4, 3))
    whole = np.concatenate([a, b])

    def split(s):
        return stats.ttest_ind(whole[list(s)], np.delete(whole, s, 0), equal_var=False)

    every = np.stack([split(s).statistic for s in itertools.combinations(range(9), 5)])
    exact = stepped(split(range(5)).statistic, every)
    found = two_sample_max_z(a, b, permutations=20_000).p_K
    np.testing.assert_allclose(found, exact, atol=4 * 0.5 / np.sqrt(20_000))


def test_outcomes_that_go_together_cost_less_than_bonferroni():
    x = np.random.default_rng(3).normal(0.45, 1, (30, 1))
    alone = paired_max_z(x).p_K[0]
    copies = paired_max_z(np.repeat(x, 8, axis=1)).p_K
    assert alone < 0.05 and np.ptp(copies) == 0
    assert copies[0] == pytest.approx(alone, abs=0.01) and 8 * alone > 2 * copies[0]


def test_few_items_cannot_be_significant():
    """Three pairs have 8 signs: no p below 2/8, even where all differ alike."""
    assert paired_max_z(np.ones((3, 2))).p_K == pytest.approx([0.25, 0.25], abs=0.02)
    apart = two_sample_max_z(np.ones((3, 1)), np.zeros((3, 1))).p_K
    assert apart == pytest.approx([2 / comb(6, 3)], abs=0.02)


def test_an_outcome_that_never_differs_is_not_found():
    x = np.random.default_rng(4).normal(2, 1, (20, 2))
    x[:, 1] = 0
    found = paired_max_z(x)
    assert found.z_K[1] == 0 and found.p_K[1] == 1.0 and found.p_K[0] < 0.01


def test_p_is_never_zero_and_repeats_by_its_key():
    x = np.random.default_rng(5).normal(0.5, 1, (25, 3))
    assert paired_max_z(x + 9, "a", permutations=99).p_K == pytest.approx([0.01] * 3)
    one, same, other = (paired_max_z(x, k, permutations=99).p_K for k in ("a", "a", "b"))
    assert list(one) == list(same) != list(other)


def test_units_do_not_matter():
    x = np.random.default_rng(6).normal(0.3, 1, (25, 3))
    scaled = paired_max_z(x * [1e-6, 1, 1e6])
    np.testing.assert_allclose(scaled.p_K, paired_max_z(x).p_K)
    shifted = two_sample_max_z(x[:10] + 1e6, x[10:] + 1e6)
    np.testing.assert_allclose(shifted.p_K, two_sample_max_z(x[:10], x[10:]).p_K)


def test_keeps_the_family_wise_error():
    """Six correlated true nulls, of unequal spread, and one that is false."""
    rng = np.random.default_rng(7)
    false = 0
    for trial in range(400):
        shared = rng.standard_t(4, (16, 1))
        x = (shared + rng.normal(size=(16, 7))) * np.arange(1, 8)
        x[:, 0] += 3
        false += (paired_max_z(x, trial, permutations=199).p_K[1:] <= 0.05).any()
    assert 0.02 < false / 400 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paired_max_z(np.ones(4)), "items by outcomes"),
        (lambda: paired_max_z(np.array([[1.0], [np.inf]])), "finite"),
        (lambda: paired_max_z(np.array([[1.0, nan], [1.0, 2.0]])), "two items in every"),
        (lambda: two_sample_max_z(np.ones((1, 2)), np.ones((4, 2))), "two items in every"),
        (lambda: two_sample_max_z(np.ones((3, 2)), np.ones((3, 1))), "a has 2 outcomes, group b 1"),
        (lambda: two_sample_max_z(np.array([[1.0], [2], [nan]]), np.ones((3, 1))), "leave out nan"),
    ],
)
def test_bad_tables_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
