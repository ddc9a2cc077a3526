import dataclasses

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa.experiments.iid_replacements import IidReplacements
from ttoaa.planning.placement import Uniform, Within

ABOVE = "cross_entropy_above_held_out"
SIZES = {"uniform": 8, **{f"decile-{k}": 8 for k in range(10)}, "selected": 8, "held-out": 40}


def replacements(**changes):
    sizes = {"uniform": 8, "decile": 8, "selected": 8, "held_out": 40}
    fields = {"name": "iid", "primary": f"{ABOVE}/decile-9", "expected_sign": -1, **sizes}
    return IidReplacements(**(fields | changes))


def test_each_condition_has_its_windows_copies_and_part_of_training(make_world):
    experiment = replacements(repetitions=3)
    world = make_world(experiment)
    assert experiment.reserve_windows(world.geometry) == [*SIZES.values()]
    blocks = {block.condition: block for block in experiment.intervene(world)}
    assert {name: len(block.ids) for name, block in blocks.items()} == SIZES
    assert {name: block.repetitions for name, block in blocks.items()} == {
        **dict.fromkeys(SIZES, 1), "selected": 3, "held-out": 0,
    }  # fmt: skip
    np.testing.assert_array_equal(
        np.concatenate([block.windows for block in blocks.values()]), world.windows
    )
    assert blocks["decile-0"].placement == Within(0.0, 0.1)
    assert blocks["decile-9"].placement == Within(0.9, 1.0)
    assert blocks["selected"].placement == Within(0.5, 0.6)
    assert blocks["uniform"].placement == Uniform()
    documents = [d for block in blocks.values() for d in block.fields["document"]]
    assert documents == world.documents.tolist()


def scorer(make_world, make_scorer, **changes):
    """A checkpoint after 60 of 100 steps of 4 rows; log p(token) is minus its id."""
    experiment = replacements(**changes)
    world = make_world(experiment)
    items, copies = [], []
    for block in experiment.intervene(world):
        for number, name in enumerate(block.ids):
            items.append(
                (name, block.condition, block.windows[number], world.documents[len(items)])
            )
            first = {"uniform": 5 * number, "selected": 50}.get(block.condition, 0)
            if block.condition.startswith("decile"):
                first = 10 * int(block.condition[-1]) + number
            copies += [(name, r, first + 4 * r) for r in range(block.repetitions)]
    model = make_scorer([], token_score=lambda tokens, i: -float(tokens[i]), step=60)
    columns = ["id", "condition", "window", "document"]
    model.items = pd.DataFrame(items, columns=columns)
    model.copies = pd.DataFrame(copies, columns=["id", "repetition", "step"])
    model.reserve = lambda windows: world.reserve_NxL[windows - 1000]
    arms = [(step, condition, 3.0 + step) for step in range(60) for condition in ("", "decile-2")]
    model.arm_losses = pd.DataFrame(arms, columns=["step", "condition", "loss"])
    return experiment, world, model


def test_outcome_is_the_loss_of_every_window_with_its_age_and_online_loss(make_world, make_scorer):
    experiment, world, model = scorer(make_world, make_scorer)
    table = experiment.outcome(model)
    one = table[table["condition"].isin(SIZES)].set_index("item")
    np.testing.assert_allclose(one["value"], world.reserve_NxL[:, 1:].mean(1), rtol=1e-6)
    assert one["group"].tolist() == [str(d) for d in world.documents]
    assert one.loc["decile-2-3", ["age", "online", "corpus"]].tolist() == [37, 26, 26]
    assert one.loc["decile-1-0", "age"] == 50 and np.isnan(one.loc["decile-1-0", "online"])
    assert one.loc["decile-6-0", ["age", "online", "corpus"]].isna().all(), "step 60 is to come"
    assert one.loc["selected-0", "age"] == 10, "since the first copy"
    assert one.loc["held-out-0", ["age", "online", "corpus"]].isna().all()
    by_age = table[~table["condition"].isin(SIZES)].groupby("condition")["item"].agg(list)
    assert all("selected-0" not in items for items in by_age)
    assert "decile-2-7" in by_age["age-33-128"] and "decile-3-0" in by_age["age-1-32"]
    assert sum(map(len, by_age)) == 6 * 8 + 8


def test_scored_limits_each_condition(make_world, make_scorer):
    experiment, _, model = scorer(make_world, make_scorer, scored=2)
    table = experiment.outcome(model)
    counts = table["condition"].value_counts()
    assert {name: counts[name] for name in SIZES} == dict.fromkeys(SIZES, 2)
    assert len(model.requests) == 2 * len(SIZES)


def tables(gain, everywhere=0.0, easy=None, drift=0.0):
    """Outcome tables of run and control: the loss of every condition falls by `gain(condition)`.

    Both models lose 3 nats plus the difficulty of the document; the loss of all text is lower by
    `everywhere` in the run, that of the condition `easy` by 1 in both, and all text was worse by
    `drift` when rows were trained on.
    """
    rng, rows = np.random.default_rng(3), []
    for condition, size in SIZES.items():
        for number in range(size):
            hard = rng.normal(0, 0.1)
            control = 3 + hard - (condition == easy) + rng.normal(0, 0.02)
            run = 3 + hard - (condition == easy) - everywhere - gain(condition)
            seen = condition != "held-out"
            online = 3 + hard - everywhere + drift if seen else np.nan
            corpus = 3 - everywhere + drift if seen else np.nan
            rows.append((f"{condition}-{number}", condition, run, control, online, corpus))
    columns = ["item", "condition", "run", "control", "online", "corpus"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.assign(outcome="cross_entropy", group=table["item"])
    empty = table.assign(online=np.nan, corpus=np.nan)
    drop = ["run", "control"]
    return (
        table.assign(value=table["run"]).drop(columns=drop),
        empty.assign(value=table["control"]).drop(columns=drop),
    )


def estimated(run, control):
    found = replacements().estimates(run, control)
    return {f"{e.outcome}/{e.condition}": e for e in found}


def recency(condition):
    if condition.startswith("decile"):
        return 0.05 * int(condition[-1])
    return {"selected": 0.5}.get(condition, 0.0)


def test_a_recency_curve_is_found(final_table):
    found = estimated(*tables(recency, everywhere=0.2))
    for k in (1, 5, 9):
        e = found[f"{ABOVE}/decile-{k}"]
        assert e.difference == pytest.approx(0.05 * k, abs=0.03) and e.n == 48
        assert 0 < e.difference_ci_low < e.difference < e.difference_ci_high
    assert found["auc/selected"].difference > 0.4
    assert found["fall_since_training/decile-9"].difference == pytest.approx(0.45, abs=0.1)
    assert found[replacements().placebo].difference_ci_low < 0
    axes = Figure().subplots()
    replacements().figure(final_table(list(found.values())), axes)
    gains = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(gains) == 2 and gains[0].get_ydata()[9] == pytest.approx(0.45, abs=0.03)


def test_a_model_that_is_better_at_all_text_passes_the_plain_loss_only():
    found = estimated(*tables(lambda condition: 0.0, everywhere=0.3))
    assert found["cross_entropy/decile-9"].difference_ci_low > 0.2
    assert found["cross_entropy/held-out"].difference_ci_low > 0.2
    for outcome in (ABOVE, "auc", "fall_since_training"):
        e = found[f"{outcome}/decile-9"]
        assert e.difference_ci_low < 0 < e.difference_ci_high, outcome
    assert found["cross_entropy/selected"].difference > 0.25
    assert abs(found[f"{ABOVE}/selected"].difference) < 0.05


def test_windows_that_happen_to_be_easy_pass_the_auc_of_the_run_only():
    found = estimated(*tables(lambda condition: 0.0, easy="decile-9"))
    assert found["auc/decile-9"].value == 1 and found["auc/decile-9"].control_value == 1
    for outcome in (ABOVE, "auc"):
        e = found[f"{outcome}/decile-9"]
        assert e.difference_ci_low <= 0 <= e.difference_ci_high, outcome


def test_a_model_that_only_learned_on_since_passes_the_plain_fall_only():
    found = estimated(*tables(lambda condition: 0.0, drift=0.4))
    fall = found["fall_since_training/decile-9"]
    assert fall.ci_low > 0.3 and fall.control_value == pytest.approx(0.4, abs=0.05)
    assert fall.difference_ci_low < 0 < fall.difference_ci_high


def test_no_fall_without_losses_of_training():
    run, control = tables(recency)
    outcomes = {e.outcome for e in replacements().estimates(control, control)}
    assert outcomes == {"cross_entropy", ABOVE, "auc", "cross_entropy_of_half_the_held_out"}
    assert len(run) == len(control)


def test_rates_need_many_held_out_windows():
    run, control = tables(recency)
    more = pd.concat([run[run["condition"] == "held-out"]] * 13, ignore_index=True)
    more = more.assign(item=[f"more-{k}" for k in range(len(more))])
    pairs = [pd.concat([table, more], ignore_index=True) for table in (run, control)]
    assert "tpr_at_1pct_fpr/selected" in estimated(*pairs)


def test_documents_are_what_is_resampled():
    run, control = tables(recency)
    one = {f"decile-9-{k}": str(k // 4) for k in range(8)}
    run, control = (t.assign(group=t["item"].replace(one)) for t in (run, control))
    e = estimated(run, control)[f"{ABOVE}/decile-9"]
    assert e.groups == 2 and np.isnan(e.difference_ci_low)


@pytest.mark.parametrize(
    "primary",
    [f"{ABOVE}/held-out", f"{ABOVE}/decile-10", "cross_entropy_of_half_the_held_out/held-out"],
)
def test_a_primary_that_is_never_measured_is_one_clear_line(primary):
    with pytest.raises(ValueError, match=r"^iid: the primary's condition must be among"):
        replacements(primary=primary)
    assert dataclasses.replace(replacements(), held_out=1).placebo == ""
