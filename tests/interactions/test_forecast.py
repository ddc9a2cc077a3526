"""Forecasts: inner products against finite differences, and a planted interaction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import studies

from ttoaa import config, dependence
from ttoaa.interactions.burst_study import Length, find_source, make_burst_study
from ttoaa.interactions.comparison import FORECASTS, forecast_shares
from ttoaa.interactions.forecast import make_forecast, read_forecast
from ttoaa.interactions.planted import Echo
from ttoaa.interactions.rows import BurstJob
from ttoaa.interactions.weighted_gradients import (
    Text,
    adam_scaled,
    inner_product,
    second_moments,
    weighted_gradient,
)
from ttoaa.json_io import parse_json
from ttoaa.planning.composed_rows import compose_rows
from ttoaa.scoring.likelihood import log_likelihoods
from ttoaa.study_handle import StudyHandle
from ttoaa.training.checkpoint_io import read_checkpoint
from ttoaa.workdir import Workdir

STEP, STEPS = 20, 8


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    names = [name for name in ("plan", "control", "reference") if (finished[0] / name).exists()]
    root = studies.copy(finished[0], tmp_path_factory.mktemp("forecast") / "work", *names)
    return StudyHandle(config.load([root / "config.gin"])[0], Workdir(root))


@pytest.fixture(scope="module")
def bursts(study):
    """Bursts in which 'echo' inserts the items of 'planted' once more."""
    found = make_burst_study(study, find_source(study, STEP, None), Length(STEPS, 0.1), "echo-20")
    (planted,) = (e for e in found.config.experiments if e.name == "planted")
    echo = Echo("echo", planted.primary, 1, of=planted)
    config = dataclasses.replace(found.config, experiments=[*found.config.experiments, echo])
    return dataclasses.replace(found, config=config)


@pytest.fixture(scope="module")
def forecast(bursts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return make_forecast([bursts], [0], folder / "f.parquet", folder / "f.json")


@pytest.fixture(scope="module")
def state(bursts):
    abstract = BurstJob(bursts).program.state
    folder = bursts.source.init.checkpoints
    return read_checkpoint(folder, STEP, params=abstract["params"], opt=abstract["opt"])


def losses(bursts, params, texts):
    """The mean loss of each text by the code that scores outcomes."""
    requests = [(np.asarray(text, np.int32), 1) for text in texts]
    found = log_likelihoods(bursts.config.model, params, requests)
    return np.array([-np.mean(each, dtype=np.float64) for each in found])


def slope(value, params, direction, size=1e-3):
    """The derivative of value(params) along a direction, by central differences."""
    size /= float(optax.global_norm(direction))
    ahead, back = (
        value(jax.tree.map(lambda p, d, s=s: p + s * d, params, direction)) for s in (size, -size)
    )
    return (ahead - back) / (2 * size)


def test_an_update_by_the_row_lowers_the_loss_of_the_column_as_forecast(bursts, forecast, state):
    """Two finite differences: along the column's gradient, and along the row's."""
    handle, params = bursts.handle(0), state["params"]
    cell = forecast.set_index(["row", "column"]).loc["late", "planted"]
    items = handle.plan.items("planted")
    parts = [items[items["condition"] == c]["tokens"] for c in ("4x", "0x")]
    texts = [
        Text(np.asarray(tokens), sign / len(part) / (len(tokens) - 1))
        for part, sign in zip(parts, (1, -1), strict=True)
        for tokens in part
    ]
    job = BurstJob(bursts)
    h = weighted_gradient(job.program, params, texts)
    order, positions = handle.order, np.arange(handle.config.geometry.sequences)
    rows = [compose_rows(handle.plan, handle.corpus, order, positions, e) for e in (("late",), ())]

    def burst(params):
        with_edits, without = (losses(bursts, params, each).mean() for each in rows)
        return with_edits - without

    assert slope(burst, params, h) == pytest.approx(cell["gradient"], rel=0.02)

    def column(params):
        scored, held_out = (losses(bursts, params, part).mean() for part in parts)
        return scored - held_out

    sides = [Text(row, sign / len(each) / (len(row) - 1))
             for each, sign in zip(rows, (1, -1), strict=True) for row in each]  # fmt: skip
    g = weighted_gradient(job.program, params, sides)
    assert float(inner_product(g, h)) == pytest.approx(cell["gradient"], rel=1e-3)
    adam = adam_scaled(g, second_moments(state["opt"], 0.95), 1e-8)
    for step, kind in ((g, "gradient"), (adam, "preconditioned")):
        assert slope(column, params, step) == pytest.approx(cell[kind], rel=0.02)


def test_adams_scale_by_hand():
    gradients = [jnp.array([3.0, 0.0, -0.5]), jnp.array([1.0, 0.0, 2.0])]
    adam = optax.chain(optax.clip(10.0), optax.scale_by_adam(b2=0.9))
    state = adam.init(gradients[0])
    for gradient in gradients:
        _, state = adam.update(gradient, state)
    nu_hat = np.array([(0.9 * 9 + 1) / 1.9, 0, (0.9 * 0.25 + 4) / 1.9])
    np.testing.assert_allclose(second_moments(state, 0.9), nu_hat, rtol=1e-5)
    g = np.array([1.0, 2.0, 0.0])  # the second parameter had no gradient before
    found = adam_scaled(jnp.array(g), jnp.array(nu_hat), 1e-3)
    np.testing.assert_allclose(found, [1 / (np.sqrt(1 + nu_hat[0]) + 1e-3), 2 / 2.001, 0],
                               rtol=1e-5)  # fmt: skip


def test_the_planted_interaction_is_the_largest_forecast_of_its_column(forecast):
    for kind in FORECASTS:
        found = forecast_shares(forecast, STEP, kind)
        for row, column in (("echo", "planted"), ("planted", "echo")):
            others = found[column].drop(column).abs()
            assert others.idxmax() == row and found.loc[row, column] > 0.3, kind
    assert forecast_shares(forecast, STEP, "containment").loc["echo", "planted"] == 1


def test_the_command_forecasts_before_it_trains(study):
    root = study.workdir.root
    given = [f"--checkpoints={STEP}", f"--burst_steps={STEPS}", "--share=0.1", "--burst_seeds=0"]
    assert not studies.main(dependence, root, *given, "--forecast", "--rows=")
    path = root / "bursts" / "step-forecast.parquet"
    before, found = path.stat().st_mtime_ns, read_forecast(path)
    assert len(found) == 9 and not list(root.glob("bursts/step-20/control"))
    (summary,) = parse_json((root / "dependence-forecast.json").read_bytes(), path, list)
    assert summary["experiments"] == ["forgetting", "late", "planted"] and summary["seconds"] > 0
    assert [summary["gradient"][i][i] for i in (1, 2)] == [1, 1]
    assert not studies.main(dependence, root, *given, "--forecast", "--rows=")
    assert path.stat().st_mtime_ns == before
