"""Metrics that a config adds: logged, and no bit of the model is another for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.conftest import TRAINING, make_job, make_program, params_at, records, same_bits

from ttoaa.model.compute_config import Execution
from ttoaa.training.loop import train
from ttoaa.training.skip_policy import Guard


@dataclasses.dataclass(frozen=True)
class Norm:
    """Of one tree of the step."""

    of: str

    @property
    def name(self):
        return f"norm_of/{self.of}"

    def value(self, step):
        return optax.global_norm(getattr(step, self.of))


ALL = [Norm(of) for of in ("gradients", "before", "after", "updates", "loss")]


@dataclasses.dataclass(frozen=True)
class Odd:
    """A metric that is none."""

    name: str
    result: object

    def value(self, step):
        return self.result


def test_metrics_are_logged_and_the_model_has_the_same_bits(whole, tmp_path):
    program = make_program(training=dataclasses.replace(TRAINING, metrics=ALL))
    train(make_job(tmp_path, program=program))
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12))
    found, without = records(tmp_path), records(whole)
    lines = [line for line in found["metrics"] if "loss" in line]
    for line in lines:
        assert line["norm_of/gradients"] == pytest.approx(line["grad_norm"], rel=1e-6)
        assert line["norm_of/loss"] == pytest.approx(line["loss"])
        assert 0 < line["norm_of/updates"] < line["norm_of/after"]
    assert lines[0]["norm_of/after"] == lines[1]["norm_of/before"]
    plain = [{k: v for k, v in line.items() if "norm_of" not in k} for line in found["metrics"]]
    assert {**found, "metrics": plain} == without
    assert any(b"norm_of/updates" in path.read_bytes() for path in tmp_path.glob("tensorboard/*/*"))


def test_the_whole_state_has_the_same_bits():
    """Also without a loop over micro-batches, and where an update is skipped."""
    training = dataclasses.replace(TRAINING, guard=Guard("skip", sigmas=0.05, window=4))
    states, rng = [], np.random.default_rng(3)
    batches = [rng.integers(0, 31, (4, 10)).astype(np.int32) for _ in range(8)]
    for metrics in ((), ALL):
        program = make_program(
            training=dataclasses.replace(training, metrics=metrics),
            execution=Execution(microbatch=4),
        )
        state, step = program.init(2), program.compile()
        for tokens in batches:
            batch = {"tokens": tokens, "arms": tokens % 3, "trained": np.ones(4, bool)}
            state, found = step(state, batch)
        states.append(jax.tree.map(np.asarray, state))
    assert found["skipped"] >= 1 and same_bits(*states)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([Norm], "Training.metrics holds .*write @Name"),
        ([Norm("loss"), Norm("loss")], "two metrics of one name"),
        ([Odd("loss", 1.0)], "'loss' is a built-in metric's name"),
        ([Odd("row", jnp.ones(3))], r"'row' must be a scalar, not float32\[3\]"),
    ],
)
def test_what_is_no_metric_is_named(metrics, message):
    with pytest.raises(ValueError, match=message):
        make_program(training=dataclasses.replace(TRAINING, metrics=metrics)).lower()
