"""A study with a reference model: trained, asked before the plan, and asked again by outcomes."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import fakes
import numpy as np
import pytest
import studies

from ttoaa import (
    choices,
    choose,
    config,
    evaluate,
    plan,
    prepare,
    report,
    status,
    train,
    training_job,
)
from ttoaa.evaluation.checkpoint_outcomes import Scores
from ttoaa.parquet_io import read_outcomes, read_table
from ttoaa.planning.plan import Plan
from ttoaa.study_handle import StudyHandle
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.reference import ReferenceCheckpoint
from ttoaa.training.run_records import read_finished
from ttoaa.workdir import Workdir

pytestmark = pytest.mark.usefixtures("sketched")

OWN = """
import killing

Study.experiments = [@Choosing(), @Removing()]
Study.reference = @TrainedReference()
TrainedReference.steps = 12
Choosing.name = 'choosing'
Removing.name = 'removing'
Geometry.steps = 20
"""
NAMES = ("choosing", "removing")


def gin(paths, own=OWN):
    shared = studies.GIN[: studies.GIN.index("planted/Planted.name")].splitlines()
    kept = [line for line in shared if not line.startswith(("Study.experi", "Geometry.steps"))]
    return "\n".join([*kept, own, f"TextFiles.paths = {list(paths)!r}\n"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus_prepare):
    """The folder of a study whose reference model is trained."""
    folder = tmp_path_factory.mktemp("choose")
    (folder / "study.gin").write_text(gin(corpus_prepare.source.paths))
    work = folder / "work"
    assert studies.main(prepare, work, f"--gin_file={folder / 'study.gin'}") == 0
    assert status.read(work)["next"] == [f"python -m ttoaa.train --workdir={work} --run=reference"]
    assert "run=reference" in studies.main(choose, work)
    assert studies.main(train, work, "--run=reference") == 0
    return work


@pytest.fixture(scope="module")
def chosen(trained, tmp_path_factory):
    work = tmp_path_factory.mktemp("chosen") / "work"
    studies.copy(trained, work, "reference")
    assert "ttoaa choose" in studies.main(plan, work)
    assert studies.main(choose, work) == 0
    return work


@pytest.fixture(scope="module")
def finished(chosen, tmp_path_factory):
    work = tmp_path_factory.mktemp("whole") / "work"
    studies.copy(chosen, work, "reference", "choices")
    stages = [(plan,), (train, "--run=control"), (train,), (evaluate,), (report,)]
    for module, *options in stages:
        assert studies.main(module, work, *options) == 0
    return work


@pytest.fixture
def copy(chosen, tmp_path):
    """The study after its choices, which a test may change."""
    return studies.copy(chosen, tmp_path / "work", "reference", "choices")


def opened(work, seed=0):
    return StudyHandle(config.load([work / "config.gin"])[0], Workdir(work, seed))


def tables(work):
    return {name: read_table(Workdir(work).choices(name), "") for name in NAMES}


def test_the_reference_is_none_of_the_runs(finished):
    reference, control = (read_finished(finished / name) for name in ("reference", "control"))
    assert reference["step"] == 12 and control["step"] == 20
    for part in ("order", "seed"):
        assert reference["identity"][part] != control["identity"][part]
    assert reference["identity"]["plan"] == "none"
    assert Workdir(finished).runs() == ["control", "run"]
    state = status.read(finished)
    assert state["done"] and state["reference"]["finished"] and state["next"] == []
    page = (finished / "report.html").read_text()
    assert "train reference" in page and "choose" in page


def test_those_that_remove_choose_first_and_the_plan_does_what_was_chosen(finished):
    handle, made = opened(finished), tables(finished)
    gone = {tuple(text) for text in made["removing"][0]["tokens"]}
    removed = handle.plan.items("removing").query("condition == 'gone'")
    texts = {tuple(text) for text in removed["tokens"] if text is not None}
    assert texts == gone and len(gone) == 2
    # The other one chose among the windows that it has in the plan.
    windows = handle.contexts["choosing"].reserve_NxL[:, :9]
    table = made["choosing"][0]
    assert np.array_equal(np.stack(table["tokens"]), windows)
    (item,) = handle.plan.items("choosing").to_dict("records")
    assert item["tokens"].tolist() == list(table["tokens"][table["score"].argmax()])


def test_outcomes_are_judged_by_the_same_model_in_every_run(finished):
    workdir = Workdir(finished)
    handle = opened(finished)
    model = choices.load_reference(handle, None)
    (item,) = handle.plan.items("choosing").to_dict("records")
    tokens = item["tokens"].astype(np.int32)
    judged = float(model.log_likelihood([(tokens, 1)])[0].mean())
    assert model.params["head"].shape == (16, 320)
    for run in ("control", "run"):
        table = read_outcomes(workdir.table(run, 20, "choosing"))
        plain = table["value"] + judged
        assert (plain < 0).all() and abs(table["value"]).max() < 5


def test_the_same_choices_make_the_same_plan_without_a_device(chosen, finished, tmp_path):
    work = studies.copy(chosen, tmp_path / "work", "choices")  # the reference may be gone
    env = {**os.environ, "JAX_PLATFORMS": "none such", "PYTHONPATH": studies.PYTHONPATH}
    command = [sys.executable, "-m", "ttoaa.plan", f"--workdir={work}"]
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert Plan.open(work / "plan").hash == Plan.open(finished / "plan").hash


def kill(work, place, module, *more):
    """Kill the command with -9 where it comes to this place (killing.py)."""
    env = {"TTOAA_TEST_KILL": f"{place} {signal.SIGKILL:d}"}
    code, _, error = studies.run(module, work, *more, env=env)
    assert code == -signal.SIGKILL, error


def test_killed_within_and_between_choices_it_makes_the_same_choices_and_plan(
    trained, chosen, finished, tmp_path
):
    work = studies.copy(trained, tmp_path / "work", "reference")
    workdir, paths = Workdir(work), [Workdir(work).choices(name) for name in NAMES]
    for place, there in (("choice before 1", []), ("choice after 1", ["removing"])):
        kill(work, place, "choose")
        assert [path.stem for path in paths if path.exists()] == there
    lines = list(choices.make_choices(opened(work).config, workdir))
    assert "already" in lines[0] and lines[0].startswith("removing") and "choosing" in lines[1]
    for path in paths:
        assert path.read_bytes() == Workdir(chosen).choices(path.stem).read_bytes()
    assert status.read(work)["next"] == [f"python -m ttoaa.plan --workdir={work}"]
    assert studies.main(plan, work) == 0
    assert Plan.open(work / "plan").hash == Plan.open(finished / "plan").hash


def test_a_killed_reference_run_ends_in_the_same_bits(trained, tmp_path):
    work = studies.copy(trained, tmp_path / "work")
    kill(work, "commit after 1", "train", "--run=reference")
    assert committed_steps(work / "reference" / "checkpoints") == [10]
    assert studies.main(train, work, "--run=reference") == 0
    ended = [studies.params(each, "reference", 12) for each in (work, trained)]
    assert studies.same_bits(*ended)
    assert studies.records(work / "reference") == studies.records(trained / "reference")
    assert opened(work).reference.sha256 == opened(trained).reference.sha256


def test_choices_of_another_config_or_model_are_refused(copy, finished):
    study, workdir = opened(copy).config, Workdir(copy)
    other = dataclasses.replace(study.experiments[0], length=8), study.experiments[1]
    elsewhere = ReferenceCheckpoint(str(finished / "control"))
    for change, expected in (
        ({"experiments": other}, "made with experiment.length 9, now it would be 8"),
        ({"reference": elsewhere}, "made with reference .*, now it would be .*: use another"),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            StudyHandle(dataclasses.replace(study, **change), workdir).make_plan()
        assert str(workdir.choices("x").parent) in str(caught.value)
    assert not workdir.plan.exists()


def test_a_choice_among_windows_that_it_no_longer_has_is_refused(copy):
    study = dataclasses.replace(opened(copy).config, validation_sequences=48)
    with pytest.raises(ValueError, match=r"choosing\.parquet was made with windows"):
        StudyHandle(study, Workdir(copy)).make_plan()


def test_settings_of_a_trained_reference_are_decided(trained, tmp_path):
    work = studies.copy(trained, tmp_path / "work", "reference")
    message = studies.main(choose, work, "--gin_bindings=DecoderConfig.layers = 2")
    assert "made with trained reference.DecoderConfig.layers 1, now it would be 2" in message


def test_a_damaged_choice_is_named(copy):
    path = Workdir(copy).choices("removing")
    path.write_bytes(path.read_bytes().replace(b"ttoaa.source", b"ttoaa.sourcf"))
    assert f"{path} is damaged: remove it" in studies.main(plan, copy)


def test_a_new_choice_makes_another_plan_which_the_old_one_is_not(finished, tmp_path):
    work = studies.copy(finished, tmp_path / "work", "reference", "choices", "plan")
    path = Workdir(work).choices("choosing")
    table, source, _ = read_table(path, "")
    choices.write_table(table.assign(score=-table["score"]), path, source)
    assert "made with choices.choosing" in studies.main(plan, work)
    assert "was made with" in studies.main(plan, work, "--audit=1")
    path.unlink()
    assert "was made with a choice of choosing that is missing" in studies.main(choose, work)


def test_a_reference_that_cannot_be_read_is_an_error_and_a_deleted_one_is_not(finished, tmp_path):
    parts = ("reference", "choices", "plan", "control", "run", "tables", "report.html")
    work = studies.copy(finished, tmp_path / "work", *parts)
    (meta,) = (work / "reference" / "checkpoints" / "12" / "meta").glob("metadata")
    meta.write_text(meta.read_text().replace('"step"', '"stepp"'))
    told = [studies.main(module, work) for module in (plan, evaluate)]
    ((line,),) = (seed["tables"]["damaged"] for seed in status.read(work)["seeds"])
    for error in (*told, line):
        assert f"the reference model: checkpoint 12 in {work}/reference/checkpoints" in error
        assert error.endswith("is damaged: its meta: restore it from a copy")
    shutil.rmtree(work / "reference")
    assert studies.main(plan, work) == 0 and studies.main(evaluate, work) == 0
    state = status.read(work)
    (seed,) = state["seeds"]
    assert seed["scored"] and state["next"] == [] and state["done"]
    table = Workdir(work).table("run", 20, "choosing")
    table.unlink()
    assert status.read(work)["next"] == [f"python -m ttoaa.train --workdir={work} --run=reference"]
    assert studies.main(evaluate, work) == 1 and not table.exists()


def test_what_inserts_nothing_may_choose_after_the_runs(finished, tmp_path):
    work = studies.copy(finished, tmp_path / "work", "reference", "choices", "plan")
    study, workdir = opened(work).config, Workdir(work)
    asking = fakes.Asking(name="asking")
    study = dataclasses.replace(study, experiments=[*study.experiments, asking])
    assert [*choices.make_choices(study, workdir)][-1].startswith("asking chose 1 row")
    handle = StudyHandle(study, workdir)
    assert len(handle.items(asking)) == 4 and not handle.make_plan()[1]


def test_a_study_without_a_reference_is_refused_before_any_work(tmp_path, corpus_prepare):
    own = OWN.replace("Study.reference = @TrainedReference()\nTrainedReference.steps = 12\n", "")
    (tmp_path / "study.gin").write_text(gin(corpus_prepare.source.paths, own))
    with pytest.raises(ValueError, match="choosing asks a reference model, and the study has none"):
        config.load([tmp_path / "study.gin"])


def test_a_run_of_another_study_can_be_the_reference(finished, copy):
    theirs = ReferenceCheckpoint(str(finished / "run"))
    study = dataclasses.replace(opened(copy).config, reference=theirs)
    found = StudyHandle(study, Workdir(copy)).reference
    assert (found.step, found.folder) == (20, finished / "run" / "checkpoints")
    assert found.sha256 != opened(finished).reference.sha256
    with pytest.raises(ValueError, match="trains no reference model"):
        training_job.run(study, Workdir(copy), "reference")


def test_an_unsuitable_run_is_no_reference(finished, tmp_path):
    def refused(folder, work, why):
        study = dataclasses.replace(opened(work).config, reference=ReferenceCheckpoint(str(folder)))
        with pytest.raises(ValueError, match=why):
            _ = StudyHandle(study, Workdir(work)).reference

    refused(finished / "control", finished, "control/checkpoints is a run of this very study")
    other = studies.copy(finished, tmp_path / "other", "control")
    manifest = other / "corpus" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "vocabulary": "0" * 64}))
    refused(other / "control", finished, "has another tokenizer")
    (other / "control" / "finished.json").unlink()
    refused(other / "control", finished, "control has not ended: wait for it, or set")


def test_an_outcome_that_asks_a_reference_must_declare_it(finished):
    scores = Scores(opened(finished))
    with pytest.raises(ValueError, match="must declare needs_reference"):
        scores.reference_for(fakes.Planted(name="planted"))


def test_the_ledger_of_choices_counts(chosen):
    record = json.loads((chosen / "choices" / "ledger.json").read_text())
    assert set(record["seconds"]) == {f"choose/{name}" for name in NAMES}
