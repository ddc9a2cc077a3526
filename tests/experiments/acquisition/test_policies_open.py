"""Policies without a target: a fixed rate, until acquired, never."""

import json
import math

import numpy as np
import pytest
from experiments.acquisition.plant import setting, simulate

from ttoaa.experiments.acquisition.policies import Criterion, FixedRate, Never, UntilAcquired
from ttoaa.experiments.acquisition.policy import Setting, Target

UNEVEN = Setting((0, 1, 0), (10, 20, 30), (0, 1), every=3, steps=20, target=Target(0.5))


def test_fixed_tokens_are_spread_evenly_and_not_overspent():
    """7 intervals of 3 steps, the last one shorter; 150 tokens of a rotation of 10, 20, 30."""
    policy = FixedRate(150)
    taken = [policy.decide(UNEVEN, {}, k, np.zeros(2))[0] for k in range(UNEVEN.intervals)]
    assert UNEVEN.intervals == 7
    assert [text for each in taken for text in each] == [0, 1, 2, 0, 1, 2, 0, 1]
    tokens = np.cumsum([sum(UNEVEN.text_tokens[t] for t in each) for each in taken])
    due = 150 * np.arange(1, 8) / 7
    assert np.all(tokens <= due) and np.all(due - tokens < 30) and tokens[-1] == 150
    assert policy.slots(UNEVEN) == max(map(len, taken))


def test_a_topic_stops_at_its_third_good_measurement_in_a_row_for_ever():
    policy = UntilAcquired(rate=2, criterion=Criterion(math.log(0.5), times=3))
    high, low = -0.1, -3.0
    measured = [(high, low), (high, low), (low, low), (high, high), (high, high), (high, high),
                (low, low), (low, low)]  # fmt: skip
    state, got = policy.start(UNEVEN), []
    for interval, log_p in enumerate(measured):
        chosen, state = policy.decide(UNEVEN, state, interval, np.array(log_p))
        got.append(np.bincount([UNEVEN.text_topic[t] for t in chosen], minlength=2).tolist())
        state = json.loads(json.dumps(state))
    assert got == [[2, 2]] * 5 + [[0, 0]] * 3
    assert state["acquired"] == [15, 15] and state["exposures"] == [10, 10]
    assert policy.slots(UNEVEN) == 4


def test_what_is_not_acquired_goes_on_alone():
    policy = UntilAcquired(criterion=Criterion(math.log(0.5), times=1))
    chosen, state = policy.decide(UNEVEN, policy.start(UNEVEN), 1, np.array([-9.0, -0.1]))
    assert chosen == [0] and state["acquired"] == [None, 3]
    chosen, state = policy.decide(UNEVEN, state, 2, np.array([-9.0, -9.0]))
    assert chosen == [2] and state["exposures"] == [2, 0]  # the next text of topic 0


def test_criterion_by_plain_loops():
    rng = np.random.default_rng(0)
    criterion = Criterion(-1.0, times=2)
    value = -2 * rng.random((30, 8))
    expected = []
    for column in value.T:
        met = [k for k in range(1, 30) if column[k] >= -1 and column[k - 1] >= -1]
        expected.append(met[0] if met else -1)
    assert criterion.first_met(value).tolist() == expected
    assert criterion.first_met(np.full((4, 2), -5.0)).tolist() == [-1, -1]


def test_until_acquired_on_the_learner():
    s = setting(topics=6)
    policy = UntilAcquired(rate=3, criterion=Criterion(-2.0, times=2))
    log_p, texts = simulate(policy, s, 0)
    met = policy.criterion.first_met(log_p)
    assert np.all(met > 0)
    for topic, at in enumerate(met):
        assert np.all(texts[:at, topic] == 3) and np.all(texts[at:, topic] == 0)
    assert np.all(log_p[-1] < -4)  # and forgets


def test_never_asks_for_nothing():
    _, texts = simulate(Never(), setting(topics=3), 0)
    assert texts.sum() == 0


def test_a_target_rises_and_stays():
    assert [Target(0.08).at(s, 100_000) for s in (0, 1000, 100_000)] == [0, 0.0008, 0.08]
    assert [Target(0.4, 0.5).at(s, 10) for s in (0, 2, 5, 9)] == [0, pytest.approx(0.16), 0.4, 0.4]
    logarithmic = Target(0.01, 0.5, initial=1e-6)
    told = [logarithmic.at(s, 100) for s in (0, 25, 50, 99)]
    np.testing.assert_allclose(told, [1e-6, 1e-4, 0.01, 0.01])
