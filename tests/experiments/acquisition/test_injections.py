"""The schedule of Chang et al. (2024) and its measures, against values computed by hand."""

import numpy as np
import pytest
from experiments.acquisition.plant import setting

from ttoaa.experiments.acquisition.curves import Curve
from ttoaa.experiments.acquisition.injection_estimates import injection_estimates
from ttoaa.experiments.acquisition.injections import Injections, Lag, effectivity
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
    places = Lag.of(LOG_P, INJECTED, GAP, 1)
    assert places.changes(LOG_P).tolist() == [[6, 6], [5, 5]]
    control = np.full_like(LOG_P, -10) + np.arange(9)[:, None] / 10
    np.testing.assert_allclose(places.changes(control), [[0.4, 0.4], [0.5, 0.5]])
    assert Lag.of(LOG_P, INJECTED, GAP, 2) is None  # the last peak may be in interval 7


def curve(log_p_IxK, injected):
    steps, K = np.arange(len(log_p_IxK)), log_p_IxK.shape[1]
    texts_I = np.isin(steps, injected) * float(K)
    topics = [f"t{k}" for k in range(K)]
    return Curve((5 * steps).tolist(), topics, np.arange(K), log_p_IxK, steps * 0.0, texts_I)


def measures(run_IxK, control_IxK, never_IxK, policy, injected):
    pair = curve(run_IxK, injected), curve(control_IxK, [])
    never = curve(never_IxK, []), curve(control_IxK, [])
    found = injection_estimates(policy, pair, never, SIGNS.__getitem__)
    return {(e.outcome, e.condition.rpartition("-")[2]): e for e in found}


POLICY, TEN, K, INTERVALS = Injections(begin=0.1, count=3, gap=4, lags=(2, 6)), [2, 6, 10], 12, 24
DRIFT = -14 + 0.05 * np.arange(INTERVALS)[:, None] + np.zeros(K)
TOLD = np.array([sum(0.9 ** (k - j - 1) for j in TEN if k > j) for k in range(INTERVALS)])[:, None]
NOISE = [np.random.default_rng(seed).normal(0, 0.3, (INTERVALS, K)) for seed in range(3)]


def test_estimates_subtract_what_happens_without_injections():
    drifts = [DRIFT + noise for noise in NOISE]
    learned = measures(drifts[0] + 2 * TOLD, *drifts[1:], POLICY, TEN)
    assert len(learned) == 6 and all(e.n in (K, 2 * K) for e in learned.values())
    for (outcome, _), each in learned.items():
        alone = outcome == "retainability_above_never"
        assert (each.ci_low if alone else each.difference_ci_low) > 0
    for outcome in ("retainability", "retainability_above_never"):
        assert learned[outcome, "30"].value < learned[outcome, "10"].value < 1.1
    # Nothing is learned: the peaks of noise and the drift look like learning and retention.
    trivial = measures(*drifts, POLICY, TEN)
    assert trivial["effectivity", "injections"].value > 0.01
    assert trivial["retainability", "30"].value > 0.5
    for (outcome, _), each in trivial.items():
        alone = outcome == "retainability_above_never"
        low, high = (
            (each.ci_low, each.ci_high)
            if alone
            else (each.difference_ci_low, each.difference_ci_high)
        )
        assert low < 0 < high


def test_what_other_arms_teach_all_facts_is_no_retention():
    """All topics of the run rise alike, those that are never inserted too."""
    rising = [DRIFT + 6 * np.linspace(0, 1, INTERVALS)[:, None] + noise for noise in NOISE[:2]]
    found = measures(rising[0], DRIFT + NOISE[2], rising[1], POLICY, TEN)
    assert found["retainability", "30"].difference_ci_low > 0.5
    above = found.get(("retainability_above_never", "30"))
    assert above is None or above.ci_low < 0 < above.ci_high
    gain = found["effectivity_above_never", "injections"]
    assert gain.difference_ci_low < 0 < gain.difference_ci_high


def test_measures_of_a_run_that_is_not_done():
    log_p = np.arange(8.0)[:, None] - np.full(12, 20.0)
    still = log_p * 0 - 20
    early = measures(log_p, still, still, POLICY, [2, 6])
    assert {outcome for outcome, _ in early} == {"effectivity", "effectivity_above_never"}
    assert measures(log_p[:3], still[:3], still[:3], POLICY, [2]) == {}
    assert measures(log_p, still, still, POLICY, []) == {}


def test_its_setting_is_that_of_any_policy():
    chosen, state = Injections().decide(setting(topics=3), {}, 20, np.zeros(3))
    assert chosen == [0, 1, 2] and state == {} and Injections().aim(3, {}) is None
