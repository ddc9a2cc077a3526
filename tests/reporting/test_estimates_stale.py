"""Tables of earlier versions whose checkpoints are gone: report, evaluate and status agree."""

import shutil

import pytest
import studies
from fakes import Planted
from reporting.synthetic import make_study

from ttoaa import evaluate, report, status
from ttoaa.reporting import page
from ttoaa.reporting.estimates import collect
from ttoaa.workdir import RUNS, Workdir, read_json


@pytest.fixture
def workdir(finished, tmp_path, monkeypatch):
    """A finished study, whose two Planted are of a new version by now."""
    parts = ("plan", "control", "run", "tables")
    monkeypatch.setattr(Planted, "version", 2)
    return studies.copy(finished[0], tmp_path / "work", *parts)


def delete(workdir, kind, step):
    shutil.rmtree(workdir / kind / "checkpoints" / str(step))


def test_what_nobody_can_make_again_is_left_out_and_all_else_made(workdir, capsys):
    delete(workdir, "run", 10)
    delete(workdir, "control", 10)
    (workdir / "run/checkpoints/20/meta/metadata").unlink()  # a deletion that a kill cut short
    error = studies.main(report, workdir)
    assert "is of an earlier version of that outcome: run python -m ttoaa.evaluate" in error
    assert studies.main(evaluate, workdir) == 0
    assert "evaluate: 6 tables written" in capsys.readouterr().out
    assert status.read(workdir)["next"] == [f"python -m ttoaa.report --workdir={workdir}"]
    assert studies.main(report, workdir) in (0, None)
    told = (
        "tables left out, because they are of another plan or of an earlier version of their "
        "outcome and their checkpoints are gone: late at step 10, 20; planted at step 10, 20"
    )
    assert f"report: {told}\n" in capsys.readouterr().out
    assert f"{told}." in (workdir / "report.html").read_text()
    assert {row["experiment"] for row in read_json(workdir / "summary.json")} == {
        *("planted", "late", "forgetting")
    }
    assert status.read(workdir)["next"] == [] and status.read(workdir)["done"]


def test_tables_of_what_is_no_longer_in_the_study_do_not_matter(workdir):
    assert studies.main(evaluate, workdir) == 0
    for kind in RUNS:
        path = Workdir(workdir).table(kind, 10, "late")
        path.rename(path.with_name("former.parquet"))
        delete(workdir, kind, 10)
    assert studies.main(report, workdir) in (0, None)


def test_the_final_step_is_one_whose_outcomes_all_count(tmp_path):
    """A later step of which one is left out is left out whole."""
    experiments = make_study(tmp_path, {"a": ["0x", "4x"], "b": ["0x", "2x"]}, steps=(20, 40, 60))
    left = [Workdir(tmp_path).table("run", step, "a") for step in (20, 60)]
    found = collect(tmp_path, experiments, set(left))
    assert found.final_step == 40
    steps = {name: sorted(set(rows["step"])) for name, rows in found.table.groupby("experiment")}
    assert steps == {"a": [40], "b": [20, 40]}
    assert found.notes == ("Steps after 40 are left out, as not all of their outcomes count.",)
    page.write(tmp_path, "study", experiments, left)
    with pytest.raises(ValueError, match="every step has a stale table"):
        collect(tmp_path, experiments, {*left, Workdir(tmp_path).table("control", 40, "b")})


def test_a_damaged_table_is_named_and_no_number_is_taken_from_it(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan", "control", "run", "tables")
    path = Workdir(workdir).table("run", 20, "late")
    content = bytearray(path.read_bytes())
    content[content.index(b"PAR1") + 60] ^= 1
    path.write_bytes(content)
    error = studies.main(report, workdir)
    assert f"{path} is damaged: remove it and evaluate again" in error and "\n" not in error
    path.unlink()
    assert studies.main(evaluate, workdir) == 0
    assert studies.main(report, workdir) in (0, None)
