import dataclasses
import functools
import json
import logging
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from damage import change_digit, cut_in_half, delete, empty, flip_byte, lose_last_line
from model import reference
from training.conftest import (
    MODEL,
    TIMES,
    TRAINING,
    batches,
    contents,
    make_batch,
    make_job,
    make_program,
    params_at,
    records,
    same_bits,
)

from ttoaa.model.decoder import init_params
from ttoaa.training import loop
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.loop import Stopped, train
from ttoaa.training.optimizer import AdamW
from ttoaa.training.run_records import check_run


class Crash(Exception):
    """What ends a run without warning."""


def crash_at(at):
    def before(step):
        if step == at:
            raise Crash

    return lambda start, rows: batches(start, rows, before)


def sigterm_at(at):
    def before(step):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    return lambda start, rows: batches(start, rows, before)


def assert_same_end(folder, whole):
    assert same_bits(params_at(folder, 12), params_at(whole, 12))
    assert records(folder) == records(whole)
    finished = json.loads((folder / "finished.json").read_text())
    assert (finished["step"], finished["identity"]) == (12, {"corpus": "c0", "plan": "p0"})
    assert check_run(folder) == ""


def test_the_same_job_gives_the_same_bits(whole, tmp_path):
    train(make_job(tmp_path))
    assert_same_end(tmp_path, whole)
    assert committed_steps(tmp_path / "checkpoints") == [4, 8, 12]


@pytest.mark.parametrize("at", [2, 6, 9])
def test_a_crash_costs_nothing_but_time(whole, tmp_path, at):
    with pytest.raises(Crash):
        train(make_job(tmp_path, batches=crash_at(at)))
    assert not (tmp_path / "finished.json").exists()
    # A batch is asked for one step early.
    # A save in flight at the crash is not lost, as it would be were the process just left.
    assert committed_steps(tmp_path / "checkpoints") == [s for s in (4, 8) if s < at]
    train(make_job(tmp_path))
    assert_same_end(tmp_path, whole)


@pytest.mark.parametrize("at", [0, 4])
def test_sigterm_saves_at_the_next_step_and_goes_on_later(whole, tmp_path, at):
    """At 4 it comes just before a step that is saved anyway; a batch is asked for a step early."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match=f"stopped at step {max(at, 1)} of 12, saved"):
        train(make_job(tmp_path, batches=sigterm_at(at)))
    assert signal.getsignal(signal.SIGTERM) == before
    assert committed_steps(tmp_path / "checkpoints")[-1] == max(at, 1)
    assert not (tmp_path / "finished.json").exists()
    train(make_job(tmp_path))
    assert_same_end(tmp_path, whole)


def test_sigterm_before_the_first_step_of_a_resume(begun, whole, monkeypatch):
    compile_step = loop._TrainingRun._compile

    def killed_meanwhile(run):
        os.kill(os.getpid(), signal.SIGTERM)
        return compile_step(run)

    monkeypatch.setattr(loop._TrainingRun, "_compile", killed_meanwhile)
    with pytest.raises(Stopped, match="stopped at step 8 of 12"):
        train(make_job(begun))
    monkeypatch.undo()
    train(make_job(begun))
    assert_same_end(begun, whole)


def test_a_run_that_another_trainer_took_over_saves_nothing_more(begun):
    before = contents(begun / "checkpoints")
    with pytest.raises(ValueError, match="taken over by another trainer"):
        train(make_job(begun, ours=lambda: False))
    assert contents(begun / "checkpoints") == before
    assert not (begun / "finished.json").exists()


def test_a_run_killed_between_its_last_checkpoint_and_its_end_is_ended(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "copied")
    (folder / "finished.json").unlink()
    (folder / "ledger.json").unlink()
    train(make_job(folder))
    assert_same_end(folder, whole)
    assert (folder / "ledger.json").exists()


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(begun, whole, caplog):
    (path,) = (begun / "checkpoints/8/opt/d").iterdir()
    path.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        train(make_job(begun))
    assert "checkpoint 8" in caplog.text and "renamed to damaged-8" in caplog.text
    assert_same_end(begun, whole)
    assert committed_steps(begun / "checkpoints") == [4, 8, 12]


def test_each_step_is_recorded_once_with_the_loss_of_its_batch(whole, tmp_path):
    every = dataclasses.replace(TRAINING, checkpoint_every=1)
    train(make_job(tmp_path, program=make_program(training=every)))
    found = records(tmp_path)
    assert found == records(whole), "how often one saves changes nothing"
    lines = [line for line in found["metrics"] if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in found["arms"]] == list(range(1, 13))
    for line, arms in zip(lines, found["arms"], strict=True):
        step = line["step"] - 1
        batch = make_batch(step)
        loss = -reference.log_probs(MODEL, trained(tmp_path, step), batch["tokens"])
        np.testing.assert_allclose(line["loss"], loss.mean(), rtol=1e-5)
        targets = batch["arms"][:, 1:]
        assert arms["arms"].keys() == {str(arm) for arm in np.unique(targets)}
        for arm, (total, count) in arms["arms"].items():
            assert count == (targets == int(arm)).sum()
            np.testing.assert_allclose(total, loss[targets == int(arm)].sum(), rtol=1e-5)
    check_probes(found["probes"], tmp_path)
    check_validation(found["metrics"], tmp_path)


@functools.cache
def trained(folder, step):
    """Parameters after `step` updates."""
    return params_at(folder, step) if step else init_params(MODEL, jax.random.key(1))


def losses_at(folder, step, rows):
    """By hand, the mean loss of each row after `step` updates."""
    return -reference.log_probs(MODEL, trained(folder, step), rows).mean(axis=1)


def check_probes(lines, folder):
    probes = {(name, probe.name): probe for name, probe in make_job(folder).probes}
    when = {key: [] for key in probes}
    for line in lines:
        key = line["experiment"], line["probe"]
        when[key].append(line["step"])
        expected = losses_at(folder, line["step"], probes[key].tokens_NxL)
        np.testing.assert_allclose(line["loss"], expected, rtol=1e-5)
    assert when == {("canaries", "often"): [0, 1, 4, 7, 12], ("forgetting", "late"): [8, 9]}


def check_validation(lines, folder):
    lines = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in lines] == [0, 5, 10, 12]
    for line in lines:
        expected = losses_at(folder, line["step"], make_job(folder).validation_NxL).mean()
        np.testing.assert_allclose(line["validation_loss"], expected, rtol=1e-5)


def test_neither_probes_nor_validation_change_a_bit(whole, tmp_path):
    quiet = make_job(tmp_path, probes=[], validation_NxL=np.zeros((0, 10), np.int32))
    train(quiet)
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12))
    assert records(tmp_path)["probes"] == []
    assert not any("validation_loss" in line for line in records(tmp_path)["metrics"])


@pytest.mark.parametrize("name", ["corpus", "plan"])
def test_a_checkpoint_of_another_run_is_refused_and_nothing_is_touched(begun, name):
    ours = {"corpus": "c0", "plan": "p0", name: "x1"}
    before = contents(begun)
    with pytest.raises(ValueError) as error:
        train(make_job(begun, identity=ours))
    text = str(error.value)
    assert f"{name} {name[0]}0" in text and "now it would be x1" in text and "\n" not in text
    assert contents(begun) == before


def test_another_model_is_not_taken_for_damage(begun):
    """Its identity is checked before its arrays are read."""
    before = contents(begun)
    wider = dataclasses.replace(MODEL, hidden=32)
    with pytest.raises(ValueError, match=r"was made with corpus c0, now it would be c1"):
        ours = {"corpus": "c1", "plan": "p0"}
        train(make_job(begun, program=make_program(wider), identity=ours))
    assert contents(begun) == before


def test_a_loss_that_is_not_finite_stops_the_run_with_one_line(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Wild:
        def over(self, steps):
            return lambda step: np.float32(1e30)

    wild = dataclasses.replace(TRAINING, optimizer=AdamW(Wild()))
    with pytest.raises(ValueError) as error:
        training = dataclasses.replace(wild, checkpoint_every=1)
        train(make_job(tmp_path, program=make_program(training=training)))
    assert "lower the peak learning rate" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "finished.json").exists()
    for step in committed_steps(tmp_path / "checkpoints"):
        loss = losses_at(tmp_path, step, make_batch(0)["tokens"])
        assert step == 1 or np.isfinite(loss).all()
    *before, refused = [line for line in records(tmp_path)["metrics"] if "loss" in line]
    assert all(np.isfinite(line["loss"]) for line in before)
    assert None in (refused["loss"], refused["grad_norm"]), "the refused step is on record too"


def test_what_a_run_leaves_behind(whole):
    ledger = json.loads((whole / "ledger.json").read_text())
    phases = {"compile", "step", "validate", "checkpoint", "probe/canaries", "probe/forgetting"}
    assert set(ledger["seconds"]) == phases and all(s > 0 for s in ledger["seconds"].values())
    assert ledger["tokens"] == 12 * 4 * 10
    assert ledger["flops"] == 480 * MODEL.flops_per_token(10)
    assert ledger["parameters"] == MODEL.num_params()
    assert (whole / "config.gin").read_text() == "Study.name = 'test'"
    provenance = json.loads((whole / "provenance.json").read_text())
    assert provenance["plan"] == "p0" and "jaxlib" in provenance["packages"]


def test_speed_is_that_of_the_steps_alone(tmp_path):
    """Each batch takes 50 ms: 40 tokens then pass at no more than 800 a second."""

    def slow(start, rows):
        return batches(start, rows, lambda step: time.sleep(0.05))

    train(make_job(tmp_path, batches=slow))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["tokens_per_second"] for line in lines if TIMES[0] in line}
    # After a probe, a validation or a checkpoint one step goes untimed.
    assert set(rates) == {3, 4, 7, 12}
    assert 200 < rates[3] < 801


def test_the_ledger_goes_on_after_a_resume(begun):
    meta = json.loads((begun / "checkpoints/8/meta/metadata").read_text())
    train(make_job(begun))
    after = json.loads((begun / "ledger.json").read_text())["seconds"]
    assert all(after[phase] >= seconds for phase, seconds in meta["ledger"].items())


@pytest.mark.parametrize("name", ["metrics.jsonl", "arms.jsonl", "probes.jsonl"])
def test_a_damaged_record_is_named_before_the_run_is_resumed(whole, tmp_path, name):
    """The run's checkpoint vouches for the lines up to its step."""
    for damage in (flip_byte, change_digit, lose_last_line, cut_in_half, empty, delete):
        folder = tmp_path / damage.__name__
        shutil.copytree(whole, folder)
        (folder / "finished.json").unlink()
        assert check_run(folder) == ""
        damage(folder / name)
        kept = {p: p.read_bytes() for p in folder.glob("*.jsonl")}
        with pytest.raises(ValueError, match=rf"{folder / name} is (damaged|missing): .*restore"):
            check_run(folder)
        with pytest.raises(ValueError, match=rf"{folder / name} is (damaged|missing): .*restore"):
            train(make_job(folder))
        assert {p: p.read_bytes() for p in folder.glob("*.jsonl")} == kept
