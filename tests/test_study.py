import json
import os
import signal
import sys
import threading
import time

import pytest
import studies

from ttoaa import plan, report, study
from ttoaa.workdir import Workdir

pytestmark = pytest.mark.usefixtures("sketched")

COLUMNS = {
    *("experiment", "outcome", "condition", "primary", "seed", "n", "value", "ci_low", "ci_high"),
    *("control_value", "difference", "difference_ci_low", "difference_ci_high"),
    *("groups", "run_ci_low", "run_ci_high", "runs", "sham_difference"),
    *("placebo", "placebo_ci_low", "placebo_ci_high", "detectable"),
}


def test_one_command_makes_everything_of_every_seed(finished):
    workdir, out = finished
    assert (workdir / "report.html").stat().st_size > 10_000
    for seed in (0, 1):
        folder = Workdir(workdir, seed)
        for kind in ("control", "run"):
            assert json.loads((folder.run(kind) / "finished.json").read_text())["step"] == 30
            for name in ("planted", "late", "forgetting"):
                for step in (10, 20, 30):
                    assert folder.table(kind, step, name).exists()
    stages = [line for line in out.splitlines() if line.startswith("[")]
    assert [line.split("]")[0] for line in stages] == [f"[{n}/10" for n in range(1, 11)]
    # What does not fit in the plan of any seed is told before the first run.
    assert [line.split("] ")[1] for line in stages[1:4]] == [
        *("plan --seed=0", "plan --seed=1", "train --run=control --seed=0")
    ]
    assert f"open {workdir / 'report.html'}" in out.splitlines()[-1]


def test_the_summary_has_every_outcome_of_every_seed(finished):
    rows = json.loads((finished[0] / "summary.json").read_text())
    assert all(set(row) == COLUMNS for row in rows)
    keys = [(row["experiment"], row["outcome"], row["condition"], row["seed"]) for row in rows]
    assert len(set(keys)) == len(keys)
    primary = {(row["experiment"], row["outcome"], row["condition"], row["seed"])
               for row in rows if row["primary"]}  # fmt: skip
    assert primary == {
        (experiment, outcome, condition, seed)
        for experiment, outcome, condition in (
            ("planted", "log_likelihood", "4x"),
            ("late", "log_likelihood", "4x"),
            ("forgetting", "cross_entropy", "lag-1"),
        )
        for seed in (0, 1, "all")
    }
    for row in rows:
        numbers = [row[name] for name in ("value", "control_value", "difference", "n")]
        reached = row["outcome"] not in ("peak_lag", "half_life")
        assert all(isinstance(n, int | float) or (n is None and not reached) for n in numbers), row
        if row["difference_ci_low"] is None:
            assert row["groups"] < 6 * row["runs"]
        else:
            assert row["difference_ci_low"] <= row["difference"] <= row["difference_ci_high"]
    held = [row for row in rows if row["condition"] == "0x" and row["seed"] == 0]
    assert len(held) == 2 and all(row["n"] == 4 for row in held)


def test_a_finished_study_starts_no_stage_and_touches_no_file(finished, monkeypatch, capsys):
    workdir, _ = finished
    before = {p: p.stat().st_mtime_ns for p in studies.contents(workdir)}
    monkeypatch.setattr(study, "_Runner", None)
    assert studies.main(study, workdir) == 0
    assert f"done already; open {workdir / 'report.html'}" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in studies.contents(workdir)} == before


def test_what_is_done_is_not_done_again(finished, tmp_path, monkeypatch, capsys):
    parts = ("plan", "control", "run", "tables", "report.html", "summary.json")
    workdir = studies.copy(finished[0], tmp_path / "work", *parts)
    (gone,) = workdir.glob("tables/run/00000030/late.parquet")
    gone.unlink()
    before = {p: p.stat().st_mtime_ns for p in studies.contents(workdir)}
    monkeypatch.setattr(study, "_Runner", studies.InThisProcess)
    assert studies.main(study, workdir) == 0
    out = capsys.readouterr().out
    for line in ("exists already", "control is finished already", "run is finished already"):
        assert line in out
    assert "plan is made already" in out and "evaluate: 1 tables written" in out
    touched = {p.name for p in before if p.stat().st_mtime_ns != before[p]}
    assert touched <= {"report.html", "summary.json", "ledger.json"}, (
        "the report alone is made anew"
    )


def test_a_finished_study_of_another_model_is_refused(finished, tmp_path):
    parts = ("plan", "control", "run", "tables", "report.html", "summary.json")
    workdir = studies.copy(finished[0], tmp_path / "work", *parts)
    studies.edit_config(workdir, ("DecoderConfig.hidden = 32", "DecoderConfig.hidden = 48"))
    error = studies.main(study, workdir)
    assert "was made with model.hidden 32, now it would be 48" in error


STAGE = """
import pathlib, signal, sys, time
if {handles}:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit({code}))
pathlib.Path({started!r}).touch()
time.sleep(30)
"""


@pytest.mark.parametrize(("handles", "code"), [(True, 143), (False, 0), (True, 0), (True, 3)])
def test_sigterm_goes_to_the_stage_and_ends_the_study(tmp_path, handles, code):
    """Whether the stage saves first, dies of it, or comes to its end all the same."""
    started = tmp_path / "started"
    before = signal.getsignal(signal.SIGTERM)

    def stop():
        while not started.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    try:
        runner = study._Runner()
        script = STAGE.format(handles=handles, code=code, started=str(started))
        with pytest.raises(SystemExit) as left:
            runner.run([sys.executable, "-c", script])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == (code or 143)


def test_a_stage_that_fails_ends_the_study_with_its_code(finished, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", studies.PYTHONPATH)
    workdir = studies.copy(finished[0], tmp_path / "work")
    shard = workdir / "corpus/train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert studies.main(study, workdir) == 1
    out, err = capfd.readouterr()
    assert "train-00000.bin has" in err and "[2/" not in out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seeds=0,x", "seeds"),
        ("--seeds=-1", "seeds"),
        ("--gin_bindings=Geometry.lenght=3", "lenght"),
    ],
)
def test_bad_flags_end_it_before_anything_starts(finished, tmp_path, flag, message):
    workdir = studies.copy(finished[0], tmp_path / "work")
    before = studies.contents(workdir)
    error = studies.main(study, workdir, flag)
    assert error.startswith("study: ") and message in error and "\n" not in error
    assert studies.contents(workdir) == before


def test_seed_is_not_taken_for_seeds(finished):
    code, out, err = studies.run("study", finished[0], "--seed=1")
    assert (code, out) == (2, "")
    assert "--seed is not a flag of study: list them with --seeds=0,1,2" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "Forgetting.expected_sign = 1",
            "experiments.forgetting.expected_sign -1, now it would be 1",
        ),
        (
            "late/Planted.primary = 'log_likelihood/1x'",
            "experiments.late.primary log_likelihood/4x, now it would be log_likelihood/1x",
        ),
    ],
)
def test_the_primary_outcome_cannot_be_declared_afterwards(finished, tmp_path, change, message):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan", "control", "run", "tables")
    studies.edit_config(workdir, add=change)
    error = studies.main(report, workdir)
    assert (
        error.startswith("report: ")
        and message in error
        and not (workdir / "summary.json").exists()
    )


def test_tables_of_another_plan_are_not_reported(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "control", "run", "tables")
    assert studies.main(plan, workdir, "--gin_bindings=late/Within.start = 0.4") in (0, None)
    error = studies.main(report, workdir)
    assert "is of another plan: run python -m ttoaa.evaluate again" in error
