"""The job: waiting for a trainer, sharing with other jobs, and stopping, all in this process."""

import os
import shutil
import signal
import threading
import time

import pandas as pd
import pyarrow.parquet as pq
import pytest
import studies
from evaluation.ongoing import deliver, end, run, tables, trainer
from fakes import Planted

from ttoaa import config, shared_files
from ttoaa.evaluation import job as module
from ttoaa.evaluation import watch
from ttoaa.evaluation.watch import GaveUp, Patience
from ttoaa.evaluation.work_list import WorkList, _listed
from ttoaa.locks import Leases
from ttoaa.parquet_io import outcome_source
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import RUNS, Workdir

NAMES = ("planted", "late", "forgetting")


def test_it_scores_what_comes_and_ends_with_the_runs(finished, begun, commits):
    order = []

    def train():
        for kind in RUNS:
            for step in (10, 20, 30):
                deliver(finished[0], begun, kind, step)
                order.append((kind, step))
                while not Workdir(begun).table(kind, step, "forgetting").exists():
                    time.sleep(0.005)
            assert kind == "run" or not (begun / "control/finished.json").exists()
            end(finished[0], begun, kind)

    with trainer(train):
        assert run(begun, watch=True) == (18, [])
    assert len(order) == 6 and set(commits.values()) == {1}
    assert tables(begun) == tables(finished[0])
    assert not list((begun / "tables/leases").iterdir())


def test_it_waits_for_runs_that_the_study_names(finished, begun):
    for kind in RUNS:
        deliver(finished[0], begun, kind, 30)
        end(finished[0], begun, kind)
    studies.edit_config(begun, add="Study.runs = ['sham', 'alone/late']")
    assert run(begun) == (6, [])
    for experiments in ((), ("planted",)):
        written, (failure,) = run(begun, None, experiments, watch=True, give_up_after=0.1)
        assert written == 0
        assert failure.endswith("waiting for sham has not begun, alone/late has not begun")


def test_a_checkpoint_without_its_meta_is_not_read(finished, begun):
    """What a copy or a killed deletion leaves; it is no failure either."""
    deliver(finished[0], begun, "control", 10)
    deliver(finished[0], begun, "control", 20)
    (begun / "control/checkpoints/20/meta/metadata").unlink()
    shutil.copytree(
        begun / "control/checkpoints/10", begun / "control/checkpoints/30.orbax-checkpoint-tmp"
    )
    assert run(begun) == (3, [])
    assert {name.partition("/")[2][:8] for name in tables(begun)} == {"00000010"}


def test_it_waits_for_the_plan(finished, begun):
    shutil.move(begun / "plan", begun / "later")
    for kind in RUNS:
        deliver(finished[0], begun, kind, 30)
        end(finished[0], begun, kind)

    def plan():
        time.sleep(0.1)
        shutil.move(begun / "later", begun / "plan")

    with trainer(plan):
        assert run(begun, watch=True) == (6, [])


def test_two_jobs_write_each_table_once(finished, tmp_path, commits, monkeypatch):
    """Both have a part, and few checkpoints are restored by both."""
    workdir = studies.copy(finished[0], tmp_path / "work", "plan", "control", "run")
    outcome, restore, restored = Planted.outcome, module.Scores.restore, []

    def slowly(self, model):
        time.sleep(0.05)
        return outcome(self, model)

    def noted(self, work):
        restored.append((work.kind, work.step))
        return restore(self, work)

    monkeypatch.setattr(Planted, "outcome", slowly)
    monkeypatch.setattr(module.Scores, "restore", noted)
    told, study = [], config.load([workdir / "config.gin"])[0]

    def job():
        told.append(module.evaluate(study, Workdir(workdir), None, Patience(poll=0.01)))

    with trainer(job), trainer(job):
        pass
    assert sum(written for written, _ in told) == 18 and [failed for _, failed in told] == [[], []]
    assert min(written for written, _ in told) >= 3
    assert set(commits.values()) == {1} and tables(workdir) == tables(finished[0])
    assert set(restored) == {(kind, step) for kind in RUNS for step in (10, 20, 30)}
    assert len(restored) <= 8


def test_it_waits_for_what_another_job_is_at(finished, begun, commits):
    deliver(finished[0], begun, "control", 10)
    with Leases(begun / "tables/leases") as other:
        assert other.acquire("control-00000010-late")

        def work():
            while len(tables(begun)) < 2:
                time.sleep(0.01)
            path = Workdir(begun).table("control", 10, "late")
            time.sleep(0.1)
            shutil.copy(Workdir(finished[0]).table("control", 10, "late"), path)
            other.release("control-00000010-late")

        with trainer(work):
            assert run(begun) == (2, [])
    assert len(tables(begun)) == 3 and not any("late" in name for name in commits)


def test_a_job_that_was_thought_dead_writes_nothing(finished, begun, commits, monkeypatch):
    """Another takes its table over while it scores, and is done first."""
    deliver(finished[0], begun, "control", 10)
    outcome, folder = Planted.outcome, begun / "tables/leases"
    name = "control-00000010-late"

    def stand(self, model):
        if self.name == "late" and not list(folder.glob(f"{name}.1")):
            (own,) = folder.glob(f"{name}.*")
            own.write_text(own.read_text().replace('"boot": "', '"boot": "another'))
            os.utime(own, (0, 0))
            with Leases(folder) as other:
                assert other.acquire(name)
                path = Workdir(begun).table("control", 10, "late")
                shutil.copy(Workdir(finished[0]).table("control", 10, "late"), path)
                found = outcome(self, model)
                monkeypatch.setattr(Planted, "outcome", outcome)
                threading.Timer(0.1, other.drop, [name]).start()
                time.sleep(0.2)
                return found.assign(value=0.0)
        return outcome(self, model)

    monkeypatch.setattr(Planted, "outcome", stand)
    assert run(begun) == (2, [])
    assert not any("late" in name for name in commits)
    expected = {k: v for k, v in tables(finished[0]).items() if k.startswith("control/00000010")}
    assert tables(begun) == expected


@pytest.mark.parametrize("helped", [True, False])
def test_what_failed_here_and_another_job_made_is_no_failure(finished, begun, helped, monkeypatch):
    deliver(finished[0], begun, "control", 10)
    outcome = Planted.outcome

    def fail(self, model):
        if self.name == "planted":
            raise MemoryError("too large for this machine")
        if helped:
            path = Workdir(begun).table("control", 10, "planted")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Workdir(finished[0]).table("control", 10, "planted"), path)
        return outcome(self, model)

    monkeypatch.setattr(Planted, "outcome", fail)
    written, failures = run(begun)
    reason = "planted on control step 10: MemoryError('too large for this machine') ("
    assert written == 2 and len(failures) == (not helped)
    assert all(line.startswith(reason) and "test_job.py:" in line for line in failures)


def test_it_gives_up_without_news_and_says_for_what(finished, begun, monkeypatch, capsys):
    monkeypatch.setattr(watch, "REPORT_EVERY", 0.05)
    deliver(finished[0], begun, "control", 10)
    shutil.copy(finished[0] / "control/attempts.jsonl", begun / "control")
    began = time.monotonic()
    written, failures = run(begun, watch=True, give_up_after=0.3)
    assert written == 3 and len(failures) == 1 and time.monotonic() - began > 0.3
    assert failures[0].startswith("gave up after 0 s without news, waiting for control was at step")
    assert failures[0].endswith("run has not begun")
    assert "evaluate: waiting for control was at step" in capsys.readouterr().out
    shutil.rmtree(begun / "plan")
    with pytest.raises(GaveUp, match=r"waiting for the plan \(run python -m ttoaa.plan"):
        run(begun, watch=True, give_up_after=0.05)


def test_asked_for_steps_it_ends_when_they_are_done(finished, begun):
    for kind in RUNS:
        deliver(finished[0], begun, kind, 10)
        deliver(finished[0], begun, kind, 20)
    assert run(begun, steps=[20], watch=True) == (6, []), "neither run is over"
    shutil.rmtree(begun / "run/checkpoints/20")
    assert run(begun, steps=[20], watch=True) == (0, []), "its tables are there"


def test_a_step_that_never_came_is_a_failure(finished, begun):
    for kind in RUNS:
        deliver(finished[0], begun, kind, 10)
        end(finished[0], begun, kind)
    written, failures = run(begun, steps=[10, 15], watch=True)
    assert written == 6
    assert failures == [f"{k} step 15: no such checkpoint, or it was deleted" for k in RUNS]


def test_a_damaged_table_is_named_and_the_others_are_made(finished, begun):
    deliver(finished[0], begun, "control", 10)
    path = Workdir(begun).table("control", 10, "late")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    written, (failure,) = run(begun)
    assert written == 2 and failure == f"{path} is damaged: remove it and evaluate again"
    assert path.read_bytes() == b"PAR1"


def test_a_table_whose_source_is_broken_is_named_and_the_others_are_made(finished, begun):
    deliver(finished[0], begun, "control", 10)
    path = Workdir(begun).table("control", 10, "late")
    path.parent.mkdir(parents=True)
    table = pq.read_table(Workdir(finished[0]).table("control", 10, "late"))
    pq.write_table(table.replace_schema_metadata({b"ttoaa.source": b'{"plan'}), path)
    written, (failure,) = run(begun)
    assert written == 2 and failure == f"{path} is damaged: remove it and evaluate again"


def test_what_was_deleted_unscored_is_told_once(finished, begun, capsys, monkeypatch):
    """Here while another of that step is scored; with --steps it is a failure."""
    told = "checkpoints that were deleted before they were scored"
    outcome = Planted.outcome

    def delete(self, model):
        for step in (20, 30):
            shutil.rmtree(begun / "run/checkpoints" / str(step), ignore_errors=True)
        return outcome(self, model)

    def deliver_all():
        for kind in RUNS:
            for step in (10, 20, 30):
                shutil.rmtree(begun / kind / "checkpoints" / str(step), ignore_errors=True)
                deliver(finished[0], begun, kind, step)
            end(finished[0], begun, kind)

    deliver_all()
    assert run(begun, watch=True) == (18, [])
    assert told not in capsys.readouterr().out
    monkeypatch.setattr(Planted, "outcome", delete)
    for steps in (None, [20, 30]):
        shutil.rmtree(begun / "tables")
        deliver_all()
        written, failures = run(begun, steps, watch=True)
        line = f"evaluate: {told}: 2 (run step 20, 30)\n"
        assert capsys.readouterr().out.count(line) == (steps is None)
        lost = [f"run step {s}: no such checkpoint, or it was deleted" for s in steps or ()]
        assert failures == lost and written == (6 if steps else 12)


def test_a_run_is_listed_once_for_all_of_its_checkpoints(finished, monkeypatch):
    """In a bucket each listing is a request."""
    study, workdir = config.load([finished[0] / "config.gin"])[0], Workdir(finished[0])
    worklist = WorkList(study, workdir, StudyHandle(study, workdir).plan)
    names, listed = shared_files.names, []
    monkeypatch.setattr(shared_files, "names", lambda at: listed.append(at) or names(at))
    asked = [(kind, step) for kind in RUNS for step in (10, 20, 30, 40)]
    gone = "no such checkpoint, or it was deleted"
    assert worklist.unscored(asked) == [f"{kind} step 40: {gone}" for kind in RUNS]
    assert sorted(listed) == sorted(workdir.run(kind) / "checkpoints" for kind in RUNS)


def test_a_line_names_a_dozen_steps():
    assert _listed(range(1, 14)) == "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, … 13"
    assert _listed([7]) == "7"


def test_seconds_that_no_ledger_has_are_told(finished, begun, capsys, monkeypatch):
    """Another job, dead elsewhere perhaps, holds the ledger."""
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    deliver(finished[0], begun, "control", 10)
    with Leases(begun / "tables/leases") as other:
        assert other.acquire("ledger")
        assert run(begun) == (3, [])
    path = begun / "tables/ledger.json"
    assert not path.exists()
    assert f"s of work are missing from the ledger: {path} is in use" in capsys.readouterr().out


def test_asked_to_stop_it_leaves_nothing_half_done(finished, begun):
    deliver(finished[0], begun, "control", 10)
    studies.edit_config(begun, add="import stopping")
    done = studies.run("evaluate", begun, env={"TTOAA_TEST_STOP": f"{signal.SIGTERM:d}"})
    assert done[0] == 143, done
    lines = done[2].splitlines()
    assert lines[-1] == "evaluate: stopped by SIGTERM; run it again to continue"
    assert "Traceback" not in done[2]
    assert list(tables(begun)) == ["control/00000010/planted.parquet"]
    assert not list((begun / "tables/leases").iterdir())
    assert not list((begun / "control/checkpoints/pins").iterdir())


def test_a_new_version_of_an_outcome_is_scored_on_old_checkpoints(finished, tmp_path, monkeypatch):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan", "control", "run", "tables")
    before, outcome = tables(workdir), Planted.outcome

    def more(self, model):
        found = outcome(self, model)
        return pd.concat([found, found.assign(outcome="again")])

    monkeypatch.setattr(Planted, "outcome", more)
    assert run(workdir) == (0, []), "an outcome that does not say so is not scored again"
    monkeypatch.setattr(Planted, "version", 2)
    assert run(workdir) == (12, [])
    after = tables(workdir)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {name for name in before if "forgetting" not in name}
    found = pd.read_parquet(Workdir(workdir).table("run", 30, "late"))
    assert set(found["outcome"]) == {"log_likelihood", "again"}
    assert outcome_source(Workdir(workdir).table("run", 30, "late"))["outcome"]
