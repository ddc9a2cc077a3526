import math

import numpy as np
import pytest
from scipy import stats

from ttoaa.scoring.membership import exposure


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
