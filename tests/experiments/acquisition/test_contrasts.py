"""Contrasts of arms of a made-up learner: what passes them, and what does not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from experiments.acquisition.plant import setting, simulate

from ttoaa.experiments.acquisition import outcomes as o
from ttoaa.experiments.acquisition.contrasts import above_never, held_out_halves, run_contrasts
from ttoaa.experiments.acquisition.policies import Doubling, FixedRate, Never, Proportional
from ttoaa.experiments.acquisition.policy import Target

K = 12
TARGETS = {"low": Target(0.01), "high": Target(0.2)}
CONTROLLED = Proportional(most=256)


def run_table(rules, targets, seed=0):
    """The curves of arms whose texts are chosen by `rules`, each judged by its target."""
    rows = []
    for number, (arm, (rule, followed)) in enumerate(rules.items()):
        s = dataclasses.replace(setting(topics=K), target=followed)
        log_p_IxK, texts_IxK = simulate(rule, s, 10 * seed + number)
        for k in range(s.intervals):
            at = f"{arm}@{k * s.every}"
            goal = targets[arm].at(k * s.every, s.steps)
            rows.append((at, at, o.TARGET, goal))
            for topic in range(K):
                rows.append((f"{arm}-{topic:02}", at, o.TEXTS, texts_IxK[k, topic]))
                rows.append((f"{arm}-{topic:02}/0", at, o.PROBE_AT, log_p_IxK[k, topic]))
    return pd.DataFrame(rows, columns=["item", "condition", "outcome", "value"])


def set_points(rules):
    table = run_table(rules, TARGETS)
    policies = {arm: rule for arm, (rule, _) in rules.items()}
    pairs = [("low", "high"), ("high", "low")]
    found = run_contrasts(table, policies, pairs, o.SIGNS.__getitem__)
    assert [e.condition for e in found] == ["low-vs-high", "high-vs-low"]
    return found


def test_a_controller_holds_both_set_points():
    for found in set_points({arm: (CONTROLLED, target) for arm, target in TARGETS.items()}):
        assert found.difference_ci_low > 0 and found.value < 0.7 < 2 < found.control_value
        assert found.difference == pytest.approx(found.control_value - found.value)
        assert found.n == K and found.groups is None


@pytest.mark.parametrize(
    "rule",
    [
        (Never(), Target(0.2)),
        (dataclasses.replace(CONTROLLED, integral=0, proportional=0), Target(0.2)),
        (CONTROLLED, TARGETS["low"]),
        (CONTROLLED, TARGETS["high"]),
        (CONTROLLED, Target(0.05)),
    ],
    ids=["never", "constant", "always low", "always high", "in between"],
)
def test_a_rule_that_ignores_its_target_holds_at_most_one(rule):
    found = set_points(dict.fromkeys(TARGETS, rule))
    assert sum(e.difference_ci_low > 0 for e in found) <= 1


def fixed_contrast(rule, tokens):
    rules = {"controlled": (rule, TARGETS["high"]), "fixed": (FixedRate(tokens), TARGETS["high"])}
    policies = {arm: each for arm, (each, _) in rules.items()}
    table = run_table(rules, dict.fromkeys(rules, TARGETS["high"]))
    pairs = [("controlled", "fixed")]
    (found,) = run_contrasts(table, policies, pairs, o.SIGNS.__getitem__)
    assert found.condition == "controlled-vs-fixed" and found.outcome == o.AGAINST_ARM
    return found


def test_control_is_closer_to_the_target_than_a_fixed_rate_of_as_many_tokens():
    _, texts_IxK = simulate(CONTROLLED, setting(topics=K), 99)  # another seed
    tokens = 20 * int(texts_IxK.sum())
    found = fixed_contrast(CONTROLLED, tokens)
    assert found.difference_ci_low > 0
    assert found.difference == pytest.approx(found.control_value - found.value)
    assert found.n == 2 * K and found.groups is None
    # Another fixed rate, at the same number of tokens, inserts too.
    same = fixed_contrast(FixedRate(tokens), tokens)
    assert same.difference_ci_low < 0 < same.difference_ci_high


def test_an_arm_under_one_controller_is_one_group():
    found = fixed_contrast(Doubling(most=256, initial=K), 30_000)
    assert found.groups == 1 and np.isnan(found.ci_low) and np.isnan(found.difference_ci_high)
    rules = {arm: (Doubling(most=256, initial=K), target) for arm, target in TARGETS.items()}
    for each in set_points(rules):
        assert each.groups == 1 and np.isnan(each.difference_ci_low)


def test_no_contrast_without_a_target():
    table = run_table({"a": (CONTROLLED, Target(0.2))}, {"a": Target(0.2)})
    start = table[table["condition"] == "a@0"]  # where the target is 0
    assert run_contrasts(start, {"a": CONTROLLED}, [("a", "a")], o.SIGNS.__getitem__) == []


def probe_table(values, arm=o.NEVER, outcome=o.LIKELIHOOD):
    """Two probes for each topic, 1 nat apart."""
    rows = [
        (f"{arm}-{topic:02}/{k}", arm, outcome, value + k)
        for topic, value in enumerate(values)
        for k in range(2)
    ]
    return pd.DataFrame(rows, columns=["item", "condition", "outcome", "value"])


def test_the_placebo_compares_halves_of_what_is_never_inserted():
    rng = np.random.default_rng(0)
    control_K = rng.normal(-12, 2, K)
    (same,) = held_out_halves(probe_table(control_K), probe_table(control_K))
    assert same.difference == same.difference_ci_low == 0 and same.value == same.control_value != 0
    contained = 0
    for _ in range(40):  # the run is better on all by 3 nats, each by more or less
        run_K = control_K + rng.normal(3, 1, K)
        (found,) = held_out_halves(probe_table(run_K), probe_table(control_K))
        contained += found.difference_ci_low < 0 < found.difference_ci_high
        assert found.n == K and found.groups is None
    assert contained >= 34
    (few,) = held_out_halves(probe_table(control_K[:11]), probe_table(control_K[:11]))
    assert few.groups == 5 and np.isnan(few.difference_ci_low)


def test_topics_not_probes_are_resampled_above_never():
    gains_K = np.linspace(0, 6, K)
    run = pd.concat([probe_table(np.full(K, -9.0)), probe_table(gains_K - 9, "fixed")])
    control = pd.concat([probe_table(np.full(K, -9.0)), probe_table(np.full(K, -9.0), "fixed")])
    policies = {"fixed": FixedRate(9)}
    (found,) = above_never(run, control, policies, o.SIGNS.__getitem__)
    assert found.difference == pytest.approx(3) and found.n == 2 * K
    error = gains_K.std(ddof=1) / np.sqrt(K)
    assert found.difference_ci_high - found.difference_ci_low == pytest.approx(4.4 * error, rel=0.1)
