"""What a run is told to keep, to skip and to see through, in whole runs."""

import dataclasses
import gc
import json

import jax.numpy as jnp
import numpy as np
import pytest
from training.conftest import (
    MODEL,
    TRAINING,
    batches,
    make_job,
    make_program,
    params_at,
    records,
    same_bits,
)
from training.saved import bits, flipped

from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.checkpoints import CheckpointWriter, Keep
from ttoaa.training.loop import train
from ttoaa.training.optimizer import AdamW
from ttoaa.training.skip_policy import Guard
from ttoaa.training.step import CompiledStep

# Orbax leaves coroutines behind when a read fails; they are collected here, not in other tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def collect():
    yield
    gc.collect()


POISON = MODEL.vocab_size - 1
"""A token whose embedding is infinite: whatever batch has it has no finite loss."""


def trained_with(folder, **changes):
    training = {
        name: changes.pop(name) for name in ("guard", "keep", "optimizer") if name in changes
    }
    program = make_program(training=dataclasses.replace(TRAINING, **training))
    train(make_job(folder, program=program, **changes))
    return records(folder)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(last=2, milestones=(1, 6)), [1, 6, 8, 12]),
        (Keep(every=8, per_doubling=1), [1, 2, 4, 8, 12]),
    ],
)
def test_what_is_kept_and_that_milestones_are_saved(whole, tmp_path, keep, left):
    assert trained_with(tmp_path, keep=keep) == records(whole)
    assert committed_steps(tmp_path / "checkpoints") == left
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12))
    assert not list((tmp_path / "checkpoints").glob("deleting-*"))


def tamed(at, poison):
    """Batches without the poison but for one row of batch `at`."""

    def taken(start, rows):
        for batch in batches(start, rows):
            tokens = batch["tokens"] % POISON
            if batch["step"] == at:
                tokens[0, 3] = poison
            yield {**batch, "tokens": tokens}

    return taken


def strict_json(folder):
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            json.loads(line, parse_constant=refuse)


@pytest.fixture
def poisoned(monkeypatch):
    fresh = CompiledStep.init

    def init(program, seed):
        state = fresh(program, seed)
        embedding = state["params"]["embedding"].at[POISON].set(jnp.inf)
        return {**state, "params": {**state["params"], "embedding": embedding}}

    monkeypatch.setattr(CompiledStep, "init", init)


def of_steps(found, name):
    return {line["step"]: line[name] for line in found["metrics"] if name in line}


def test_a_batch_without_a_finite_loss_is_skipped_counted_and_gone_on_from(poisoned, tmp_path):
    quiet = {"probes": [], "validation_NxL": np.zeros((0, 10), np.int32)}
    skip = {"guard": Guard("skip"), **quiet}
    found = trained_with(tmp_path / "a", batches=tamed(5, POISON), **skip)
    strict_json(tmp_path / "a")
    losses, skipped = of_steps(found, "loss"), of_steps(found, "skipped")
    assert losses.pop(6) is None and all(np.isfinite(list(losses.values())))
    assert skipped == {step: float(step >= 6) for step in range(1, 13)}
    norms = of_steps(found, "norm/block_00")
    assert norms[6] == norms[5] != norms[7], "the update is left out"
    assert (tmp_path / "a/finished.json").exists()

    # Up to there nothing is other than without the poison, from there on all of it is.
    clean = trained_with(tmp_path / "b", batches=tamed(5, 3), **skip)
    same = [losses[step] == of_steps(clean, "loss")[step] for step in losses]
    assert same == [True] * 5 + [False] * 6
    with pytest.raises(ValueError, match="step 6 has loss nan"):
        trained_with(tmp_path / "c", batches=tamed(5, POISON), **quiet)
    assert not (tmp_path / "c/finished.json").exists()


@dataclasses.dataclass(frozen=True)
class Wild:
    """A learning rate that no config class admits."""

    def over(self, steps):
        return lambda step: np.float32(1e30)


def test_too_many_in_a_row_end_the_run_and_the_checkpoint_before_is_good(tmp_path):
    wild = AdamW(Wild())
    with pytest.raises(ValueError, match=r"4 steps in a row were refused.*lower the peak"):
        trained_with(tmp_path, guard=Guard("skip", max_skips=3), optimizer=wild)
    strict_json(tmp_path)
    skipped = of_steps(records(tmp_path), "skipped")
    assert max(skipped.values()) == 4, "the step that was one too many is on record"


def learnable(spike):
    """Batches of one pattern, but for one without."""

    def taken(start, rows):
        for batch in batches(start, rows):
            if batch["step"] != spike:
                batch["tokens"][:] = np.arange(batch["tokens"].shape[1]) % 3
            yield batch

    return taken


def test_a_spike_is_skipped(tmp_path):
    rule = {"guard": Guard("skip", sigmas=6, window=4)}
    found = trained_with(tmp_path, batches=learnable(8), **rule)
    assert of_steps(found, "skipped") == {step: float(step >= 9) for step in range(1, 13)}
    losses, norms = of_steps(found, "loss"), of_steps(found, "norm/block_00")
    assert losses[9] > losses[8] + 1 and losses[10] < losses[8] + 0.1
    assert norms[9] == norms[8] != norms[10]


@pytest.fixture
def flipping(begun):
    """What a restore of the run's checkpoints gives after each flip in the newest one."""
    state, folder = make_program().state, begun / "checkpoints"

    def restored():
        writer = CheckpointWriter(folder)
        found = writer.restore_newest(
            state["params"], state["opt"], lambda meta: None, guard=state["guard"]
        )
        writer.finish()
        return found

    def each():
        for file in flipped(folder, 8):
            if file.startswith("guard/"):
                yield restored()
                if (folder / "damaged-8").exists():
                    (folder / "damaged-8").rename(folder / "8")

    return restored(), each()


def test_a_flipped_byte_of_the_guard_is_harmless_or_seen(flipping):
    """In every file, at its start, middle and end; files of other items: test_checkpoints.py."""
    whole, each = flipping
    steps = set()
    for found in each:
        steps.add(found.step)
        if found.step == 8:
            assert bits(found[1:3] + found[4:]) == bits(whole[1:3] + whole[4:])
            assert found.meta == whole.meta
    assert 4 in steps
