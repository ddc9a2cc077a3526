import json
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import studies
from model import reference

from ttoaa import config, plan, train
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.experiments.context import ask_reserve, make_worlds
from ttoaa.model.decoder import init_params
from ttoaa.planning.injection import Overlay
from ttoaa.planning.plan import Plan
from ttoaa.training.checkpoint_io import committed_steps, read_meta
from ttoaa.workdir import Workdir


def taken(workdir):
    """How many batches the process took so far."""
    path = workdir / "taken"
    return len(path.read_text().splitlines()) if path.exists() else 0


def train_until(workdir, batch, number):
    """Trains until that many batches were taken, and a random moment longer; then the signal."""
    (workdir / "taken").unlink(missing_ok=True)
    process = studies.start("train", workdir, "--run=run", slow=0.08)
    while process.poll() is None and taken(workdir) < batch:
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.08))
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def interrupted(finished, tmp_path_factory):
    """The run of `finished` once more, killed twice and stopped once, and what each told."""
    workdir = studies.copy(finished[0], tmp_path_factory.mktemp("killed") / "work", "plan")
    # The loader is up to six batches ahead: before the first checkpoint, before the second, ...
    told = [
        train_until(workdir, 5, signal.SIGKILL),
        train_until(workdir, 20, signal.SIGKILL),
        train_until(workdir, 9, signal.SIGTERM),
        studies.run("train", workdir, "--run=run"),
    ]
    return workdir, told


def test_signals_end_it_as_they_should(interrupted):
    workdir, told = interrupted
    assert [code for code, _, _ in told] == [-9, -9, 143, 0], told
    stopped = re.search(r"stopped at step (\d+) of 30, saved", told[2][1])
    assert int(stopped[1]) in committed_steps(workdir / "run/checkpoints")
    assert "run is finished at step 30" in told[3][1]


def test_killed_and_resumed_it_ends_in_the_same_bits(interrupted, finished):
    workdir, _ = interrupted
    whole = finished[0]
    assert studies.same_bits(studies.params(workdir, "run"), studies.params(whole, "run"))
    assert studies.records(workdir / "run") == studies.records(whole / "run")
    steps = [line["step"] for line in studies.records(whole / "run")["arms"]]
    assert steps == list(range(1, 31))


def test_seeds_differ(finished):
    one, other = (studies.params(finished[0], "control", seed=seed) for seed in (0, 1))
    assert not studies.same_bits(one, other)


@pytest.fixture
def parts(finished):
    """(study, corpus, order, plan) of seed 0."""
    workdir = Workdir(finished[0])
    study = config.load([workdir.config])[0]
    corpus = Corpus.open(workdir.corpus)
    order = Order(0, corpus.num_windows("train", study.geometry.length))
    return study, corpus, order, Plan.open(workdir.plan)


def test_control_and_run_differ_by_the_edits_alone(finished, parts):
    study, corpus, order, plan = parts
    control = list(batches(corpus, order, study.geometry))
    run = list(batches(corpus, order, study.geometry, [Overlay(plan, corpus)]))
    edited = 0
    for ours, theirs in zip(control, run, strict=True):
        untouched = theirs["arms"] == 0
        np.testing.assert_array_equal(ours["tokens"][untouched], theirs["tokens"][untouched])
        edited += (~untouched).sum()
    assert edited == sum(arm["tokens"] for arm in plan.arms) > 0
    records = [studies.records(finished[0] / kind) for kind in ("control", "run")]
    first_edit = int(plan.columns["position"][0]) // study.geometry.batch
    before = [
        [line for line in found["metrics"] if line["step"] <= first_edit] for found in records
    ]
    assert before[0] == before[1], "up to the first edit the two runs are one"
    assert records[0]["metrics"] != records[1]["metrics"]


def test_the_first_losses_are_those_of_the_seeds_initial_model(finished, parts):
    """Loss of the first batch, validation and probes at step 0, by hand."""
    study, corpus, order, _ = parts
    params = init_params(study.model, jax.random.key(0))
    batch = next(batches(corpus, order, study.geometry))
    expected = -reference.log_probs(study.model, params, batch["tokens"]).mean()
    for kind in ("control", "run"):
        found = studies.records(finished[0] / kind)
        if kind == "control":
            (first,) = (x for x in found["metrics"] if x["step"] == 1 and "loss" in x)
            np.testing.assert_allclose(first["loss"], expected, rtol=1e-5)
        own = study.experiments, 0, study.geometry, corpus
        worlds = make_worlds(*own, ask_reserve(*own, study.validation_sequences))
        (probe,) = study.experiments[0].probes(worlds["planted"])
        lines = [line for line in found["probes"] if line["experiment"] == "planted"]
        assert [line["step"] for line in lines] == [0, 7, 20, 30]
        for line in lines:
            if line["step"] in (0, 20, 30):
                at = params if not line["step"] else studies.params(finished[0], kind, line["step"])
                loss = -reference.log_probs(study.model, at, probe.tokens_NxL).mean(axis=1)
                np.testing.assert_allclose(line["loss"], loss, rtol=1e-5)


def test_arms_of_the_run_are_those_of_the_plan(finished, parts):
    _, _, _, plan = parts
    total = {}
    for line in studies.records(finished[0] / "run")["arms"]:
        for arm, (_, count) in line["arms"].items():
            total[int(arm)] = total.get(int(arm), 0) + count
    # A target at the start of a row is never predicted, so each edit has its tokens, or one less.
    for arm in plan.arms:
        assert arm["tokens"] - arm["edits"] <= total.pop(arm["id"], 0) <= arm["tokens"]
    assert set(total) == {0}


def test_another_experiment_changes_no_bit_of_the_control_run(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work")
    text = (workdir / "config.gin").read_text()
    more = "[@planted/Planted(), @late/Planted(), @Forgetting(), @more/Planted()]"
    lines = ["more/Planted.name = 'more'", "more/Planted.probe_steps = (3, 4)"]
    (workdir / "config.gin").unlink()
    gin = tmp_path / "more.gin"
    gin.write_text("\n".join([text, f"Study.experiments = {more}", *lines]))
    code = studies.main(train, workdir, f"--gin_file={gin}", "--run=control")
    assert code == 0
    ours, theirs = (studies.records(folder / "control") for folder in (workdir, finished[0]))
    assert {line["experiment"] for line in ours["probes"]} >= {"more"}
    assert studies.same_bits(
        studies.params(workdir, "control"), studies.params(finished[0], "control")
    )
    assert ours["metrics"] == theirs["metrics"] and ours["arms"] == theirs["arms"]
    kept = [line for line in ours["probes"] if line["experiment"] != "more"]
    assert kept == theirs["probes"]


def test_a_finished_run_is_left_alone(finished, capsys):
    before = studies.contents(finished[0])
    assert studies.main(train, finished[0], "--run=run") == 0
    assert "run is finished already" in capsys.readouterr().out
    assert studies.contents(finished[0]) == before


@pytest.fixture
def begun(finished, tmp_path):
    """A copy of the study whose two runs of seed 0 were killed after step 20."""
    workdir = studies.copy(finished[0], tmp_path / "work", "plan", "control", "run")
    for kind in ("control", "run"):
        shutil.rmtree(workdir / kind / "checkpoints/30")
        (workdir / kind / "finished.json").unlink()
    return workdir


def refused(workdir, *flags):
    """The one line that it ends with; nothing but compilations may have been written."""
    before = studies.contents(workdir)
    error = studies.main(train, workdir, *flags)
    assert isinstance(error, str) and error.startswith("train: ") and "\n" not in error
    assert studies.contents(workdir) == before
    return error


@pytest.mark.parametrize("kind", ["control", "run"])
def test_a_changed_corpus_is_refused(begun, kind):
    path = begun / "corpus/manifest.json"
    theirs = read_meta(begun / kind / "checkpoints", 20)["identity"]["corpus"]
    path.write_bytes(path.read_bytes() + b" ")
    ours = Corpus.open(begun / "corpus").fingerprint
    error = refused(begun, f"--run={kind}")
    assert ours != theirs and ours in error and theirs in error


def test_a_damaged_shard_is_named(begun):
    path = begun / "corpus/train-00000.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert "train-00000.bin is damaged" in refused(begun, "--run=control")


def test_a_vocabulary_too_small_is_refused(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work")
    before = studies.contents(workdir)
    smaller = "--gin_bindings=DecoderConfig.vocab_size = 319"
    for command, *flags in ((train, "--run=control"), (plan, "--dry_run")):
        error = studies.main(command, workdir, smaller, *flags)
        assert "the tokenizer has 320 ids, but the model has 319 embedding rows" in error
        assert "'DecoderConfig.vocab_size = 320'" in error
    assert studies.contents(workdir).keys() == before.keys()
    bigger = "--gin_bindings=DecoderConfig.vocab_size = 320"
    assert studies.main(plan, workdir, bigger, "--dry_run") == 0, "no refusal locked the config"


def test_another_model_is_refused(begun):
    error = refused(begun, "--run=run", "--gin_bindings=DecoderConfig.hidden = 48")
    assert "DecoderConfig.hidden 32, now it would be 48" in error
    # Also where the folder's own config was changed by hand.
    studies.edit_config(begun, ("DecoderConfig.hidden = 32", "DecoderConfig.hidden = 48"))
    error = refused(begun, "--run=run")
    assert "was made with model.hidden 32, now it would be 48" in error


def test_another_plan_is_refused(begun):
    """The checkpoint knows the plan that it was made with."""
    shutil.copytree(begun / "control/checkpoints", begun / "other")
    shutil.rmtree(begun / "run/checkpoints")
    (begun / "other").rename(begun / "run/checkpoints")
    error = refused(begun, "--run=run")
    assert f"made with plan none, now it would be {Plan.open(begun / 'plan').hash}" in error


def test_a_plan_for_another_seed_is_refused(begun):
    shutil.move(begun / "plan", begun / "plan-s2")
    error = refused(begun, "--run=run", "--seed=2")
    assert "plan-s2 was made with" in error and "now it would be" in error


def test_a_run_of_another_seed_is_refused(begun):
    shutil.move(begun / "control", begun / "control-s2")
    error = refused(begun, "--run=control", "--seed=2")
    assert "control-s2 was made with" in error and "now it would be" in error


def test_no_plan_is_named(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work")
    assert "holds no plan: run python -m ttoaa.plan first" in refused(workdir, "--run=run")


def test_more_arms_than_the_step_has_room_for_are_refused(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan")
    arms = len(Plan.open(workdir / "plan").arms)
    error = studies.main(train, workdir, "--run=run", f"--gin_bindings=Training.max_arms = {arms}")
    assert (
        f"the plan has {arms} arms in addition to the corpus, Training.max_arms is only {arms}"
        in error
    )
    assert not (workdir / "run").exists()


def test_a_damaged_newest_checkpoint_is_set_aside_wherever_it_is_hurt(begun, finished, caplog):
    """Its meta is read even before the backend starts."""
    path = begun / "run/checkpoints/20/meta/metadata"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    assert studies.main(train, begun, "--run=run") == 0
    assert "checkpoint 20" in caplog.text and "damaged-20" in caplog.text
    assert studies.same_bits(studies.params(begun, "run"), studies.params(finished[0], "run"))
    assert studies.records(begun / "run") == studies.records(finished[0] / "run")


def test_a_run_keeps_what_it_was_made_with(finished):
    for kind in ("control", "run"):
        folder = finished[0] / kind
        assert (folder / "config.gin").read_text() == (finished[0] / "config.gin").read_text()
        kept = json.loads((folder / "provenance.json").read_text())
        assert kept["seed"] == 0 and len(kept["corpus"]) == 64
        assert (kept["plan"] == "none") == (kind == "control")


def test_a_finished_run_of_another_plan_is_not_called_finished(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "control", "run")
    assert studies.main(plan, workdir, "--gin_bindings=late/Within.start = 0.4") in (0, None)
    error = refused(workdir, "--run=run")
    assert "was made with plan" in error and Plan.open(workdir / "plan").hash in error


def test_experiments_that_were_not_planned_are_refused(begun):
    studies.edit_config(begun, add="Forgetting.sparse_ratio = 3.0")
    error = refused(begun, "--run=run")
    assert "was made with experiments.forgetting.sparse_ratio" in error


def test_a_dry_run_refuses_a_plan_that_does_not_fit(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work")
    studies.edit_config(workdir, add="late/Planted.repetitions = (0, 500)")
    before = studies.contents(workdir)
    error = studies.main(plan, workdir, "--dry_run")
    assert "the plan does not fit" in error and "late" in error
    assert studies.contents(workdir) == before


def test_what_began_a_run_stays_on_record(interrupted):
    record = json.loads((interrupted[0] / "run/provenance.json").read_text())
    assert record["packages"]["jax"] and record["plan"]
    assert [start["from_step"] for start in record["continued"]][-1] > 0
