import itertools
from math import nan

import numpy as np
import pytest

from ttoaa.statistics.multiplicity import benjamini_hochberg, holm


def test_holm_by_hand():
    # 4 * 0.01, 3 * 0.02, 2 * 0.04 and 0.041, which may not fall below the one before.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.041, 0.02]), [0.08, 0.04, 0.08, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.4]), [0.8, 0.8])
    np.testing.assert_allclose(holm([0.9, 0.7, 0.6]), [1, 1, 1])
    assert list(holm([0.03])) == [0.03] and len(holm([])) == 0


def test_benjamini_hochberg_by_hand():
    # 4/1 * 0.01, 4/2 * 0.02, 4/3 * 0.04, 0.041: none above the one after it.
    adjusted = benjamini_hochberg([0.04, 0.01, 0.041, 0.02])
    np.testing.assert_allclose(adjusted, [0.041, 0.04, 0.041, 0.04])
    assert len(benjamini_hochberg([])) == 0


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_the_closed_test_of_bonferroni(seed):
    """Rejected is what every set of hypotheses with it in it rejects, each by Bonferroni."""
    p_values = np.random.default_rng(seed).uniform(0, 0.2, 6)
    for k, adjusted in enumerate(holm(p_values)):
        sets = [s for r in range(1, 7) for s in itertools.combinations(range(6), r) if k in s]
        closed = max(min(1, len(s) * p_values[list(s)].min()) for s in sets)
        assert adjusted == pytest.approx(closed)


def test_adjusting_keeps_the_input():
    given = np.array([0.2, 0.1])
    holm(given), benjamini_hochberg(given)
    assert list(given) == [0.2, 0.1]


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("bad", [[0.1, nan], [1.1], [-0.1], [[0.1]]])
def test_what_is_no_p_value_is_an_error(adjust, bad):
    with pytest.raises(ValueError, match="p-values must be"):
        adjust(bad)
