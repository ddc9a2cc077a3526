import math
from itertools import pairwise

import gin
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.forgetting import Forgetting
from ttoaa.planning.placement import WholeBatch

STEPS = {"at-0.3": 30, "at-0.5": 50, "at-0.7": 70}


def forgetting(**changes):
    fields = {"name": "fc", "primary": "cross_entropy/lag-8", "expected_sign": -1}
    return Forgetting(**(fields | changes))


def test_every_row_of_each_batch_is_a_window_of_its_own(make_world):
    experiment = forgetting()
    world = make_world(experiment)
    assert experiment.reserve_windows(world.geometry) == 12
    items = list(experiment.intervene(world))
    assert [i.window for i in items] == list(world.windows)
    assert all(i.tokens is None and i.repetitions == 1 for i in items)
    placed = [(i.condition, i.placement) for i in items]
    assert placed == [
        (name, WholeBatch(steps=(step,), row=row))
        for name, step in STEPS.items()
        for row in range(4)
    ]
    assert len({i.id for i in items}) == 12


@pytest.mark.parametrize(("rows", "probed"), [(None, 4), (3, 3), (9, 4)])
def test_probes_hold_the_rows_that_are_trained_on(make_world, rows, probed):
    experiment = forgetting(probe_rows=rows)
    world = make_world(experiment)
    probes = experiment.probes(world)
    assert [p.name for p in probes] == list(STEPS)
    for k, probe in enumerate(probes):
        np.testing.assert_array_equal(probe.tokens_NxL, world.reserve_NxL[4 * k : 4 * k + probed])


def test_lags_are_dense_then_sparse_to_the_end(make_world):
    experiment = forgetting(sparse_ratio=2.0)
    first, second, third = (
        [s - STEPS[p.name] for s in p.steps] for p in experiment.probes(make_world(experiment))
    )
    # 100 steps; the last batch is followed by 30, so that all have a probe at lag 30.
    assert third == [0, 1, 2, 4, 8, 16, 24, 30]
    assert second == [0, 1, 2, 4, 8, 16, 24, 30, 32, 50]
    assert first == [0, 1, 2, 4, 8, 16, 24, 30, 32, 64, 70]
    long = experiment.probes(make_world(experiment, steps=100_000))
    assert max(len(p.steps) for p in long) < 25
    assert all(b > a for p in long for a, b in pairwise(p.steps))


def probe_table(world, experiment, loss):
    rows = [
        (step, p.name, row, loss(p.name, step - STEPS[p.name], row))
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
        return STEPS[name] + lag / 100 + row / 10

    table = measured(make_world, make_scorer, loss, step=54, probe_rows=2)
    assert set(table["outcome"]) == {"cross_entropy"}
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
    assert len(final["end"]) == 12
    pd.testing.assert_series_equal(final["end"].sort_index(), final["lag-30"].sort_index())


def test_no_probe_yet_is_an_empty_table(make_world, make_scorer):
    table = measured(make_world, make_scorer, lambda *_: 1.0, step=29)
    assert {"item", "condition", "outcome", "value", "group"} == {*table.columns} and table.empty
    assert forgetting().estimates(table, table) == []


def run_and_control(make_world, make_scorer):
    """After the batch the run's loss is lower by 1/lag, more by 0.1 in row 1, less in row 0."""
    gain = np.array([-0.1, 0.1, 0, 0])
    control = measured(make_world, make_scorer, lambda name, lag, row: 3.0 + row)
    run = measured(
        make_world,
        make_scorer,
        lambda name, lag, row: 3.0 + row - (1 / lag + gain[row] if lag else 0),
    )
    return run, control


def test_gain_is_what_the_control_loses_more(make_world, make_scorer):
    run, control = run_and_control(make_world, make_scorer)
    found = {e.condition: e for e in forgetting().estimates(run, control)}
    assert found["lag-0"].difference == 0
    for lag in (1, 2, 8, 24):
        e = found[f"lag-{lag}"]
        assert e.difference == pytest.approx(1 / lag) and e.n == 12
        assert e.value == pytest.approx(4.5 - 1 / lag) and e.control_value == 4.5
        assert e.groups == 3 and math.isnan(e.difference_ci_low), "three updates are too few"
    assert found["end"].difference == pytest.approx(1 / 30)
    assert found["lag-70"].n == 4


def test_figure_draws_gain_against_lag(make_world, make_scorer, final_table):
    run, control = run_and_control(make_world, make_scorer)
    axes = Figure().subplots()
    forgetting().figure(final_table(forgetting().estimates(run, control)), axes)
    line = axes.get_lines()[0]
    lags = np.array(line.get_xdata())
    assert lags[0] == 0 and lags[-1] == 70 and (np.diff(lags) > 0).all()
    np.testing.assert_allclose(line.get_ydata()[1:], 1 / lags[1:])
    assert len(axes.collections) == 2  # the bands of two seeds


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
