import json
import signal
import time

import pytest
import studies

from ttoaa import study
from ttoaa.training.checkpoints import committed_steps
from ttoaa.workdir import Workdir

COLUMNS = {
    *("experiment", "outcome", "condition", "primary", "seed", "n", "value", "ci_low", "ci_high"),
    *("control_value", "difference", "difference_ci_low", "difference_ci_high"),
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
    assert stages[1].endswith("train --run=control --seed=0")
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
        for name in ("value", "control_value", "difference", "n"):
            assert isinstance(row[name], int | float), (name, row)
        assert row["difference_ci_low"] <= row["difference"] <= row["difference_ci_high"]
    held = [row for row in rows if row["condition"] == "0x" and row["seed"] == 0]
    assert len(held) == 2 and all(row["n"] == 4 for row in held)


def test_what_is_done_is_not_done_again(finished):
    workdir, _ = finished
    before = {p: p.stat().st_mtime_ns for p in studies.contents(workdir)}
    code, out, _ = studies.run("study", workdir)
    assert code == 0
    for line in ("was there already", "control is finished already", "run is finished already"):
        assert line in out
    assert "plan is made already" in out and "evaluate: 0 tables written" in out
    touched = {p.name for p in before if p.stat().st_mtime_ns != before[p]}
    assert touched <= {"report.html", "summary.json"}, "the report alone is made anew"


def test_sigterm_goes_to_the_stage_and_ends_the_study(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work")
    process = studies.start("study", workdir, slow=0.2)
    while process.poll() is None and not (workdir / "taken").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "stopped at step" in out and "saved" in out and "[3/" not in out
    (step,) = committed_steps(workdir / "control/checkpoints")
    assert 0 <= step < 30
    assert not (workdir / "control/finished.json").exists()


def test_a_stage_that_fails_ends_the_study_with_its_code(finished, tmp_path, capfd):
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
