"""Metrics that a config adds: logged, and no bit of the model is another for it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import studies
from training.conftest import TRAINING, make_job, make_program, params_at, records, same_bits

from ttoaa.model.compute_config import PLAIN
from ttoaa.training.loop import train
from ttoaa.training.metrics import FILES, MetricsLog
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


# Without a loop over micro-batches, so that XLA may optimise metrics and update together.
AS_USED = dataclasses.replace(PLAIN, compiler_options=tuple(studies.AS_USED.items()), microbatch=4)
SKIPS = dataclasses.replace(TRAINING, guard=Guard("skip", sigmas=0.05, window=4))
ALL = [Norm(of) for of in ("gradients", "before", "after", "updates", "loss")]


@dataclasses.dataclass(frozen=True)
class Odd:
    """A metric that is none."""

    name: str
    result: object

    def value(self, step):
        return self.result


def test_metrics_are_logged_and_the_model_has_the_same_bits(tmp_path):
    folders = tmp_path / "with", tmp_path / "without"
    for folder, metrics in zip(folders, (ALL, ()), strict=True):
        training = dataclasses.replace(SKIPS, metrics=metrics)
        train(make_job(folder, program=make_program(training=training, execution=AS_USED)))
    assert same_bits(*(params_at(folder, 12) for folder in folders))
    found, without = map(records, folders)
    lines = [line for line in found["metrics"] if "loss" in line]
    for line in lines:
        assert line["norm_of/gradients"] == pytest.approx(line["grad_norm"], rel=1e-6)
        assert line["norm_of/loss"] == pytest.approx(line["loss"])
        assert line["skipped"] or 0 < line["norm_of/updates"] < line["norm_of/after"]
    assert not lines[0]["skipped"]
    assert lines[0]["norm_of/after"] == lines[1]["norm_of/before"]
    plain = [{k: v for k, v in line.items() if "norm_of" not in k} for line in found["metrics"]]
    assert {**found, "metrics": plain} == without
    events = folders[0].glob("tensorboard/*/*")
    assert any(b"norm_of/updates" in path.read_bytes() for path in events)


def test_the_whole_state_has_the_same_bits():
    """Also where an update is skipped."""
    states, rng = [], np.random.default_rng(3)
    batches = [rng.integers(0, 31, (4, 10)).astype(np.int32) for _ in range(8)]
    for metrics in ((), ALL):
        program = make_program(
            training=dataclasses.replace(SKIPS, metrics=metrics), execution=AS_USED
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
        ([Norm], r"Training\.metrics\[0\] must be a Metric, as @Name\(\)"),
        ([Norm("loss"), Norm("loss")], "two metrics of one name"),
        ([Odd("loss", 1.0)], "'loss' is a built-in metric's name"),
        ([Odd("row", jnp.ones(3))], r"'row' must be a scalar, not float32\[3\]"),
    ],
)
def test_what_is_no_metric_is_named(metrics, message):
    with pytest.raises(ValueError, match=message):
        make_program(training=dataclasses.replace(TRAINING, metrics=metrics)).lower()


def write(folder, steps, keep=-1):
    """Records that a loop makes: a metrics and an arms line a step, a probe every second."""
    records = MetricsLog(folder, keep)
    for step in steps:
        records.metrics(step, loss=1 / step, learning_rate=0.1)
        records.arms(step, {0: (2.5 * step, 10.0), 3: (0.1, 1.0)})
        if step % 2 == 0:
            records.probe(step, "canaries", "plain", [0.5, step / 3])
    return records


def lines(folder):
    return {name: (folder / f"{name}.jsonl").read_text() for name in FILES}


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path, [1, 2]).close()
    metrics, arms, probes = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in FILES
    )
    assert metrics == [{"step": k, "loss": 1 / k, "learning_rate": 0.1} for k in (1, 2)]
    assert arms == [{"step": k, "arms": {"0": [2.5 * k, 10.0], "3": [0.1, 1.0]}} for k in (1, 2)]
    assert probes == [{"step": 2, "experiment": "canaries", "probe": "plain", "loss": [0.5, 2 / 3]}]


def test_a_resume_cuts_back_to_its_step(tmp_path):
    write(tmp_path / "whole", range(1, 9)).close()
    write(tmp_path / "cut", range(1, 7)).close()
    write(tmp_path / "cut", range(5, 9), keep=4).close()
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_a_fresh_start_keeps_nothing(tmp_path):
    records = MetricsLog(tmp_path, -1)
    records.metrics(0, validation_loss=3.0)
    records.close()
    MetricsLog(tmp_path, -1).close()
    assert lines(tmp_path) == dict.fromkeys(FILES, "")
    records = MetricsLog(tmp_path, -1)
    records.metrics(0, validation_loss=3.0)
    records.close()
    MetricsLog(tmp_path, 0).close()
    assert lines(tmp_path)["metrics"].count("validation_loss") == 1


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, cut):
    write(tmp_path / "whole", range(1, 5)).close()
    write(tmp_path / "cut", range(1, 4)).close()
    path = tmp_path / "cut/arms.jsonl"
    path.write_bytes(path.read_bytes() + (path.read_bytes().splitlines()[-1] + b"\n")[:-cut])
    write(tmp_path / "cut", [4], keep=3).close()
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_sync_puts_everything_where_another_process_reads_it(tmp_path):
    records = write(tmp_path, [1, 2])
    assert lines(tmp_path)["metrics"] == "", "it is buffered: a step costs no system call"
    records.sync()
    written = lines(tmp_path)
    assert all(text.endswith("\n") for text in written.values())
    records.close()
    assert lines(tmp_path) == written
