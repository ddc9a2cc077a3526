import functools
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
import studies
from fakes import Planted
from model import reference

from ttoaa import config, evaluate, plan
from ttoaa import parquet_io as tables_module
from ttoaa.evaluation import checkpoint_outcomes, work_list
from ttoaa.evaluation.work_list import WorkList
from ttoaa.json_io import read_json
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir


def tables(workdir):
    """Bytes of every file under tables/, by its path there."""
    folder = workdir / "tables"
    found = (p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".json", ".0"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def scored(finished, tmp_path):
    """A copy of the study that a test may change."""
    return studies.copy(finished[0], tmp_path / "work", "plan", "control", "run", "tables")


def test_each_checkpoint_and_experiment_has_one_tidy_table(finished):
    names = {
        f"{kind}/{step:08d}/{experiment}.parquet"
        for kind in ("control", "run")
        for step in (10, 20, 30)
        for experiment in ("planted", "late", "forgetting")
    }
    assert set(tables(finished[0])) == names
    for name in names:
        table = pd.read_parquet(finished[0] / "tables" / name)
        assert {"item", "condition", "outcome", "value"} <= set(table.columns)
        assert np.isfinite(table["value"].astype(float)).all()


def test_values_are_those_of_the_checkpoint(finished):
    """Log-likelihoods of planted texts, by a plain OLMo-2 with the checkpoint's parameters."""
    model = config.load([finished[0] / "config.gin"])[0].model
    items = Plan.open(finished[0] / "plan").items("planted").set_index("id")
    for kind in ("control", "run"):
        table = pd.read_parquet(Workdir(finished[0]).table(kind, 20, "planted"))
        assert set(table["item"]) == set(items.index)
        params = studies.params(finished[0], kind, 20)
        for row in table.itertuples():
            tokens = np.asarray(items.loc[row.item, "tokens"])
            expected = reference.log_probs(model, params, tokens[None]).mean()
            np.testing.assert_allclose(row.value, expected, atol=1e-5)
            assert row.condition == items.loc[row.item, "condition"]


def test_again_it_does_nothing(finished, capsys):
    before = studies.contents(finished[0])
    assert studies.main(evaluate, finished[0]) == 0
    assert "evaluate: 0 tables written" in capsys.readouterr().out
    assert studies.contents(finished[0]) == before


def test_what_lacks_is_made_with_the_same_bytes_and_nothing_else(scored, finished, capsys):
    lost = ["run/00000020/late.parquet", "control/00000030/forgetting.parquet"]
    for name in lost:
        (scored / "tables" / name).unlink()
    seconds = read_json(scored / "tables/ledger.json")["seconds"]
    kept = {p: p.stat().st_mtime_ns for p in (scored / "tables").rglob("*.parquet")}
    assert studies.main(evaluate, scored) == 0
    assert "evaluate: 2 tables written" in capsys.readouterr().out
    assert tables(scored) == tables(finished[0])
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items())
    after = read_json(scored / "tables/ledger.json")["seconds"]
    assert after["score/planted"] == seconds["score/planted"]
    assert after["score/late"] > seconds["score/late"]


def test_killed_in_the_middle_it_needs_only_the_folder_to_go_on(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "elsewhere", "plan", "control", "run")
    studies.edit_config(workdir, ("TextFiles.paths = [", "TextFiles.paths = ['/nowhere', "))
    process = studies.start("evaluate", workdir)
    while process.poll() is None and not list((workdir / "tables").rglob("*.parquet")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -9
    whole = tables(finished[0])
    begun = {name: bytes_ for name, bytes_ in tables(workdir).items() if ".tmp-" not in name}
    assert 1 <= len(begun) < len(whole)
    assert all(whole[name] == bytes_ for name, bytes_ in begun.items())
    assert studies.main(evaluate, workdir) == 0
    assert {name: tables(workdir)[name] for name in whole} == whole


def test_a_failing_outcome_does_not_hide_the_others(scored, finished, capsys, monkeypatch):
    shutil.rmtree(scored / "tables")
    works = Planted.outcome

    def outcome(self, model):
        if self.name == "late" and model.step == 20:
            raise KeyError("no such column")
        if self.name == "late" and model.step == 30:
            return works(self, model).drop(columns="condition")
        return works(self, model)

    monkeypatch.setattr(Planted, "outcome", outcome)
    assert studies.main(evaluate, scored) == 1
    out, err = capsys.readouterr()
    assert "evaluate: 14 tables written" in out
    for kind in ("control", "run"):
        assert f"failed: late on {kind} step 20: KeyError('no such column')" in err
        assert f"late on {kind} step 30" in err and "needs the column 'condition'" in err
    assert len(tables(scored)) == 14
    monkeypatch.undo()
    assert studies.main(evaluate, scored) == 0
    assert "evaluate: 4 tables written" in capsys.readouterr().out
    assert tables(scored) == tables(finished[0])


def test_a_damaged_checkpoint_is_named_and_left_and_the_others_are_scored(scored, capsys):
    shutil.rmtree(scored / "tables")
    params = scored / "run/checkpoints/20/params"
    for path in (params / "d").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert studies.main(evaluate, scored) == 1
    out, err = capsys.readouterr()
    assert "evaluate: 15 tables written" in out
    failures = [line for line in err.splitlines() if line.startswith("evaluate: failed: ")]
    assert len(failures) == 1 and "checkpoint 20" in failures[0] and "run" in failures[0]
    assert params.exists(), "only the trainer sets a checkpoint aside"


def test_a_checkpoint_of_another_model_is_named(scored, capsys):
    shutil.rmtree(scored / "tables/control")
    studies.edit_config(scored, ("hidden = 32", "hidden = 48"))
    assert studies.main(evaluate, scored) == 1
    err = capsys.readouterr().err
    assert "checkpoint 10 in" in err and "as float32[32, 16], not as float32[48, 16]" in err


def test_only_some_experiments_and_steps(scored, capsys):
    shutil.rmtree(scored / "tables")
    flags = ("--experiments=late,planted", "--steps=10,30")
    assert studies.main(evaluate, scored, *flags) == 0
    assert {name.partition("/")[2] for name in tables(scored)} == {
        f"{step}/{name}.parquet"
        for step in ("00000010", "00000030")
        for name in ("late", "planted")
    }


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--experiments=lat", "no experiment is named 'lat'"),
        ("--steps=11", "no checkpoint '11', only [10, 20, 30]"),
        ("--steps=ten", "no checkpoint 'ten'"),
    ],
)
def test_what_is_not_there_is_named(finished, flag, message):
    error = studies.main(evaluate, finished[0], flag)
    assert error.startswith("evaluate: ") and message in error and "\n" not in error


@pytest.mark.parametrize("part", ["plan", "corpus"])
def test_a_folder_that_lacks_a_part_is_one_line(scored, part):
    shutil.rmtree(scored / "tables")
    shutil.rmtree(scored / part)
    error = studies.main(evaluate, scored)
    assert f"ttoaa.{'plan' if part == 'plan' else 'prepare'}" in error and "\n" not in error


def test_a_table_of_another_checkpoint_is_made_again(scored, finished, capsys):
    path = Workdir(scored).table("run", 20, "late")
    tables_module.write_outcomes(
        pd.read_parquet(path).assign(value=0.0),
        path,
        {**tables_module.outcome_source(path), "checkpoint": "another"},
    )
    assert studies.main(evaluate, scored) == 0
    assert "evaluate: 1 tables written" in capsys.readouterr().out
    assert tables(scored) == tables(finished[0])


def test_a_run_of_another_plan_is_not_scored_with_this_one(scored):
    shutil.rmtree(scored / "plan")
    assert studies.main(plan, scored, "--gin_bindings=late/Within.start = 0.4") in (0, None)
    error = studies.main(evaluate, scored)
    new = Plan.open(scored / "plan").hash
    assert "run was made with plan" in error and new in error and "\n" not in error


def test_an_outcome_cannot_be_declared_after_the_run(scored):
    error = studies.main(evaluate, scored, "--gin_bindings=Forgetting.expected_sign = 1")
    assert "made with experiments.forgetting.expected_sign -1, now it would be 1" in error


def test_a_control_run_with_other_probes_is_not_the_runs(scored):
    study = config.load([scored / "config.gin"])[0]
    worklist = WorkList(study, Workdir(scored), Plan.open(scored / "plan"))
    metas = {
        ("run", 10): {"identity": {"probes": "ours", "plan": worklist.plan}},
        ("control", 20): {"identity": {"probes": "theirs", "plan": "none"}},
    }
    with pytest.raises(ValueError, match="was made with probes ours, now it would be theirs"):
        worklist._check_belong(metas)


def test_without_any_checkpoint_it_says_so(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan")
    error = studies.main(evaluate, workdir)
    assert "has no checkpoint yet: run python -m ttoaa.train" in error


def test_a_checkpoint_that_the_trainer_deletes_meanwhile_is_no_failure(scored, capsys, monkeypatch):
    """One after its meta was read, one before."""
    shutil.rmtree(scored / "tables")
    pin, read_meta = checkpoint_outcomes.pin, work_list.read_meta

    def delete_then(action, gone, folder, step):
        if step == gone and folder.parent.name == "run":
            shutil.rmtree(folder / str(step), ignore_errors=True)
        return action(folder, step)

    monkeypatch.setattr(checkpoint_outcomes, "pin", functools.partial(delete_then, pin, 20))
    monkeypatch.setattr(work_list, "read_meta", functools.partial(delete_then, read_meta, 10))
    assert studies.main(evaluate, scored) == 0
    run = [name for name in tables(scored) if name.startswith("run")]
    assert run and not [name for name in run if "00000020" in name or "00000010" in name]
