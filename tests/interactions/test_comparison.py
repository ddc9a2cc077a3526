import itertools

import numpy as np
import pandas as pd
import pytest
from interactions.effect_frames import effects
from scipy import stats

from ttoaa.interactions import results
from ttoaa.interactions.comparison import compare_forecast, measured_shares
from ttoaa.interactions.matrix import measure
from ttoaa.json_io import parse_json
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
    assert found.saved_by_chance == pytest.approx(_saved_by_chance(5, 2))
    good["e4"] = np.nan  # a column without tokens does not change the order of the rows
    assert compare_forecast(good, matrix, signed=False).saved_rows == 3
    with pytest.raises(ValueError, match="'e4'"):
        compare_forecast(good.drop(index="e4"), matrix)


def _saved_by_chance(rows, needed):
    """Over all orders of the rows: how many come after the last one that is needed."""
    orders = list(itertools.permutations(range(rows)))
    return np.mean([rows - 1 - max(order.index(k) for k in range(needed)) for order in orders])


def test_results_show_how_good_a_forecast_was(tmp_path):
    frame = effects(n=5, planted=PLANTED)
    (matrix,) = measure(frame)
    names, shares = list(matrix.experiments), measured_shares(matrix)
    shares[np.eye(5, dtype=bool)] = 1
    forecast = pd.DataFrame(
        {
            "checkpoint": 10,
            "seed": 0,
            "row": np.repeat(names, 5),
            "column": np.tile(names, 5),
            "containment": 0.0,
            "gradient": 3 * shares.ravel(),  # in other units
            "preconditioned": -shares.ravel(),  # no column has an own effect
        }
    )
    results.write(tmp_path, frame, forecast=forecast)
    path = tmp_path / "dependence.json"
    same, good, none = parse_json(path.read_bytes(), path)["forecasts"]
    assert good["correlation"]["rho"] == pytest.approx(1) and good["correlation"]["n"] == 20
    assert (good["rows"], good["saved_rows"]) == (5, 3)
    for trivial in (same, none):
        assert trivial["missing"] == "a rank correlation needs cells with spread in both matrices"
    table = (tmp_path / "dependence.md").read_text()
    assert "| 10 | gradient | +1.00 [+1.00, +1.00] | 0.0" in table
    assert "| 20 | 3 of 5 (1.0) |" in table
    results.write(tmp_path, frame, forecast=forecast.assign(checkpoint=20))
    assert "Forecasts" not in (tmp_path / "dependence.md").read_text()
