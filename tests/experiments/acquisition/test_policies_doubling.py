"""The paper's Algorithm 1, step by step, worked by hand."""

import numpy as np
import pytest

from ttoaa.experiments.acquisition.policies import Doubling
from ttoaa.experiments.acquisition.policy import Setting, Target

PAPER = Setting(
    text_topic=(0, 1) * 20_000,
    text_tokens=(100,) * 40_000,
    probe_topic=(0, 0, 1, 1),
    every=1000,
    steps=100_000,
    target=Target(0.08),
)


def decided(n, step, value, **changes):
    """The next n, from `n`, with every probe at probability `value`."""
    policy = Doubling(**changes)
    log_p = np.log(np.full(4, value))
    chosen, state = policy.decide(PAPER, {"n": n, "next": 0}, step // 1000, log_p)
    assert len(chosen) == state["n"]
    return state["n"]


def test_nothing_is_changed_at_the_start():
    assert decided(7, 0, 1.0) == 7 and decided(7, 0, 1e-12) == 7


@pytest.mark.parametrize(
    ("step", "ratio", "n", "then"),
    [
        # the target at step 10,000 is 0.008
        (10_000, 0.94, 100, 200),
        (10_000, 0.96, 100, 100),
        (10_000, 1.04, 100, 100),
        (10_000, 1.06, 100, 50),
        (10_000, 1.06, 101, 50),  # rounded down
        (10_000, 0.5, 4_000, 8_000),  # no limit of the change yet
        (10_000, 0.5, 5_000, 8_192),  # the clamp
        (10_000, 2.0, 1, 1),  # the other one
        (19_000, 0.5, 1_000, 2_000),  # up to and with step 19,000
        (20_000, 0.5, 1_000, 1_256),
        (20_000, 2.0, 1_000, 744),
        (20_000, 0.5, 100, 200),  # within the limit
        (59_000, 0.5, 1_000, 1_256),
        (60_000, 0.5, 1_000, 1_064),
        (60_000, 2.0, 1_000, 936),
        (99_000, 2.0, 100, 50),
        (60_000, 0.5, 8_150, 8_192),
    ],
)
def test_every_rule_by_hand(step, ratio, n, then):
    assert decided(n, step, ratio * 0.08 * step / 100_000) == then


def test_other_constants():
    changes = {"limits": ((0.0, 3),), "least": 2, "most": 9, "band": 0.5, "initial": 2}
    goal = 0.08 * 0.5
    assert decided(4, 50_000, 0.6 * goal, **changes) == 4  # in the wider band
    assert decided(4, 50_000, 0.4 * goal, **changes) == 7
    assert decided(8, 50_000, 0.4 * goal, **changes) == 9
    assert decided(3, 50_000, 2 * goal, **changes) == 2


def test_texts_are_taken_in_rotation():
    small = Setting((0, 1, 0, 1, 0), (9,) * 5, (0, 1), every=10, steps=100, target=Target(0.5))
    policy = Doubling(initial=3, most=100, limits=())
    low = np.log([1e-9, 1e-9])
    first, state = policy.decide(small, policy.start(small), 0, low)
    second, state = policy.decide(small, state, 1, low)
    assert first == [0, 1, 2] and second == [3, 4, 0, 1, 2, 3]
    assert state == {"n": 6, "next": 4}
    third, _ = policy.decide(small, state, 2, low)
    assert third == [4, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0]


def test_its_aim_is_the_same_for_every_topic():
    policy = Doubling(initial=2, least=2, most=8)
    for n, least, most in ((2, True, False), (5, False, False), (8, False, True)):
        aim = policy.aim(4, {"n": n, "next": 0})
        assert aim.rate_K.tolist() == [n / 4] * 4
        assert aim.at_least_K.tolist() == [least] * 4 and aim.at_most_K.tolist() == [most] * 4
    nothing = Doubling(initial=0, least=0).aim(4, {"n": 0, "next": 0})
    assert nothing.rate_K.tolist() == [0.125] * 4 and nothing.at_least_K.all()


def test_what_is_held_on_target():
    """Two probes at 0.4 and two at 1e-6: the mean is 0.2, the geometric mean 6.3e-4."""
    log_p = np.log([0.4, 1e-6, 0.4, 1e-6])
    state = {"n": 10, "next": 0}
    for kind, then in (("probability", 5), ("log_probability", 20)):
        _, after = Doubling(measure=kind).decide(PAPER, state, 50, log_p)  # the target is 0.04
        assert after["n"] == then


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"initial": 0}, "least <= initial"),
        ({"initial": 9000}, "initial <= most"),
        ({"limits": ((0.5, 8), (0.2, 4))}, "ascending"),
    ],
)
def test_bad_constants_are_named(changes, told):
    with pytest.raises(ValueError, match=rf"Doubling.*{told}"):
        Doubling(**changes)
