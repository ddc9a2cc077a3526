import copy
import math

import numpy as np
import pytest
from experiments.acquisition.plant import setting, simulate, tracked

from ttoaa.experiments.acquisition.policies import Doubling, Proportional
from ttoaa.experiments.acquisition.policy import Setting, Target

SMALL = Setting((0, 1) * 3, (9,) * 6, (0, 0, 1), every=10, steps=100, target=Target(0.5))
SEEDS = range(5)


def test_two_decisions_by_hand():
    policy = Proportional(proportional=0.2, integral=0.1, smoothing=0.25, initial=1.0, most=8)
    state = policy.start(SMALL)
    assert state["carry"] == [0.0, 0.5]
    chosen, state = policy.decide(SMALL, state, 0, np.array([-4.0, -6.0, -1.0]))
    assert chosen == [0, 1] and state["smoothed"] == [-5.0, -1.0] and state["error"] is None
    chosen, state = policy.decide(SMALL, state, 1, np.array([-4.0, -4.0, -9.0]))
    smoothed = np.array([0.25 * -5 + 0.75 * -4, 0.25 * -1 + 0.75 * -9])
    error = math.log(0.05) - smoothed  # the target is a tenth of 0.5
    log_rate = 0.1 * error
    np.testing.assert_allclose(state["log_rate"], log_rate)
    due = np.exp(log_rate) + np.array([0, 0.5])
    count = np.floor(due).astype(int).tolist()
    np.testing.assert_allclose(state["carry"], due - count)
    assert count == [1, 1] and sorted(chosen) == [2, 3]
    _, last = policy.decide(SMALL, state, 2, np.array([-2.0, -2.0, -2.0]))
    smoothed = 0.25 * smoothed + 0.75 * -2
    now = math.log(0.1) - smoothed
    expected = log_rate + 0.2 * (now - error) + 0.1 * now
    np.testing.assert_allclose(last["log_rate"], expected)


def test_a_rate_below_one_is_kept_on_average():
    """With no gains, 0.3 texts of each of 16 topics an interval, and not all in the same one."""
    s = setting()
    _, texts = simulate(Proportional(proportional=0, integral=0, initial=0.3), s, 0)
    assert np.all(np.abs(texts.sum(0) - 30) <= 1)
    assert texts.sum(1).min() >= 3 and texts.sum(1).max() <= 7


def test_rates_are_limited_and_nothing_winds_up():
    policy = Proportional(initial=2, most=5, most_each=4, least=0.5, smoothing=0)
    state = policy.start(SMALL)
    for interval in range(10):
        chosen, state = policy.decide(SMALL, state, interval, np.full(3, -30.0))
        assert len(chosen) <= 5
    assert np.exp(state["log_rate"]).sum() == pytest.approx(5)
    assert len(chosen) == 5
    rates = []
    for log_p in (-0.01, -0.01, -0.01, -30.0):
        _, state = policy.decide(SMALL, state, 9, np.full(3, log_p))
        rates.append(np.exp(state["log_rate"]).max())
    # From 2.5, by largest_change; wound up, it would have stayed up or down for long.
    np.testing.assert_allclose(rates[0], 2.5 / 4)
    assert rates[1] < 0.6
    np.testing.assert_allclose(rates[2:], [0.5, 2.0])


def test_each_topic_has_a_rate_of_its_own():
    """One topic learns from a text what another learns from ten."""
    s = setting(topics=4)
    _, texts = simulate(Proportional(most=512), s, 3)
    log_p, _ = simulate(Proportional(most=512), s, 3)
    late = slice(60, None)
    assert texts[late].sum(0).max() > 1.5 * texts[late].sum(0).min()
    goal = np.log([s.goal(k) for k in range(60, s.intervals)])[:, None]
    assert np.abs((log_p[late] - goal).mean(0)).max() < 0.2


def test_its_aim_is_the_rate_of_each_topic_and_whether_that_is_cut():
    s = setting(topics=2)
    policy = Proportional(least=0.5, most_each=4.0, most=6, smoothing=0.0)
    state, sides = policy.start(s), []
    for interval in range(12):
        goal = np.log(s.goal(max(1, interval)))
        _, state = policy.decide(s, state, interval, np.array([goal - 9, goal + 9]))
        aim = policy.aim(2, state)
        np.testing.assert_allclose(aim.rate_K, np.exp(state["log_rate"]))
        sides.append([*aim.at_least_K.tolist(), *aim.at_most_K.tolist()])
    assert sides[0] == [False] * 4 and sides[-1] == [False, True, True, False]
    # Both far below: 6 texts together are the most, though each could have 4.
    for interval in range(12, 24):
        _, state = policy.decide(s, state, interval, np.full(2, -30.0))
    aim = policy.aim(2, state)
    assert aim.rate_K.sum() == pytest.approx(6) and aim.at_most_K.all()


@pytest.mark.parametrize("gain", [0.05, 0.25])
def test_it_tracks_closer_and_turns_less_than_doubling(gain):
    """On the same seeds, from the same n. Held to the mean probability, doubling looks at the
    easiest topics, which meet the target first: there the climb does not count.
    """
    s = setting()
    for seed in SEEDS:
        ours = tracked(Proportional(most=512), s, seed, gain=gain)
        same, mean = (
            tracked(Doubling(most=512, initial=16, measure=kind), s, seed, kind, gain=gain)
            for kind in ("log_probability", "probability")
        )
        assert ours.rmse < same.rmse
        for theirs in (same, mean):
            assert ours.late_rmse < theirs.late_rmse / 2 and ours.turns < theirs.turns
        assert ours.idle == 0


@pytest.mark.parametrize("policy", [Proportional(most=64), Doubling(most=64, initial=4)])
def test_a_state_through_json_decides_the_same(policy):
    s = setting(topics=5)
    for whole, resumed in zip(
        simulate(policy, s, 1), simulate(policy, s, 1, resumed=True), strict=True
    ):
        assert whole.tobytes() == resumed.tobytes()


def test_deciding_changes_nothing_that_was_given():
    policy = Proportional()
    state = policy.start(SMALL)
    log_p = np.array([-3.0, -2.0, -1.0])
    for interval in range(3):
        before, given = copy.deepcopy(state), log_p.copy()
        one, two = (policy.decide(SMALL, state, interval, log_p) for _ in range(2))
        assert one == two and state == before and np.array_equal(log_p, given)
        state = one[1]


def test_an_initial_rate_outside_the_limits_is_refused():
    with pytest.raises(ValueError, match="least <= initial <= most_each"):
        Proportional(initial=0.01)
