import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ttoaa.experiments.acquisition.outcomes import Trajectory, log_rmse, turns
from ttoaa.experiments.acquisition.policies import Criterion
from ttoaa.statistics.survival import kaplan_meier, median_time


@pytest.mark.filterwarnings("ignore:The confidence interval is undefined")
def test_survival_agrees_with_scipy():
    rng = np.random.default_rng(1)
    for _ in range(20):
        time = rng.integers(1, 12, 25).astype(float)
        seen = rng.random(25) < 0.6
        if not seen.any():
            continue
        data = stats.CensoredData(uncensored=time[seen], right=time[~seen])
        theirs = stats.ecdf(data).sf
        times, survival, _ = kaplan_meier(time, seen)
        np.testing.assert_allclose(survival, theirs.evaluate(times))
        value, low, high = median_time(time, seen)
        below = times[survival <= 0.5 + 1e-12]
        assert value == below[0] if len(below) else math.isnan(value)
        bounds = theirs.confidence_interval(0.95, method="log-log")
        for bound, curve in ((low, bounds.low), (high, bounds.high)):
            at = curve.evaluate(times)  # nan where none is left, and then below all the same
            at = np.where(np.isnan(at) & (curve is bounds.low), 0, at)
            reached = times[at <= 0.5 + 1e-12]
            assert bound == reached[0] if len(reached) else math.isnan(bound)


def test_a_median_by_hand():
    """Events at 1, 2, 4; censored at 2 and 5: survival 4/5, 3/5, 3/10."""
    time, seen = np.array([1, 2, 2, 4, 5]), np.array([1, 1, 0, 1, 0])
    times, survival, _ = kaplan_meier(time, seen)
    assert times.tolist() == [1, 2, 4]
    np.testing.assert_allclose(survival, [0.8, 0.6, 0.3])
    assert median_time(time, seen)[0] == 4
    assert all(math.isnan(x) for x in median_time(np.full(6, 3), np.zeros(6)))
    assert median_time(np.full(6, 3.0), np.ones(6))[:2] == (3, 3)


def test_turns_are_real_ones():
    assert np.flatnonzero(turns([8, 16, 32, 16, 8, 16])).tolist() == [3, 5]
    assert not turns([100, 101, 100, 99, 100, 102, 101]).any()
    assert not turns([1, 2, 4, 8]).any()
    slow = [100, 110, 121, 133, 127, 118, 106, 100, 90, 100, 113]  # each step below the factor
    assert np.flatnonzero(turns(slow)).tolist() == [6, 10]
    assert np.flatnonzero(turns([0.5, 1, 0.5, 1])).tolist() == [2, 3]
    assert turns([]).tolist() == [] and turns([5]).tolist() == [False]


def test_off_target():
    value = np.array([9.0, 0.1, 0.4])
    assert log_rmse(value, np.array([0, 0.2, 0.2])) == pytest.approx(math.log(2))
    both = log_rmse(np.stack([value, [9, 0.2, 0.2]]), np.array([0, 0.2, 0.2]))
    np.testing.assert_allclose(both, [math.log(2), 0])
    assert math.isnan(log_rmse(value, np.zeros(3)))


def course(chosen, log_p):
    rows = [(k, 5 * k, *row) for k, row in enumerate(zip(chosen, log_p, strict=True))]
    table = pd.DataFrame(rows, columns=["interval", "step", "chosen", "log_p"])
    shuffled = table.sample(frac=1, random_state=0)
    return Trajectory.read(shuffled, (0, 1, 0), (10, 20, 30), probe_topic=(0, 0, 1))


def test_a_course_counts_what_was_inserted_and_when_it_was_acquired():
    log_p = [[-9, -9, -9], [-1, -2, -9], [-1, -1, -1], [-1, -1, -1]]
    found = course([[0, 2, 0], [1, 2], [], [1]], log_p)
    assert found.texts_IxK.tolist() == [[3, 0], [1, 1], [0, 0], [0, 1]]
    assert found.tokens_IxK.tolist() == [[50, 0], [30, 20], [0, 0], [0, 20]]
    np.testing.assert_allclose(found.by_topic()[:2], [[-9, -9], [-1.5, -9]])
    told = {k: v.tolist() for k, v in found.acquired(Criterion(-1.5, times=2), end=20).items()}
    assert told == {"acquired": [True, True], "steps": [10, 15], "exposures": [4, 1],
                    "tokens": [80, 20]}  # fmt: skip
    later = {k: v.tolist() for k, v in found.acquired(Criterion(-1.0, times=3), end=20).items()}
    assert later == {"acquired": [False, False], "steps": [20, 20], "exposures": [4, 2],
                     "tokens": [80, 40]}  # fmt: skip


def test_a_control_run_inserts_nothing():
    found = course([None, None], [[-9.0] * 3] * 2)
    assert found.texts_IxK.tolist() == [[0, 0]] * 2 and found.step_I.tolist() == [0, 5]
