import math

import numpy as np
import pytest
from scipy import integrate, stats

from ttoaa.statistics.power import (
    interval_effect,
    paired_effect,
    two_sample_effect,
    units_for_equivalence,
    units_to_detect,
)


def t_power(effect, freedom, alpha):
    """Of a two-sided t test, integrated over what the estimated deviation may be."""
    critical = stats.t.isf(alpha / 2, freedom)

    def given(q):  # (estimated / true deviation)^2 * freedom, of a chi-square's density
        reach = critical * math.sqrt(q / freedom)
        found = stats.norm.sf(reach - effect) + stats.norm.cdf(-reach - effect)
        return found * stats.chi2.pdf(q, freedom)

    middle = freedom + 10 * math.sqrt(2 * freedom)
    parts = ((0, freedom), (freedom, middle), (middle, 20 * middle))
    return sum(integrate.quad(given, *part, limit=200)[0] for part in parts)


@pytest.mark.parametrize("n", [3, 10, 200])
@pytest.mark.parametrize("power, alpha", [(0.8, 0.05), (0.95, 0.05 / 90)])
def test_a_paired_t_test_has_that_power(n, power, alpha):
    effect = paired_effect(1.0, n, power, alpha)
    assert t_power(effect * math.sqrt(n), n - 1, alpha) == pytest.approx(power, abs=1e-5)


def test_two_samples_of_any_sizes():
    effect = two_sample_effect(2.0, 5, 8)
    shift = effect / (2.0 * math.sqrt(1 / 5 + 1 / 8))
    assert t_power(shift, 11, 0.05) == pytest.approx(0.8, abs=1e-5)


def test_many_items_need_a_z():
    z = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    assert paired_effect(3.0, 10**5) == pytest.approx(3 * z / math.sqrt(10**5), rel=1e-4)
    # A benchmark of 1,172 items whose answers differ in 10%, among 90 pairs of experiments.
    assert paired_effect(math.sqrt(0.1), 1172, alpha=0.05 / 90) == pytest.approx(0.040, abs=3e-4)


def test_a_paired_effect_is_found_as_often_in_simulation():
    d = np.random.default_rng(0).normal(paired_effect(1.0, 12), 1, (20_000, 12))
    found = np.mean(stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05)
    assert abs(found - 0.8) < 4 * math.sqrt(0.16 / 20_000)


def test_an_interval_has_the_effect_of_its_standard_error():
    values = np.random.default_rng(1).normal(size=9)
    low, high = stats.ttest_1samp(values, 0).confidence_interval()
    assert interval_effect(low, high, 8) == pytest.approx(paired_effect(values.std(ddof=1), 9))


def test_more_items_less_noise_or_a_lower_bar_find_less():
    base = paired_effect(1.0, 50)
    assert paired_effect(1.0, 51) < base
    assert paired_effect(1.0, 50, power=0.9) > base < paired_effect(1.0, 50, alpha=0.01)
    assert paired_effect(0.0, 50) == 0.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paired_effect(1.0, 1), "at least two items"),
        (lambda: paired_effect(-1.0, 5), "a number >= 0, not -1.0"),
        (lambda: paired_effect(1.0, 5, power=0.04), "alpha < power < 1"),
        (lambda: two_sample_effect(1.0, 1, 1), "at least three items"),
        (lambda: two_sample_effect(1.0, 0, 9), "at least one item"),
        (lambda: two_sample_effect(1.0, 9, 9, alpha=0.0), "0 < alpha"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_number_of_seeds_is_the_fewest_with_that_power():
    n = units_to_detect(1.0, 0.5)
    assert paired_effect(1.0, n) <= 0.5 < paired_effect(1.0, n - 1)
    assert units_to_detect(1.0, 1e-3) is None and units_to_detect(0.0, 0.5) == 2
    n = units_for_equivalence(1.0, 0.5)
    d = np.random.default_rng(2).normal(0, 1, (4000, n))
    reach = stats.t.isf(0.05, n - 1) * stats.sem(d, axis=1)
    assert np.mean(np.abs(d.mean(1)) + reach < 0.5) == pytest.approx(0.8, abs=0.03)
    assert units_for_equivalence(0.0, 0.5) == 2
