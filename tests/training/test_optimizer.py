import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.conftest import (
    TRAINING,
    make_job,
    make_program,
    params_at,
    records,
    same_bits,
)

from ttoaa.training.loop import train
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW, Optax, bind_schedule
from ttoaa.training.skip_policy import Guard


def adamw(params, grads, sizes, rates, decayed):
    """AdamW (Loshchilov and Hutter, 2019) with betas 0.9 and 0.95, eps 1e-8, decay 0.1, clip 1."""
    m = v = {name: 0.0 for name in params}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    for t, (size, rate) in enumerate(zip(sizes, rates, strict=True), start=1):
        clipped = {name: size * g / max(1.0, size * norm) for name, g in grads.items()}
        m = {name: 0.9 * m[name] + 0.1 * g for name, g in clipped.items()}
        v = {name: 0.95 * v[name] + 0.05 * g**2 for name, g in clipped.items()}
        for name in params:
            step = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.95**t)) + 1e-8)
            decay = 0.1 * params[name] * (name in decayed)
            params = {**params, name: params[name] - rate * (step + decay)}
    return params


def test_updates_follow_the_runs_step_and_spare_the_embedding_alone():
    rng = np.random.default_rng(0)
    names = ("embedding", "block_00", "norm", "head")
    start, grads = ({name: rng.normal(size=6) for name in names} for _ in range(2))
    sizes, steps = (0.02, 1.0, 0.1), (0, 5, 9)  # the steps between were skipped
    schedule = ConstantLinear(peak=0.1, warmup=0, decay=1.0)
    optimizer = bind_schedule(AdamW(schedule), 10)
    params = jax.tree.map(jnp.float32, start)
    state = optimizer.init(params)
    for size, step in zip(sizes, steps, strict=True):
        gradient = {name: jnp.float32(size * g) for name, g in grads.items()}
        updates, state = optimizer.update(gradient, state, params, step=jnp.int32(step))
        params = optax.apply_updates(params, updates)
    expected = adamw(start, grads, sizes, [0.1, 0.05, 0.01], set(names) - {"embedding"})
    for name in names:
        np.testing.assert_allclose(params[name], expected[name], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "lionn"}, "Optax.name 'lionn' .* no attribute 'lionn'"),
        ({"name": "lion", "options": {"beta": 0.9}}, "Optax.options: got an unexpected .* 'beta'"),
        ({"name": "clip_by_global_norm"}, "Optax.name 'clip_by_global_norm'"),
    ],
)
def test_what_optax_does_not_have_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Optax(ConstantLinear(1.0, 0), **fields)


def test_optax_by_name_is_optax_at_the_rate_of_the_step_after_clipping():
    params = {"embedding": jnp.array([1.0, -2.0]), "head": jnp.array([3.0])}
    gradient = {"embedding": jnp.array([3.0, 0.0]), "head": jnp.array([4.0])}  # of norm 5
    optimizer = Optax(ConstantLinear(0.1, 0, decay=1.0), "sgd", {"momentum": 0.5})
    bound = bind_schedule(optimizer, 10)
    state = bound.init(params)
    _, state = bound.update(gradient, state, params, step=jnp.int32(0))
    updates, _ = bound.update(gradient, state, params, step=jnp.int32(5))
    for name, clipped in {"embedding": [0.6, 0.0], "head": [0.8]}.items():
        np.testing.assert_allclose(updates[name], -0.05 * 1.5 * np.array(clipped), rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Halving:
    """A schedule of somebody else's: half the rate after every `every` updates."""

    first: float = 0.02
    every: int = 4

    def over(self, steps):
        return lambda update: self.first * 0.5 ** (update // self.every)


@dataclasses.dataclass(frozen=True)
class PolyakSGD:
    """An optimizer of somebody else's, which needs the loss and keeps no moments."""

    schedule: Halving = Halving()

    def transformation(self, learning_rate):
        return optax.polyak_sgd(max_learning_rate=0.1, scaling=learning_rate)


OTHERS = {
    "adafactor": Optax(Halving(), "adafactor", {"min_dim_size_to_factor": 8, "momentum": 0.9}),
    "muon": Optax(Halving(), "contrib.muon", clip=None),
    "polyak": PolyakSGD(),
}


SOME = Guard("skip", sigmas=0.5, window=4)
"""Skips some updates of a run where nothing goes wrong."""


@pytest.mark.parametrize("name", OTHERS)
def test_any_optimizer_and_schedule_trains_and_resumes_to_the_same_bits(name, tmp_path):
    training = dataclasses.replace(TRAINING, optimizer=OTHERS[name], guard=SOME)
    program = make_program(training=training)
    quiet = {"probes": [], "validation_NxL": np.zeros((0, 10), np.int32), "program": program}
    train(make_job(tmp_path / "whole", **quiet))
    found = records(tmp_path / "whole")
    rates = [line["learning_rate"] for line in found["metrics"] if "learning_rate" in line]
    assert rates == pytest.approx([OTHERS[name].schedule.over(12)(u) for u in range(12)])
    assert 1 <= found["metrics"][-1]["skipped"] <= 9
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/12")
    (tmp_path / "cut/finished.json").unlink()
    train(make_job(tmp_path / "cut", **quiet))
    assert same_bits(params_at(tmp_path / "cut", 12), params_at(tmp_path / "whole", 12))
    assert not same_bits(params_at(tmp_path / "cut", 12), params_at(tmp_path / "whole", 8))
    assert records(tmp_path / "cut") == found


def test_a_random_key_in_the_state_is_refused():
    noisy = Optax(Halving(), "noisy_sgd")
    program = make_program(training=dataclasses.replace(TRAINING, optimizer=noisy))
    with pytest.raises(ValueError, match="keeps a random key in its state"):
        program.init(0)
