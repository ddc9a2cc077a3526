import math
from collections import Counter
from itertools import pairwise

import gin
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.forgetting import ABOVE, Forgetting, describe_curve
from ttoaa.planning.placement import WholeBatch

STEPS = {"at-0.3": 30, "at-0.5": 50, "at-0.7": 70}


def forgetting(**changes):
    fields = {"name": "fc", "primary": "cross_entropy/lag-8", "expected_sign": -1}
    return Forgetting(**(fields | changes))


def test_every_row_of_each_batch_is_a_window_of_its_own(make_world):
    experiment = forgetting(probe_rows=3)
    world = make_world(experiment)
    assert experiment.reserve_windows(world.geometry) == [4, 3] * 3
    items = list(experiment.intervene(world))
    assert [i.window for i in items] == list(world.windows)
    inserted = [i for i in items if i.repetitions]
    placed = [(i.condition, i.placement) for i in inserted]
    assert placed == [
        (name, WholeBatch(steps=(step,), row=row))
        for name, step in STEPS.items()
        for row in range(4)
    ]
    twins = Counter(i.condition for i in items if not i.repetitions)
    assert twins == {f"{name}-twin": 3 for name in STEPS}
    assert len({i.id for i in items}) == 21 and all(i.tokens is None for i in items)


@pytest.mark.parametrize(("rows", "probed"), [(None, 4), (3, 3), (9, 4)])
def test_probes_hold_the_rows_that_are_trained_on_and_those_of_twins(make_world, rows, probed):
    experiment = forgetting(probe_rows=rows)
    world = make_world(experiment)
    probes = experiment.probes(world)
    assert [p.name for p in probes] == [name + end for name in STEPS for end in ("", "-twin")]
    for k, (batch, twin) in enumerate(zip(probes[::2], probes[1::2], strict=True)):
        first = (4 + probed) * k
        np.testing.assert_array_equal(batch.tokens_NxL, world.reserve_NxL[first:][:probed])
        np.testing.assert_array_equal(twin.tokens_NxL, world.reserve_NxL[first + 4 :][:probed])
        assert batch.steps == twin.steps


def test_lags_are_dense_then_sparse_to_the_end(make_world):
    experiment = forgetting(sparse_ratio=2.0)
    probes = experiment.probes(make_world(experiment))[::2]
    first, second, third = ([s - STEPS[p.name] for s in p.steps] for p in probes)
    # 100 steps; the last batch is followed by 30, so that all have a probe at lag 30.
    assert third == [0, 1, 2, 4, 8, 16, 24, 30]
    assert second == [0, 1, 2, 4, 8, 16, 24, 30, 32, 50]
    assert first == [0, 1, 2, 4, 8, 16, 24, 30, 32, 64, 70]
    long = experiment.probes(make_world(experiment, steps=100_000))
    assert max(len(p.steps) for p in long) < 25
    assert all(b > a for p in long for a, b in pairwise(p.steps))


def probe_table(world, experiment, loss):
    rows = [
        (step, p.name, row, loss(p.name, step - STEPS[p.name.removesuffix("-twin")], row))
        for p in experiment.probes(world)
        for step in p.steps
        for row in range(len(p.tokens_NxL))
    ]
    return pd.DataFrame(rows, columns=["step", "probe", "row", "loss"])


def measured(make_world, make_scorer, loss, step=100, **changes):
    experiment = forgetting(**changes)
    world = make_world(experiment)
    items = list(experiment.intervene(world))
    probes = probe_table(world, experiment, loss)
    return experiment.outcome(make_scorer(items, step=step, probes=probes))


def test_outcome_at_a_checkpoint_uses_probes_up_to_it(make_world, make_scorer):
    def loss(name, lag, row):
        return STEPS.get(name, 7) + lag / 100 + row / 10

    table = measured(make_world, make_scorer, loss, step=54, probe_rows=2)
    assert set(table["outcome"]) == {"cross_entropy", "cross_entropy_twin"}
    twin = table[(table["outcome"] == "cross_entropy_twin") & (table["condition"] == "lag-4")]
    np.testing.assert_allclose(sorted(twin["value"]), [7.04, 7.04, 7.14, 7.14])
    assert set(twin["group"]) == {"at-0.3", "at-0.5"}
    table = table[table["outcome"] == "cross_entropy"]
    values = table.set_index(["condition", "item"])["value"]
    assert sorted(values["lag-4"].items()) == [
        ("at-0.3-0", pytest.approx(30.04)),
        ("at-0.3-1", pytest.approx(30.14)),
        ("at-0.5-0", pytest.approx(50.04)),
        ("at-0.5-1", pytest.approx(50.14)),
    ]
    assert list(values["lag-24"].index) == ["at-0.3-0", "at-0.3-1"]
    assert "end" not in table["condition"].values and "lag-30" not in table["condition"].values
    final = measured(make_world, make_scorer, loss).set_index(["condition", "item"])["value"]
    assert len(final["end"]) == 24
    pd.testing.assert_series_equal(final["end"].sort_index(), final["lag-30"].sort_index())


def test_no_probe_yet_is_an_empty_table(make_world, make_scorer):
    table = measured(make_world, make_scorer, lambda *_: 1.0, step=29)
    assert {"item", "condition", "outcome", "value", "group"} == {*table.columns} and table.empty
    assert forgetting().estimates(table, table) == []


def run_and_control(make_world, make_scorer):
    """After the batch the run's loss is lower by 1/lag, more by 0.1 in row 1, less in row 0.

    That of all text is lower by 2 in the run, whatever was trained on.
    """
    gain = np.array([-0.1, 0.1, 0, 0])
    control = measured(make_world, make_scorer, lambda name, lag, row: 3.0 + row)
    run = measured(
        make_world,
        make_scorer,
        lambda name, lag, row: 1.0 + row - (1 / lag + gain[row] if lag and name in STEPS else 0),
    )
    return run, control


def test_gain_is_what_the_control_loses_more(make_world, make_scorer):
    run, control = run_and_control(make_world, make_scorer)
    found = {(e.outcome, e.condition): e for e in forgetting().estimates(run, control)}
    for lag in (1, 2, 8, 24):
        e = found["cross_entropy", f"lag-{lag}"]
        assert e.difference == pytest.approx(2 + 1 / lag) and e.n == 12
        assert e.value == pytest.approx(2.5 - 1 / lag) and e.control_value == 4.5
        assert e.groups == 3 and math.isnan(e.difference_ci_low), "three updates are too few"
        assert found["cross_entropy_twin", f"lag-{lag}"].difference == pytest.approx(2)
        above = found["cross_entropy_above_twin", f"lag-{lag}"]
        assert above.difference == pytest.approx(1 / lag) and above.n == 3
        assert (above.value, above.control_value) == (pytest.approx(-1 / lag), 0)
    assert found["cross_entropy_above_twin", "end"].difference == pytest.approx(1 / 30)
    assert found["cross_entropy", "lag-70"].n == 4


def test_the_placebo_is_the_gain_before_the_batch_was_seen(make_world, make_scorer):
    """A run that is better on all text passes 'cross_entropy' at lag 0, but not the placebo."""
    estimates = forgetting().estimates(*run_and_control(make_world, make_scorer))
    found = {f"{e.outcome}/{e.condition}": e for e in estimates}
    assert found["cross_entropy/lag-0"].difference == pytest.approx(2)
    assert found[forgetting().placebo].difference == 0
    assert forgetting(dense_lags=(1, 8)).placebo == ""


def test_models_that_do_not_remember_the_batch_do_not_pass(make_world, make_scorer):
    """One gets better at all text after the update, in the other all batches are easy text."""

    def estimated(*losses):
        run, control = (measured(make_world, make_scorer, loss) for loss in losses)
        found = {
            e.outcome: e for e in forgetting().estimates(run, control) if e.condition == "lag-8"
        }
        return found["cross_entropy"], found["cross_entropy_above_twin"]

    def plain(name, lag, row):
        return 3.0 + row

    def easy(name, lag, row):
        return 3.0 + row - (name in STEPS)

    loss, above = estimated(lambda name, lag, row: 3.0 + row - 0.1 * lag, plain)
    assert loss.difference == pytest.approx(0.8) and above.difference == pytest.approx(0)
    loss, above = estimated(easy, easy)
    assert above.value == pytest.approx(-1) and above.difference == 0


def test_batches_are_what_is_resampled(make_world, make_scorer):
    """The interval of six batches is the t interval of their six gains."""
    at = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    gains = np.random.default_rng(0).normal(size=6)
    names = [f"at-{a:g}" for a in at]

    def losses(gain):
        experiment = forgetting(at=at)
        world = make_world(experiment)
        steps = {name: round(100 * a) for name, a in zip(names, at, strict=True)}
        rows = [
            (step, p.name, row, 3 + row - (gain[names.index(p.name)] if p.name in steps else 0))
            for p in experiment.probes(world)
            for step in p.steps
            for row in range(4)
        ]
        probes = pd.DataFrame(rows, columns=["step", "probe", "row", "loss"])
        return experiment.outcome(make_scorer(list(experiment.intervene(world)), probes=probes))

    estimates = forgetting(at=at).estimates(losses(gains), losses(np.zeros(6)))
    (e,) = (
        e for e in estimates if (e.outcome, e.condition) == ("cross_entropy_above_twin", "lag-8")
    )
    reach = stats.t.ppf(0.975, 5) * stats.sem(gains)
    assert e.n == 6 and e.difference == pytest.approx(gains.mean())
    assert e.difference_ci_high - e.difference == pytest.approx(reach, rel=0.05)


def test_batches_of_one_line_are_the_same_at_all_of_its_lags(make_world, make_scorer):
    """Early batches that gain more do not make the curve rise where late ones have no lags."""
    gains = {"at-0.3": 3.0, "at-0.5": 1.0, "at-0.7": 0.0}
    control = measured(make_world, make_scorer, lambda *_: 9.0)
    run = measured(make_world, make_scorer, lambda name, lag, row: 9.0 - gains.get(name, 0))
    found = {e.condition: e for e in forgetting().estimates(run, control) if e.outcome == ABOVE}
    assert found["lag-24"].difference == pytest.approx(4 / 3) and found["lag-24"].n == 3
    assert found["lag-48"].difference == pytest.approx(2) and found["lag-48"].n == 2
    early = {c: e for c, e in found.items() if c.endswith("/early")}
    assert {"lag-0/early", "lag-24/early", "lag-48/early"} <= set(early)
    assert {(e.n, e.difference) for e in early.values()} == {(2, 2.0)}


def curve(gain_BxK, lags_K, clear=True):
    found = describe_curve(np.array(lags_K), np.array(gain_BxK, float), "all", clear)
    return {e.outcome: e for e in found}


def test_half_life_is_interpolated_after_the_peak_of_the_mean_curve():
    shape = np.array([0.0, 0.5, 1.0, 0.8, 0.2, 0.1])
    gains = np.outer(np.linspace(0.8, 1.2, 12), shape)
    found = curve(gains, [0, 1, 4, 8, 16, 32])
    assert found["peak_lag"].value == 4 and found["peak_lag"].n == 12
    e = found["half_life"]
    assert e.value == pytest.approx(12) and e.ci_low == pytest.approx(12) == e.ci_high
    assert math.isnan(e.difference) and math.isnan(e.control_value)


def test_a_gain_that_does_not_fall_has_no_half_life():
    """A model that knew the text before passes 'gain at lag 8', and is censored here."""
    rng = np.random.default_rng(0)
    flat = curve(0.3 + rng.normal(0, 0.001, (12, 4)), [0, 1, 4, 8])
    assert math.isnan(flat["half_life"].value) and math.isnan(flat["half_life"].ci_high)
    # Batches that mostly fall within the range: the upper bound alone is censored.
    falls = np.array([[0, 1, 0.9, 0.2]] * 8 + [[0, 1, 0.9, 0.8]] * 4)
    some = curve(falls + rng.normal(0, 0.001, falls.shape), [0, 1, 4, 8])
    assert some["half_life"].value < 8 and math.isnan(some["half_life"].ci_high)
    assert 4 < some["half_life"].ci_low < some["half_life"].value


def test_noise_has_a_peak_but_no_half_life(make_world, make_scorer):
    rng = np.random.default_rng(1)
    at = tuple(k / 20 for k in range(2, 14))
    tables = []
    for _ in range(2):
        experiment = forgetting(at=at)
        world = make_world(experiment)
        rows = [
            (step, p.name, row, 3 + rng.normal(0, 0.1))
            for p in experiment.probes(world)
            for step in p.steps
            for row in range(4)
        ]
        probes = pd.DataFrame(rows, columns=["step", "probe", "row", "loss"])
        scorer = make_scorer(list(experiment.intervene(world)), probes=probes)
        tables.append(experiment.outcome(scorer))
    found = {(e.outcome, e.condition): e for e in forgetting(at=at).estimates(*tables)}
    peak, half = found["peak_lag", "all"], found["half_life", "all"]
    assert peak.ci_high - peak.ci_low > 20 and math.isnan(half.value)
    assert found["half_life", "early"].n == 6


def test_figure_draws_gain_against_lag(make_world, make_scorer, final_table):
    run, control = run_and_control(make_world, make_scorer)
    axes = Figure().subplots()
    forgetting().figure(final_table(forgetting().estimates(run, control)), axes)
    every, early = axes.get_lines()[:2]
    for line, last, label in ((every, 30, "seed 0, 3 batches"), (early, 48, "seed 0, first 2")):
        lags = np.array(line.get_xdata())
        assert lags[0] == 0 and lags[-1] == last and (np.diff(lags) > 0).all()
        np.testing.assert_allclose(line.get_ydata()[1:], 1 / lags[1:])
        assert line.get_label().startswith(label)
    assert len(axes.collections) == 4  # the bands of two seeds


def test_gin_makes_it():
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config("""
            Forgetting.name = 'forgetting'
            Forgetting.primary = 'cross_entropy/end'
            Forgetting.expected_sign = -1
            Forgetting.at = (0.25,)
        """)
        try:
            made = Forgetting()
        finally:
            gin.clear_config()
    assert made.at == (0.25,) and made.sign("cross_entropy") == -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense_lags": (0,)}, "end with a lag above 0"),
        ({"primary": "cross_entropy/lag-9"}, "primary's condition"),
        ({"primary": "loss/lag-8"}, "primary must be"),
        ({"primary": "half_life/lag-8"}, "primary's condition"),
    ],
)
def test_bad_config_is_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        forgetting(**changes)
    first, *by_gin = str(error.value).splitlines()
    assert first.startswith("fc: ") and all("In call to" in line for line in by_gin)


@pytest.mark.parametrize(
    ("changes", "steps", "message"),
    [
        ({"at": (0.3, 0.301)}, 100, r"fc: at=.* the steps \[30, 30\]"),
        ({"at": (0.3, 0.999)}, 100, "different and before the end"),
        ({"at": (0.3, 0.95)}, 100, r"fc: .*lag-8 is never measured: .* 5 steps before the end"),
    ],
)
def test_what_a_geometry_cannot_hold_is_one_clear_line(changes, steps, message):
    with pytest.raises(ValueError, match=message):
        forgetting(**changes).reserve_windows(Geometry(64, 4, steps))
