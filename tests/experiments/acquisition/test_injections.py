"""The schedule of Chang et al. (2024) and its measures, against values computed by hand."""

import numpy as np
import pytest
from experiments.acquisition.plant import setting

from ttoaa.experiments.acquisition.curves import Curve
from ttoaa.experiments.acquisition.estimates import injection_measures
from ttoaa.experiments.acquisition.injections import Injections, effectivity, gains_at_lag
from ttoaa.experiments.acquisition.outcomes import SIGNS
from ttoaa.experiments.acquisition.policy import Setting

THREE = Setting((0, 1) * 3, (9,) * 6, (0, 1), every=5, steps=100)  # 20 intervals


def injected(policy):
    chosen = [policy.decide(THREE, {}, k, np.zeros(2))[0] for k in range(THREE.intervals)]
    assert policy.slots(THREE) == max(map(len, chosen))
    return {k: texts for k, texts in enumerate(chosen) if texts}


def test_a_text_of_every_topic_at_fixed_intervals():
    policy = Injections(begin=0.25, count=4, gap=3)
    assert injected(policy) == {5: [0, 1], 8: [2, 3], 11: [4, 5], 14: [0, 1]}
    same = Injections(begin=0.25, count=2, gap=3, texts=2, paraphrased=False)
    assert injected(same) == {5: [0, 1, 2, 3], 8: [0, 1, 2, 3]}


def test_a_schedule_longer_than_training_is_refused():
    with pytest.raises(ValueError, match=r"interval 21 of 20: lower Injections\.count"):
        Injections(begin=0.25, count=6, gap=3).slots(THREE)
    assert Injections(begin=0.2, count=6, gap=3).slots(THREE) == 2


LOG_P = np.array([[-10, -8], [-10, -8], [-6, -9], [-7, -6], [-8, -7], [-4, -2], [-5, -3],
                  [-6, -4], [-8, -4]], float)  # fmt: skip
INJECTED, GAP = [1, 4], 3


def test_effectivity_by_hand():
    """Topic 0: from -10 to -6 and from -8 to -4; topic 1: from -8 to -6 and from -7 to -2."""
    expected = [(4 / 10 + 4 / 8) / 2, (2 / 8 + 5 / 7) / 2]
    np.testing.assert_allclose(effectivity(LOG_P, INJECTED, GAP), expected)
    # The last injection does not count before anything was measured after it.
    np.testing.assert_allclose(effectivity(LOG_P[:5], INJECTED, GAP), [4 / 10, 2 / 8])
    assert np.isnan(effectivity(LOG_P[:2], INJECTED, GAP)).all()


def test_retainability_by_hand():
    """From -10 and -8 before, to peaks of -4 and -2 in interval 5; one interval later -5 and -3."""
    control = np.full_like(LOG_P, -10) + np.arange(9)[:, None] / 10
    gain, left, drift = gains_at_lag(LOG_P, control, INJECTED, GAP, 1)
    assert gain.tolist() == [6, 6] and left.tolist() == [5, 5]
    np.testing.assert_allclose(drift, 0.5)  # from interval 1 to 6
    assert gains_at_lag(LOG_P, control, INJECTED, GAP, 2) is None  # the last peak may be in 7


def curve(log_p_IxK, injected):
    steps, K = np.arange(len(log_p_IxK)), log_p_IxK.shape[1]
    texts_I = np.isin(steps, injected) * float(K)
    topics = [f"t{k}" for k in range(K)]
    return Curve((5 * steps).tolist(), topics, np.arange(K), log_p_IxK, steps * 0.0, texts_I)


def measures(run_IxK, control_IxK, policy, injected):
    pair = curve(run_IxK, injected), curve(control_IxK, [])
    return {e.condition: e for e in injection_measures(policy, pair, SIGNS.__getitem__)}


def test_estimates_subtract_what_happens_without_injections():
    policy, K = Injections(begin=0.1, count=3, gap=4, lags=(2, 6)), 12
    injected, intervals = [2, 6, 10], 24
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.3, (intervals, K)) for _ in range(2)]
    drift_IxK = -14 + 0.05 * np.arange(intervals)[:, None] + np.zeros(K)
    told_I = np.array(
        [sum(0.9 ** (k - j - 1) for j in injected if k > j) for k in range(intervals)]
    )
    learned = measures(drift_IxK + 2 * told_I[:, None] + noise[0], drift_IxK + noise[1],
                       policy, injected)  # fmt: skip
    assert set(learned) == {"injections", "injections/lag-10", "injections/lag-30"}
    assert all(e.difference_ci_low > 0 and e.n == K for e in learned.values())
    late, early = learned["injections/lag-30"], learned["injections/lag-10"]
    assert late.difference < early.difference < 1
    # Nothing is learned: the peaks of noise and the drift look like learning and retention.
    trivial = measures(*(drift_IxK + each for each in noise), policy, injected)
    assert trivial["injections"].value > 0.01 and trivial["injections/lag-30"].value > 0.5
    for each in trivial.values():
        assert each.difference_ci_low < 0 < each.difference_ci_high


def test_measures_of_a_run_that_is_not_done():
    policy = Injections(begin=0.1, count=3, gap=4, lags=(2,))
    log_p = np.arange(8.0)[:, None] - np.full(12, 20.0)
    assert set(measures(log_p, log_p * 0 - 20, policy, [2, 6])) == {"injections"}
    assert measures(log_p[:3], log_p[:3], policy, [2]) == {}
    assert measures(log_p, log_p, policy, []) == {}


def test_its_setting_is_that_of_any_policy():
    chosen, state = Injections().decide(setting(topics=3), {}, 20, np.zeros(3))
    assert chosen == [0, 1, 2] and state == {} and Injections().aim(3, {}) is None
