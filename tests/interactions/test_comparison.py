import numpy as np
import pandas as pd
import pytest
from interactions.effect_frames import effects
from scipy import stats

from ttoaa.interactions.comparison import compare_forecast, measured_shares
from ttoaa.interactions.matrix import measure
from ttoaa.statistics.matrix_correlation import rank_correlation

PLANTED = [("alone/e0", "e1", 3.0), ("alone/e2", "e3", 2.0)]


def test_the_correlation_is_spearmans_of_the_cells_off_the_diagonal():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 9, 9))
    b += a
    b[0, 3] = np.nan
    off = ~np.eye(9, dtype=bool) & np.isfinite(b)
    found = rank_correlation(a, b)
    assert found.rho == pytest.approx(stats.spearmanr(a[off], b[off]).statistic)
    assert found.n == 71 and found.low < found.rho < found.high and found.p < 0.01
    assert rank_correlation(a, rng.normal(size=(9, 9))).p > 0.01
    with pytest.raises(ValueError, match="square"):
        rank_correlation(a[:3], b)


def test_a_forecast_that_knows_saves_rows_and_one_that_does_not_saves_none():
    (matrix,) = measure(effects(n=5, planted=PLANTED))
    names = list(matrix.experiments)
    good = pd.DataFrame(np.abs(measured_shares(matrix)), names, names)
    found = compare_forecast(good, matrix, signed=False)
    assert found.correlation.rho == pytest.approx(1.0) and found.saved_rows == 3
    assert compare_forecast(1 - good, matrix, signed=False).saved_rows < 3
    with pytest.raises(ValueError, match="'e4'"):
        compare_forecast(good.drop(index="e4"), matrix)
