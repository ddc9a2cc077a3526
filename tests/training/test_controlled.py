"""A controlled study by the real commands: killed anywhere, by one process and by two."""

import shutil
import signal
import sys

import numpy as np
import pytest
import studies
from controlled import Steered
from training.processes import free_port, together

from ttoaa import config, plan, train, training_job
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.evaluation.checkpoint_outcomes import Scores
from ttoaa.evaluation.work_list import Work
from ttoaa.planning import controller_log
from ttoaa.planning.audit.compare import audit
from ttoaa.planning.controller_log import read_log
from ttoaa.planning.inspect import PlanView
from ttoaa.planning.plan import Plan
from ttoaa.reporting.insertions import filled_slots, insertions
from ttoaa.study_handle import StudyHandle
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.throughput import Ledger
from ttoaa.workdir import Workdir

STEPS = 16
GIN = f"""
import controlled
import killing

Study.experiments = [@planted/Planted(), @late/Planted(), @Forgetting(), @Steered()]
Geometry.steps = {STEPS}
Training.checkpoint_every = 6
Training.validate_every = {STEPS}
Training.repetition_filter = @RepetitionFilter()
planted/Planted.probe_steps = (3,)
ConstantLinear.peak = 1e-3
Steered.name = 'steered'
Steered.every = 4
Steered.intervals = 4
"""


@pytest.fixture(scope="module")
def study(corpus_prepare, corpus_folder, tmp_path_factory):
    """Makes a folder of the study with its plan."""
    root = tmp_path_factory.mktemp("controlled")
    gin = studies.write_gin(root, corpus_prepare.source.paths)
    gin.write_text(gin.read_text() + GIN)
    shutil.copytree(corpus_folder, root / "first/corpus")
    assert studies.main(plan, root / "first", f"--gin_file={gin}") in (0, None)

    def make(name):
        for part in ("corpus", "plan"):
            shutil.copytree(root / "first" / part, root / name / part)
        shutil.copy(root / "first/config.gin", root / name / "config.gin")
        return root / name

    return make


def trained(workdir, processes=1, kill="", **layout):
    """[(code, stdout, stderr)] of the run's processes, each of one device."""
    command = [sys.executable, "-m", "ttoaa.train", f"--workdir={workdir}", "--run=run"]
    command += [f"--gin_bindings=Layout.{axis} = {size}" for axis, size in layout.items()]
    numbers = [[]]
    if processes > 1:
        command += [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
        numbers = [[f"--process_id={k}"] for k in range(processes)]
    more = {"TTOAA_TEST_KILL": kill} if kill else {}
    commands = [[*command, *number] for number in numbers]
    more["XLA_FLAGS"] = studies.xla_flags(1)
    return together(commands, PYTHONPATH=studies.PYTHONPATH, **more)


@pytest.fixture(scope="module")
def whole(study):
    """The folder of a run that nothing interrupted."""
    workdir = study("whole")
    ((code, _, err),) = trained(workdir)
    assert code == 0, err
    return workdir


def bytes_of(workdir):
    return (workdir / "run/decisions.jsonl").read_bytes()


def test_killed_within_and_between_intervals_it_decides_the_same(study, whole):
    """Intervals begin at 4, 8 and 12; checkpoints are at 6 and 12, saved in the background."""
    workdir = study("killed")
    for kill, left in [
        ("commit after 1", None),  # 6 is there, and some steps of an interval more or less
        ("decide after 2", [0, 4, 8, 12]),  # logged, but neither obeyed nor in a checkpoint
    ]:
        ((code, _, err),) = trained(workdir, kill=f"{kill} {signal.SIGKILL:d}")
        assert code == -signal.SIGKILL, err
        steps = [line["step"] for line in read_log(workdir / "run/decisions.jsonl")]
        assert left is None or steps == sorted(left * 2), kill
    assert committed_steps(workdir / "run/checkpoints") == [6]
    ((code, _, err),) = trained(workdir)
    assert code == 0, err
    assert bytes_of(workdir) == bytes_of(whole)
    assert studies.records(workdir / "run") == studies.records(whole / "run")
    params = (studies.params(folder, "run", STEPS) for folder in (workdir, whole))
    assert studies.same_bits(*params)


def test_two_processes_decide_as_one(study, whole):
    workdir = study("two")
    told = trained(workdir, 2, fsdp=2)
    assert [code for code, _, _ in told] == [0, 0], told
    ours, theirs = (read_log(folder / "run/decisions.jsonl") for folder in (workdir, whole))
    plain = ("experiment", "slots", "interval", "step", "chosen", "state")
    assert [[x[n] for n in plain] for x in ours] == [[x[n] for n in plain] for x in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine["log_p"], its["log_p"], rtol=1e-4)
    counts = [
        [{arm: n for arm, (_, n) in line["arms"].items()} for line in records["arms"]]
        for records in (studies.records(folder / "run") for folder in (workdir, whole))
    ]
    assert counts[0] == counts[1]


def test_the_arm_of_the_slots_has_what_was_decided(whole):
    """Targets of the arm over the run; a text at the start of a row has one less than tokens."""
    (arm,) = (a for a in Plan.open(whole / "plan").arms if a["name"] == "steered/fact")
    lines = studies.records(whole / "run")["arms"]
    found = sum(line["arms"].get(str(arm["id"]), (0, 0))[1] for line in lines)
    texts = sum(len(line["chosen"]) for line in read_log(whole / "run/decisions.jsonl"))
    assert texts == 2 * (0 + 1 + 2 + 3)
    assert 7 * texts <= found <= 8 * texts


def test_the_report_counts_texts_that_were_inserted_not_slots(whole):
    folder = Workdir(whole)
    plan = Plan.open(folder.plan)
    filled = filled_slots(folder, plan)
    assert [each.texts for each in filled] == [0 + 1 + 2 + 3] * 2
    texts, slots = (sum(getattr(each, n) for each in filled) for n in ("texts", "slots"))
    counted = insertions(plan, filled, "steered")
    (arm,) = (a for a in plan.arms if a["name"] == "steered/fact")
    assert texts < arm["edits"] == slots and counted["filled"] == texts
    others = sum(a["edits"] for a in plan.arms if a["experiment"] == "steered") - arm["edits"]
    assert counted["edits"] == others + texts
    summary = (folder.plan / "summary.txt").read_text()
    edits, slots = summary.split("slots, which controllers fill")
    assert "steered/fact" in slots and "steered/fact" not in edits


def test_the_texts_are_kept_with_the_run(whole):
    stored = controller_log.load_slot_texts(whole / "run/controllers")
    assert [(f.name, f.every, len(f.texts)) for f in stored] == [
        ("steered/fact-0", 4, 5),
        ("steered/fact-1", 4, 5),
    ]


@pytest.mark.parametrize("step", [6, 12, 16])
def test_an_outcome_sees_what_was_decided_up_to_its_checkpoint(whole, step):
    study, _ = config.load([whole / "config.gin"])
    scores = Scores(StudyHandle(study, Workdir(whole)))
    experiment = study.experiments[-1]
    assert isinstance(experiment, Steered)
    found = scores.table(Work("run", step, (0, 0), {}, []), experiment, None, Ledger())
    lines = [x for x in read_log(whole / "run/decisions.jsonl") if x["step"] <= step]
    assert len(lines) == 2 * (step // 4 + (step < STEPS))
    assert found["value"].tolist() == [sum(line["log_p"]) for line in lines]


def test_the_audit_re_derives_every_batch_of_the_run(whole):
    told = audit(Workdir(whole), STEPS, 0, hosts=(1, 2))
    assert f"{STEPS} batches" in told and "with the decisions of the run, no difference" in told


def test_a_step_is_shown_with_what_was_decided(whole):
    """Interval 2 has two texts of each fact, so that the third slot stays empty."""
    shown = PlanView(Workdir(whole))
    told = [shown.step(step) for step in range(8, 12)]
    assert sum(text.count("a controller's slot, filled") for text in told) == 4
    assert sum(text.count("a controller's slot, left empty") for text in told) == 2
    (filling, _) = controller_log.load_slot_texts(whole / "run/controllers")
    line = next(x for x in read_log(whole / "run/decisions.jsonl") if x["step"] == 8)
    assert line["chosen"] == [1, 2]
    for chosen in (1, 2):
        assert f"[[{shown._text(filling.texts[chosen].tolist())}]]" in "".join(told)


def refused(workdir, kind="run"):
    error = studies.main(train, workdir, f"--run={kind}")
    assert isinstance(error, str) and error.startswith("train: ") and "\n" not in error
    return error


def test_a_text_longer_than_its_slot_is_refused_by_a_dry_run(study):
    workdir = study("longer")
    studies.edit_config(workdir, add="Steered.text_length = 9")
    error = studies.main(plan, workdir, "--dry_run")
    assert "steered/fact-0: text 0 has 9 tokens, its slot holds 1 to 8" in error


def test_other_texts_are_another_run(whole, tmp_path, monkeypatch):
    """The plan does not know them: an experiment's code may have changed."""
    workdir = shutil.copytree(whole, tmp_path / "work", symlinks=True)
    (workdir / "run/finished.json").unlink()
    made = Steered.controllers

    def changed(experiment, world):
        first, *others = made(experiment, world)
        return [type(first)(**{**vars(first), "texts": first.texts[::-1]}), *others]

    before = bytes_of(workdir)
    monkeypatch.setattr(Steered, "controllers", changed)
    assert "was made with controllers" in refused(workdir)
    monkeypatch.setattr(Steered, "controllers", lambda *_: [])
    assert "was made with" in refused(workdir)
    assert bytes_of(workdir) == before


def test_the_repetition_filter_judges_what_is_trained_on():
    """After edits it waits for what is decided; before edits it may run ahead."""
    overlay, filled = (lambda step, batch: batch for _ in range(2))
    after, before = RepetitionFilter(), RepetitionFilter(when="before_edits")
    assert training_job._transforms([overlay], filled, after) == ([overlay], [filled, after])
    assert training_job._transforms([overlay], filled, before) == ([before, overlay], [filled])
    assert training_job._transforms([overlay], None, after) == ([overlay, after], [])
    assert training_job._transforms([], None, None) == ([], [])
