"""Noise in the training step: which rows it reaches, what is logged, and what other steps keep."""

import dataclasses
import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.conftest import (
    GEOMETRY,
    MODEL,
    TRAINING,
    make_batch,
    make_job,
    make_program,
    params_at,
    records,
    same_bits,
)

from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import apply, init_params
from ttoaa.model.noise import unit_noise
from ttoaa.planning.noise import NOISE_KEY, NOISE_SCALE, row_keys
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.watermark_detection import watermark_statistic
from ttoaa.training.device_feed import place_batch
from ttoaa.training.loop import Stopped, train

NOISY = (3, 6, 7)
SCALE = np.array([[0.5, 0], [0, 0], [0, 0.4], [0.1, 0.2]], np.float32)


def noisy_batch(step, scale=SCALE):
    positions = step * GEOMETRY.batch + np.arange(GEOMETRY.batch)
    return {**make_batch(step), NOISE_KEY: row_keys(0, positions), NOISE_SCALE: scale}


def batches(start, rows, before=lambda step: None):
    for step in range(start, GEOMETRY.steps):
        before(step)
        whole = noisy_batch(step) if step in NOISY else make_batch(step)
        yield {name: x if name == "step" else x[rows] for name, x in whole.items()}


@functools.cache
def initial():
    """The state of seed 5, which no test compiles anew; its dtypes are those of any model's."""
    return jax.tree.map(np.asarray, make_program().init(5))


def take(program, batch):
    noisy = NOISE_KEY in batch
    like = program.noisy_batch if noisy else program.batch
    state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), initial(), program.state)
    state, metrics = program.compile(noisy)(
        state, place_batch(batch, np.arange(GEOMETRY.batch), like)
    )
    return jax.tree.map(np.asarray, (state["params"], metrics))


def mean_loss(params, tokens, offset):
    logits = apply(MODEL, params, tokens, offset)[:, :-1]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1).mean()


def test_the_loss_is_that_of_embeddings_with_scaled_noise_in_marked_rows():
    program, batch = make_program(), noisy_batch(3)
    _, metrics = take(program, batch)
    params = init_params(MODEL, jax.random.key(5))
    rms = float(np.sqrt(np.mean(np.asarray(params["embedding"], np.float64) ** 2)))
    sigma = SCALE @ np.array([1, rms])
    unit = np.asarray(unit_noise(jnp.asarray(batch[NOISE_KEY]), GEOMETRY.length, MODEL.width))
    expected = mean_loss(params, batch["tokens"], sigma[:, None, None] * unit)
    plain = mean_loss(params, batch["tokens"], None)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert abs(plain - expected) > 1e-3
    assert metrics["noise_rows"] == 3
    np.testing.assert_allclose(metrics["noise_sigma"], sigma.sum() / 3, rtol=1e-5)
    _, in_passes = take(make_program(execution=Execution(microbatch=1)), batch)
    np.testing.assert_allclose(in_passes["loss"], expected, rtol=1e-5)


def test_rows_without_noise_are_not_touched():
    """Rows of scale 0 in a noisy batch: their loss is that of the plain program."""
    nothing = noisy_batch(3, np.zeros((4, 2), np.float32))
    one = noisy_batch(3, np.float32([[0.5, 0], [0, 0], [0, 0], [0, 0]]))
    alone = {**make_batch(3), "trained": np.arange(4) > 0}
    program = make_program()
    for noisy, plain in ((nothing, make_batch(3)), ({**one, "trained": alone["trained"]}, alone)):
        found, expected = take(program, noisy)[1], take(program, plain)[1]
        for name in ("loss", "grad_norm", "arm_loss"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)


def test_unit_noise_is_standard_normal_and_the_same_in_any_company():
    keys = jnp.asarray(row_keys(2, np.arange(64)))
    noise = np.asarray(unit_noise(keys, 32, 16))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    correlations = np.corrcoef(noise.reshape(64, -1)) - np.eye(64)
    assert np.abs(correlations).max() < 5 / np.sqrt(32 * 16)
    np.testing.assert_array_equal(np.asarray(unit_noise(keys[5:7], 32, 16)), noise[5:7])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise") / "run"
    train(make_job(folder, batches=batches, noisy=True))
    return folder


def test_steps_before_the_first_noise_are_those_of_a_run_without_any(whole, tmp_path):
    train(make_job(tmp_path))
    ours, theirs = (records(folder)["metrics"] for folder in (whole, tmp_path))
    for mine, other in zip(ours, theirs, strict=True):
        if mine["step"] <= NOISY[0]:  # the metrics of step k are of batch k - 1
            assert mine == other
    noisy = [line["step"] for line in ours if "noise_rows" in line]
    assert noisy == [step + 1 for step in NOISY]
    assert not same_bits(params_at(whole, 4), params_at(tmp_path, 4))


@pytest.mark.parametrize("at", [3, 5])
def test_a_run_that_is_stopped_near_a_noisy_step_resumes_to_the_same_bits(whole, tmp_path, at):
    def stop(step):
        if step == at:
            signal.raise_signal(signal.SIGTERM)

    def stopping(start, rows):
        return batches(start, rows, stop)

    with pytest.raises(Stopped):
        train(make_job(tmp_path, batches=stopping, noisy=True))
    train(make_job(tmp_path, batches=batches, noisy=True))
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12))
    assert records(tmp_path) == records(whole)


def test_bfloat16_embeddings_take_noise_too():
    model = dataclasses.replace(MODEL, dtype="bfloat16")
    _, metrics = take(make_program(model=model), noisy_batch(3))
    _, exact = take(make_program(training=TRAINING), noisy_batch(3))
    np.testing.assert_allclose(metrics["loss"], exact["loss"], rtol=5e-3)


def test_a_watermark_that_was_just_learnt_is_positive():
    """One update on noise; 48 rows of 12 models, whose statistics are N(0, 1) without it."""
    program, learnt = make_program(), []
    scale = np.tile(np.float32([[0, 1]]), (4, 1))
    for step in range(12):
        batch = noisy_batch(step, scale)
        params, _ = take(program, batch)
        requests = [(tokens, 1) for tokens in batch["tokens"]]
        gradients = embedding_gradients(MODEL, params, requests)
        noise = unit_noise(jnp.asarray(batch[NOISE_KEY]), GEOMETRY.length, MODEL.width)
        learnt.append(watermark_statistic(gradients, np.asarray(noise)))
    assert np.mean(learnt) * np.sqrt(48) > 4
