import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa.experiments.acquisition.experiment import Acquisition, draw_trajectories
from ttoaa.experiments.acquisition.generated_facts import GeneratedKnowledge
from ttoaa.experiments.acquisition.injections import Injections
from ttoaa.experiments.acquisition.policies import (
    Criterion,
    Doubling,
    FixedRate,
    Proportional,
    UntilAcquired,
)
from ttoaa.experiments.acquisition.policy import Target
from ttoaa.planning.placement import PerInterval

EVERY, STEPS = 10, 100
ACQUIRED = Criterion(np.log(0.3), times=2)
POLICIES = (
    Proportional(most=9),
    Doubling(most=16),
    FixedRate(3000),
    UntilAcquired(rate=2, criterion=ACQUIRED),
    Injections(begin=0.1, count=2, gap=2, lags=(2,)),
)


def acquisition(**changes):
    fields = {
        "name": "ka",
        "primary": "log_rmse/controlled",
        "expected_sign": -1,
        "knowledge": GeneratedKnowledge(facts=2, paraphrases=12, framed=False),
        "policies": POLICIES,
        "entities": 3,
        "held_out": 2,
        "every": EVERY,
        "target": Target(0.5),
        "criterion": ACQUIRED,
    }
    return Acquisition(**(fields | changes))


@pytest.fixture
def made(make_world):
    def make(**changes):
        experiment = acquisition(**changes)
        world = make_world(experiment, length=128)
        return experiment, world, list(experiment.intervene(world))

    return make


def test_every_arm_has_slots_and_probes_of_its_own_entities(made, tokenizer):
    _, _, items = made()
    arms = {"controlled": (9, 3), "doubling": (16, 3), "fixed": (None, 3), "until": (6, 3),
            "injections": (3, 3), "never": (1, 2)}  # fmt: skip
    entities = {}
    for arm, (most, count) in arms.items():
        (slots,) = [i for i in items if i.condition == arm and i.slot]
        assert slots.id == arm and slots.placement == PerInterval(EVERY)
        per_interval, rest = divmod(slots.repetitions, 10)
        assert rest == 0 < per_interval == (most or per_interval)
        probes = [i for i in items if i.condition == arm and not i.slot]
        assert len(probes) == count * 2 and not any(p.repetitions for p in probes)
        for probe in probes:
            assert probe.tokens[0] == tokenizer.eos_id
            context, target = probe.fields["context"], probe.fields["target"]
            assert tokenizer.decode(probe.tokens[1:]) == f"{context} {target}" == probe.text
            assert tokenizer.decode(probe.tokens[probe.fields["start"] :]) == f" {target}"
            assert slots.fields["topics"][probe.fields["topic"]] == probe.id.rpartition("/")[0]
        entities[arm] = {p.id.partition("/")[0] for p in probes}
        assert len(entities[arm]) == count
    assert len(set().union(*entities.values())) == sum(map(len, entities.values()))
    assert len({i.id for i in items}) == len(items)
    json.dumps([dict(i.fields) for i in items])


def test_controllers_fill_the_slots_and_measure_the_probes(made, tokenizer):
    experiment, world, items = made()
    controllers = experiment.controllers(world)
    assert [c.slots for c in controllers] == [*(p.name for p in POLICIES), "never"]
    for controller in controllers:
        slots = next(i for i in items if i.id == controller.slots)
        probes = [i for i in items if i.condition == controller.slots and not i.slot]
        assert controller.every == EVERY
        assert max(map(len, controller.texts)) == slots.slot
        assert [len(t) for t in controller.texts] == slots.fields["text_tokens"]
        for text, topic in zip(controller.texts[:6], slots.fields["text_topic"], strict=False):
            assert text[0] == text[-1] == tokenizer.eos_id
            told = tokenizer.decode(text[1:-1])
            for probe in probes:
                assert (probe.fields["target"] in told) == (probe.fields["topic"] == topic)
        measured = controller.measured
        assert len(measured.tokens_NxL) == len(probes)
        for row, start, stop, probe in zip(
            measured.tokens_NxL, measured.start, measured.stop, probes, strict=True
        ):
            assert row[:stop].tolist() == probe.tokens.tolist()
            assert start == probe.fields["start"] and set(row[stop:]) <= {tokenizer.eos_id}


def test_it_follows_from_seed_and_name(make_world, same_items):
    def items(**world):
        return list(acquisition().intervene(make_world(acquisition(), length=128, **world)))

    assert same_items(items(), items())
    assert not same_items(items(), items(seed=1))
    assert not same_items(items(), items(name="other"))


class Simulated:
    """A run in which log p of a probe is -8 + what its topic was told, up to -0.2."""

    def __init__(self, experiment, world, items, inserts=True):
        self.known = dict.fromkeys((i.id for i in items if not i.slot), -8.0)
        rows = []
        for controller in experiment.controllers(world):
            probes = [i for i in items if i.condition == controller.slots and not i.slot]
            topics = next(i for i in items if i.id == controller.slots).fields["text_topic"]
            state = controller.start()
            for interval in range(10):
                log_p = np.array([self.known[p.id] for p in probes])
                chosen, decided = None, None
                if inserts:
                    chosen, state = controller.decide(state, interval, log_p)
                    decided = json.loads(json.dumps(state))
                    for probe in probes:
                        told = sum(topics[t] == probe.fields["topic"] for t in chosen)
                        self.known[probe.id] = min(-0.2, self.known[probe.id] + 0.5 * told)
                step = interval * EVERY
                rows.append((interval, step, controller.slots, chosen, log_p.tolist(), decided))
        columns = ["interval", "step", "slots", "chosen", "log_p", "state"]
        self.decisions = pd.DataFrame(rows, columns=columns)


def table(make_scorer, made, inserts, step=STEPS):
    experiment, world, items = made()
    run = Simulated(experiment, world, items, inserts)
    scorer = make_scorer(items, step=step)
    scorer.decisions = run.decisions
    by_tokens = {tuple(i.tokens): i for i in items if not i.slot}

    def log_likelihood(requests):
        found = [(by_tokens[tuple(tokens)], len(tokens) - start) for tokens, start in requests]
        return [np.full(n, run.known[item.id] / n, np.float32) for item, n in found]

    def generate(prompts, sampling):
        assert sampling.max_new_tokens == 25
        told = []
        for prompt, item in zip(prompts, by_tokens.values(), strict=True):
            assert scorer.tokenizer.decode(prompt[1:]) == item.fields["context"]
            right = run.known[item.id] > -1
            text = f" oh {item.fields['target'].upper()}!" if right else " nothing"
            told.append(scorer.tokenizer.encode(text))
        return told

    scorer.log_likelihood, scorer.generate = log_likelihood, generate
    return experiment, run, experiment.outcome(scorer)


@pytest.fixture
def both(make_scorer, made):
    experiment, run, ours = table(make_scorer, made, True)
    _, _, control = table(make_scorer, made, False)
    return experiment, run, ours, control


def test_outcomes_of_a_made_up_run(both):
    _, run, ours, control = both
    value = ours.set_index(["outcome", "item"])["value"]
    for item, log_p in run.known.items():
        assert value["log_probability", item] == pytest.approx(log_p, abs=1e-5)
        assert value["probability", item] == pytest.approx(np.exp(log_p), rel=1e-4)
        assert value["accuracy", item] == (log_p > -1)
    inserted = {arm: rows["chosen"].map(len) for arm, rows in run.decisions.groupby("slots")}
    for arm in ("controlled", "doubling", "fixed", "until"):
        mine = ours[ours["condition"] == arm]
        assert mine.loc[mine["outcome"] == "exposures", "value"].sum() == inserted[arm].sum()
        aims = {"at_least", "at_most", "turns", "log_rate_moved"} & set(mine["outcome"])
        assert len(aims) == (4 if arm in ("controlled", "doubling") else 0)
    n = inserted["doubling"].to_numpy()
    doubling = ours[ours["condition"] == "doubling"].groupby("outcome")["value"].apply(list)
    assert doubling["at_least"] == [np.mean(n == 1)] * 3
    assert doubling["at_most"] == [np.mean(n == 16)] * 3 != [0] * 3
    np.testing.assert_allclose(
        doubling["log_rate_moved"], np.abs(np.diff(np.log(n))).sum() / len(n)
    )
    # Each topic of ours by its own rate: all three are told apart in `state`.
    states = run.decisions.loc[run.decisions["slots"] == "controlled", "state"]
    log_rate_IxK = np.array([state["log_rate"] for state in states])
    controlled = ours[ours["condition"] == "controlled"].groupby("outcome")["value"].apply(list)
    np.testing.assert_allclose(
        controlled["log_rate_moved"], np.abs(np.diff(log_rate_IxK, axis=0)).sum(0) / 10
    )
    # Probes of a topic share it; an arm under one decision is one group.
    groups = {arm: set(rows) for arm, rows in ours.groupby("condition")["group"]}
    assert groups["doubling"] == {"doubling"} and len(groups["until"]) == len(groups["never"]) + 1
    probes = ours[(ours["outcome"] == "accuracy") & (ours["condition"] == "until")]
    assert (probes["group"] + "/").tolist() == probes["item"].str[:-1].tolist()
    assert not set(control["outcome"]) & {"at_least", "at_most", "turns", "log_rate_moved"}
    # From -8 by two texts an interval: -1 is above log 0.3 at interval 7, so it is acquired at 8.
    until = ours[ours["condition"] == "until"].groupby("outcome")["value"].apply(list)
    assert until["steps_to_acquire"] == [80] * 3 and until["exposures_to_acquire"] == [16] * 3
    assert until["acquired"] == [1.0] * 3 and until["exposures"] == [16] * 3
    assert control.loc[control["outcome"] == "exposures", "value"].sum() == 0
    assert not control.loc[control["outcome"] == "acquired", "value"].any()


def test_a_checkpoint_before_the_end_knows_only_what_came_before(make_scorer, made):
    _, run, early = table(make_scorer, made, True, step=40)
    chosen = run.decisions[(run.decisions["slots"] == "until") & (run.decisions["step"] < 40)]
    exposures = early[(early["outcome"] == "exposures") & (early["condition"] == "until")]
    assert exposures["value"].sum() == chosen["chosen"].map(len).sum() == 24
    assert (early.loc[early["outcome"] == "steps_to_acquire", "value"] == 40).all()
    assert "until@30" in set(early["condition"]) and "until@40" not in set(early["condition"])


def test_before_the_first_interval_there_are_estimates_all_the_same(make_scorer, made):
    experiment, _, first = table(make_scorer, made, True, step=0)
    found = {(e.outcome, e.condition) for e in experiment.estimates(first, first)}
    assert ("log_probability", "controlled") in found
    assert not any(outcome.startswith("log_rmse") for outcome, _ in found)


def test_estimates_by_hand(both):
    experiment, run, ours, control = both
    found = {(e.outcome, e.condition): e for e in experiment.estimates(ours, control)}
    assert {outcome for outcome, _ in found} <= set(experiment.signs)
    for arm in ("controlled", "doubling", "never"):
        rows = run.decisions[run.decisions["slots"] == arm].sort_values("interval")
        log_p = np.array(rows["log_p"].tolist())
        goal = 0.5 * np.arange(10) / 10
        off = log_p.mean(1)[1:] - np.log(goal[1:])
        estimate = found["log_rmse", arm]
        assert estimate.value == pytest.approx(np.sqrt(np.mean(off**2)))
        late = found["log_rmse_second_half", arm].value  # intervals 5 to 9
        assert late == pytest.approx(np.sqrt(np.mean(off[4:] ** 2))) != estimate.value
        mean_late = found["log_rmse_of_mean_probability_second_half", arm].value
        off_mean = np.log(np.exp(log_p).mean(1)[5:] / goal[5:])
        assert mean_late == pytest.approx(np.sqrt(np.mean(off_mean**2)))
        floor = np.sqrt(np.mean((-8 - np.log(goal[1:])) ** 2))
        assert estimate.control_value == pytest.approx(floor)
        assert estimate.difference == pytest.approx(floor - estimate.value)  # -1: lower is better
        value = np.exp(log_p.mean(1)) if arm != "doubling" else np.exp(log_p).mean(1)
        told = [found["value_at", f"{arm}@{step}"].value for step in range(0, STEPS, EVERY)]
        np.testing.assert_allclose(told, value)
    assert found["target_at", "controlled@50"].value == 0.25
    texts = run.decisions.set_index(["slots", "interval"])["chosen"].map(len)
    assert found["texts_at", "controlled@50"].value == texts["controlled", 5]
    log_p = np.array(run.decisions.loc[run.decisions["slots"] == "fixed", "log_p"].tolist())
    by_topic = log_p.reshape(10, 3, 2).mean(2)[5:] - np.log(0.5 * np.arange(5, 10) / 10)[:, None]
    fixed = np.sqrt(np.mean(by_topic**2, axis=0)).mean()
    against = found["tracking_error_against_arm", "controlled-vs-fixed"]
    assert against.control_value == pytest.approx(fixed)
    assert against.value == pytest.approx(found["tracking_error", "controlled"].value)
    assert against.difference == pytest.approx(fixed - against.value)
    assert against.groups == 3 and np.isnan(against.difference_ci_low)  # too few topics
    assert found["tracking_error", "fixed"].value == pytest.approx(fixed)
    assert found["log_probability_of_half_the_held_out", "never"].difference == 0
    assert found["effectivity", "injections"].difference > 0
    assert found["retainability", "injections/lag-20"].value == pytest.approx(1)  # nothing fades
    moved = found["log_rate_moved", "controlled"]
    mine = ours[(ours["outcome"] == "log_rate_moved") & (ours["condition"] == "controlled")]
    assert moved.value == pytest.approx(mine["value"].mean()) and np.isnan(moved.difference)
    assert ("log_rate_moved", "fixed") not in found
    median = found["exposures_to_acquire", "until"]
    assert median.value == 16 and median.n == 3 and np.isnan(median.control_value)
    above = found["log_probability_above_never", "fixed"]
    gained = np.mean([v for k, v in run.known.items() if _is_of(ours, k, "fixed")]) + 8
    assert above.difference == pytest.approx(gained, abs=1e-4)
    # Acquired at the most that can be known, and nothing fades here.
    since = found["change_since_acquired", "until"]
    assert since.value == pytest.approx(0, abs=1e-5) and abs(since.control_value) < 1e-5


def _is_of(table, item, arm):
    return arm in set(table.loc[table["item"] == item, "condition"])


def test_its_figure_shows_value_target_and_texts(both, final_table):
    experiment, _, ours, control = both
    axes = Figure().add_subplot()
    experiment.figure(final_table(experiment.estimates(ours, control)), axes)
    above, below = axes.child_axes
    lines = {line.get_label(): line for line in above.lines}
    assert lines["target"].get_xdata().tolist() == list(range(10, STEPS, EVERY))
    found = {(e.outcome, e.condition): e.value for e in experiment.estimates(ours, control)}
    expected = [found["value_at", f"until@{step}"] for step in range(0, STEPS, EVERY)]
    np.testing.assert_allclose(lines["until"].get_ydata(), expected)
    assert "never" in lines and len(below.lines) == 2 * len(POLICIES)
    assert below.lines[0].get_ydata().tolist() == [
        found["texts_at", f"controlled@{step}"] for step in range(0, STEPS, EVERY)
    ]


def test_two_set_points_in_one_experiment(made):
    low, high = Proportional(name="low", target=Target(0.1)), Proportional(name="high")
    fixed = FixedRate(900, against="low")
    experiment, world, _ = made(
        policies=(low, high, fixed), primary="tracking_error_against_target/high-vs-low"
    )
    finals = {c.slots: c.setting.target.final for c in experiment.controllers(world)}
    assert finals == {"low": 0.1, "high": 0.5, "fixed": 0.1, "never": 0.5}
    # `doubling` has the target of `high`.
    pairs = "'low-vs-fixed', 'low-vs-high', 'high-vs-low', 'doubling-vs-low']"
    with pytest.raises(ValueError, match=rf"among .*{pairs}"):
        policies = (low, high, Doubling(), fixed)
        acquisition(policies=policies, primary="tracking_error_against_arm/high-vs-fixed")


def test_without_held_out_entities(made):
    experiment, world, items = made(held_out=0)
    assert acquisition().placebo.endswith("/never") and experiment.placebo == ""
    assert "never" not in {i.condition for i in items}
    assert len(experiment.controllers(world)) == len(POLICIES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"policies": ()}, "policies must have different names"),
        ({"policies": (Doubling(), Doubling())}, "policies must have different names"),
        ({"policies": (Doubling(name="never"),)}, "none of them 'never'"),
        ({"policies": (Doubling(name="a@b"),)}, "'@'"),
        ({"primary": "log_rmse/other"}, "condition must be among"),
        ({"policies": (Proportional(), FixedRate(9, against="all"))}, "an arm with a target"),
        ({"primary": "value_at/controlled"}, "its outcome none of"),
        ({"primary": "turns/controlled"}, "its outcome none of"),
    ],
)
def test_bad_settings_are_named(changes, told):
    with pytest.raises(ValueError, match=rf"ka: .*{told}"):
        acquisition(**changes)


def test_a_schedule_longer_than_training_is_named(made):
    with pytest.raises(ValueError, match=r"ka: injections: the last injection .* of 10: lower"):
        made(policies=(Proportional(), Injections()))


def test_both_targets_are_drawn():
    rows = [
        (name, f"{arm}@{step}", step / final)
        for arm, final in (("low", 900), ("high", 200), ("fixed", 200))
        for step in (0, 10, 20)
        for name in ("target_at", "value_at", "texts_at")
    ]
    table = pd.DataFrame(rows, columns=["outcome", "condition", "value"])
    table = table.assign(seed=0, step=100, ci_low=0.1, ci_high=0.2, control_value=0.1)
    axes = Figure().add_subplot()
    draw_trajectories(["low", "high", "fixed"], table, axes)
    dashed = [line for line in axes.child_axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[-1] for line in dashed] == [20 / 900, 20 / 200]


def test_a_text_longer_than_a_row_is_named(make_world):
    experiment = acquisition()
    with pytest.raises(ValueError, match=r"ka: a text has \d+ tokens, .* row of 16: take shorter"):
        list(experiment.intervene(make_world(experiment, length=16)))
