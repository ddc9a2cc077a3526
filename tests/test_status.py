import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
import studies

from ttoaa import status
from ttoaa.checksums import write_record
from ttoaa.locks import Leases, exclusive_trainer
from ttoaa.parquet_io import outcome_source, read_outcomes, write_outcomes
from ttoaa.workdir import Workdir


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of seed 0 of the study that a test may change, and its report."""
    parts = ("plan", "control", "run", "tables", "report.html")
    return studies.copy(finished[0], tmp_path / "work", *parts)


def text(workdir):
    return "\n".join(status.lines(status.read(workdir)))


def command(workdir, module, *more):
    return " ".join([f"python -m ttoaa.{module} --workdir={workdir}", *more])


def test_of_a_finished_study(workdir):
    told = status.read(workdir)
    (seed,) = told["seeds"]
    assert told["experiments"] == ["planted", "late", "forgetting"] and told["next"] == []
    assert seed["tables"] == {"made": 18, "asked": 18, "missing": [], "damaged": [], "later": []}
    assert text(workdir).splitlines()[-1] == (
        f"next: nothing, everything is done; open {workdir / 'report.html'}"
    )
    assert "control  finished at step 30; checkpoints 10 20 30" in text(workdir)


def test_it_only_reads_starts_no_device_and_prints_json(workdir):
    before = studies.contents(workdir)
    # A start of JAX's backend would fail here.
    env = {**os.environ, "JAX_PLATFORMS": "none such", "PYTHONPATH": studies.PYTHONPATH}
    asked = [sys.executable, "-m", "ttoaa.status", str(workdir), "--json"]
    process = subprocess.run(asked, env=env, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    told = json.loads(process.stdout)
    (seed,) = told["seeds"]
    assert told["done"] and (seed["run"]["step"], seed["tables"]["made"]) == (30, 18)
    assert studies.contents(workdir) == before


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (["corpus", "plan", "control", "run", "tables"], [("prepare",)]),
        (["plan", "control", "run", "tables"], [("plan",)]),
        (["control", "run", "tables"], [("train", "--run=control")]),
        (["control/finished.json", "run", "tables"], [("train", "--run=control"), ("evaluate",)]),
        (["plan", "run", "tables"], [("plan",)]),
        (["run", "tables/run"], [("train", "--run=run")]),
        (["run", "tables"], [("train", "--run=run"), ("evaluate",)]),
        (["run/finished.json"], [("train", "--run=run")]),
        (["tables/run/00000020/late.parquet"], [("evaluate",)]),
        (["report.html"], [("report",)]),
    ],
)
def test_what_to_type_next(workdir, gone, expected):
    for name in gone:
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert status.read(workdir)["next"] == [command(workdir, *one) for one in expected]


def test_missing_and_damaged_and_set_aside(workdir):
    (workdir / "tables/run/00000020/late.parquet").unlink()
    (workdir / "tables/run/00000020/planted.parquet").write_bytes(b"PAR1")
    meta = workdir / "control/checkpoints/10/meta/metadata"
    meta.write_text(meta.read_text().replace("control", "run", 1).replace("seed", "sead", 1))
    shutil.copytree(workdir / "run/checkpoints/10", workdir / "run/checkpoints/damaged-10")
    (seed,) = status.read(workdir)["seeds"]
    tables = seed["tables"]
    assert tables["missing"] == [{"run": "run", "step": 20, "experiments": ["late"]}]
    assert (tables["made"], tables["asked"]) == (18 - 1 - 1 - 3, 18)
    checkpoint, table = tables["damaged"]
    (aside,) = seed["run"]["set_aside"]
    assert aside.endswith("damaged-10") and not seed["scored"]
    assert "checkpoint 10 in" in checkpoint and "is damaged: its meta" in checkpoint
    assert table.endswith("planted.parquet is damaged: remove it and evaluate again")
    told = text(workdir)
    assert "    missing  run step 20: late" in told and told.count("    damaged  ") == 3
    assert told.splitlines()[-2:] == [
        f"  {command(workdir, 'evaluate')}",
        "next: repair the damaged files as their lines say",
    ]


def test_who_is_at_what(workdir):
    (workdir / "tables/run/00000020/late.parquet").unlink()
    folder = workdir / "tables/leases"
    with Leases(folder) as job:
        job.acquire(f"job-{job.owner}")
        job.acquire("run-00000020-late")
        (folder / "control-00000010-dead.0").write_text('{"owner": "dead", "stale": 0.0}')
        told = status.read(workdir)
        (seed,) = told["seeds"]
        (running,) = seed["running"]
        assert (running["run"], running["step"], running["experiment"]) == ("run", 20, "late")
        assert running["owner"] == job.owner and running["seconds"] >= 0
        assert seed["jobs"] == [job.owner] and told["next"] == []
        shown = text(workdir)
        line = rf"running  run step 20: late, by {re.escape(job.owner)} for \d.*, seen \d.* ago"
        assert re.search(line, shown)
        assert "next: nothing to run, the missing parts are in progress" in shown
    assert status.read(workdir)["next"] == [command(workdir, "evaluate")]


def test_a_run_in_training_and_interrupted(workdir):
    (workdir / "run/finished.json").unlink()
    line = {"start": 0, "time": time.time() - 5, "step": 17}
    (workdir / "run/attempts.jsonl").write_text(json.dumps(line) + "\n")
    with exclusive_trainer(workdir / "run"):
        assert status.read(workdir)["next"] == []
        shown = text(workdir)
        place = r"at step 17 of 30 \d+ s ago; checkpoints 10 20 30"
        assert re.search(f"run      training, {place}", shown)
        (workdir / "tables/run/00000020/late.parquet").unlink()
        assert status.read(workdir)["next"] == [command(workdir, "evaluate", "--watch")]
    assert re.search(f"run      interrupted, {place}", text(workdir))
    asked = [command(workdir, "train", "--run=run"), command(workdir, "evaluate")]
    assert status.read(workdir)["next"] == asked


def test_every_seed_has_its_own(finished, tmp_path):
    parts = ("plan", "control", "run", "tables", "plan-s1", "control-s1", "run-s1")
    workdir = studies.copy(finished[0], tmp_path / "work", *parts)
    told = status.read(workdir)
    assert [seed["seed"] for seed in told["seeds"]] == [0, 1]
    assert told["next"] == [command(workdir, "evaluate", "--seed=1")]
    assert len(told["seeds"][1]["tables"]["missing"]) == 6


def test_a_report_made_from_other_tables_whatever_the_times_of_files(workdir):
    os.utime(workdir / "report.html", (0, 0))
    assert status.read(workdir)["done"]
    path = workdir / "tables/run/00000020/planted.parquet"
    write_outcomes(read_outcomes(path).iloc[::-1], path, outcome_source(path))
    os.utime(path, (0, 0))
    told = status.read(workdir)
    assert told["report"] == "made from other tables"
    assert told["next"] == [command(workdir, "report")]


def test_a_run_of_another_plan_is_told_and_the_rest_is_shown(workdir):
    other = Workdir(workdir).plan / "plan.json"
    write_record(other, {**json.loads(other.read_text()), "hash": "other"})
    told = status.read(workdir)
    tables = told["seeds"][0]["tables"]
    assert "run was made with plan" in tables["damaged"][0]
    assert told["seeds"][0]["run"]["finished"] and (tables["made"], tables["asked"]) == (0, 0)
    assert not told["done"] and text(workdir).splitlines()[-1].startswith("next: repair the")


def test_the_folder_may_be_named_as_for_other_commands(workdir, capsys):
    status.main([f"--workdir={workdir}"])
    named = capsys.readouterr().out
    status.main([str(workdir)])
    assert capsys.readouterr().out == named and f" in {workdir}" in named
    with pytest.raises(SystemExit, match="2"):
        status.main([])


@pytest.mark.parametrize("there", [True, False])
def test_what_is_no_study(tmp_path, there, capsys):
    folder = tmp_path / "nothing"
    if there:
        folder.mkdir()
    with pytest.raises(SystemExit) as left:
        status.main([str(folder)])
    assert str(left.value).startswith(f"status: {folder} holds no study: start one with python -m")
    assert not list(pathlib.Path(tmp_path).rglob("*.*"))
