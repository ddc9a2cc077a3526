import dataclasses
import math

import numpy as np
import pytest

from ttoaa.training.config import AdamW, ConstantLinear, Cosine, Training


def rates(schedule, steps):
    over = schedule.over(steps)
    return np.array([float(over(u)) for u in range(steps + 1)])


def test_constant_then_linear_by_hand():
    expected = [0.5, 1, 1.5, 2, *[2.0] * 12, 2, 1.5, 1, 0.5, 0]
    schedule = ConstantLinear(peak=2.0, warmup=4, decay=0.2)
    np.testing.assert_allclose(rates(schedule, 20), expected, rtol=1e-6)


def test_cosine_by_hand():
    rises = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]
    falls = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 15)) / 2 for t in range(16)]
    expected = 3 * np.array([*rises, *falls])
    np.testing.assert_allclose(rates(Cosine(peak=3.0, warmup=5), 20), expected, rtol=1e-6)
    assert expected[5] == expected[4] == 3 and math.isclose(expected[-1], 0.3)


@pytest.mark.parametrize(
    ("schedule", "steps", "first", "last"),
    [
        (ConstantLinear(1.0, warmup=0, decay=0.5), 10, 1.0, 0.2),
        (ConstantLinear(1.0, warmup=1, decay=0.1), 10, 1.0, 1.0),
        (ConstantLinear(1.0, warmup=0, decay=0), 10, 1.0, 1.0),
        (ConstantLinear(1.0, warmup=0, decay=1), 10, 1.0, 0.1),
        (ConstantLinear(1.0, warmup=5, decay=0.5), 10, 0.2, 0.2),
        (Cosine(1.0, warmup=0, final=0.0), 1, 1.0, 1.0),
        (Cosine(1.0, warmup=9), 10, 1 / 9, 1.0),
    ],
)
def test_first_and_last_update_at_the_edges(schedule, steps, first, last):
    ours = rates(schedule, steps)
    np.testing.assert_allclose(ours[[0, steps - 1]], [first, last], rtol=1e-6)
    assert np.isfinite(ours).all() and (ours <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(ConstantLinear(1.0, 8, decay=0.5), 10), (Cosine(1.0, 10), 10), (ConstantLinear(1.0, 2), 2)],
)
def test_a_schedule_that_does_not_fit_the_run_is_refused(schedule, steps):
    with pytest.raises(ValueError, match=rf"do not fit a run of {steps} steps"):
        AdamW(schedule).over(steps)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(0.0, 1), "peak must be a positive number, not 0.0"),
        (lambda: Cosine("1e-3", 1), "peak must be a positive number, not '1e-3'"),
        (lambda: ConstantLinear(1.0, -1), "warmup must be a number of steps, not -1"),
        (lambda: ConstantLinear(1.0, 0.1), "warmup must be a number of steps, not 0.1"),
        (lambda: ConstantLinear(1.0, 1, 1.5), "decay is a part of the run, not 1.5"),
        (lambda: Training(None, max_arms=0), "Training.max_arms must be a positive integer"),
        (lambda: Training(None, checkpoint_every=1.5), "checkpoint_every must be a positive"),
        (lambda: Training(None, microbatch=-2), "microbatch must be a positive integer or None"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numerics_names_what_moves_bits_and_nothing_else():
    training = Training(AdamW(Cosine(1.0, 1)))
    same = [{"checkpoint_every": 7}, {"validate_every": 7}, {"max_arms": 7}]
    other = [
        {"z_loss": 0.0},
        {"microbatch": 4},
        {"optimizer": AdamW(Cosine(2.0, 1))},
        {"optimizer": AdamW(ConstantLinear(1.0, 1))},
        {"optimizer": AdamW(Cosine(1.0, 1), beta2=0.99)},
    ]
    for changes, equal in ((same, True), (other, False)):
        for change in changes:
            changed = dataclasses.replace(training, **change).numerics()
            assert (changed == training.numerics()) is equal, change
