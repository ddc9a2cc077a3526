"""Named runs of one study: what each trains on, its identity, and what the commands say of it."""

import dataclasses
import itertools
import json
import shutil

import numpy as np
import pytest
import studies

from ttoaa import evaluate, plan, report, status, train
from ttoaa.data.corpus import Corpus
from ttoaa.experiments.watermark import GaussianWatermark
from ttoaa.parquet_io import read_outcomes
from ttoaa.planning.audit.compare import compare_with_run, load_shares
from ttoaa.planning.injection import SHAM_WINDOWS, Overlay
from ttoaa.planning.items import RESERVE, TOKENS
from ttoaa.planning.noise import NOISE_KEY
from ttoaa.planning.plan import Plan
from ttoaa.runs import parse_run
from ttoaa.study_handle import StudyHandle
from ttoaa.training.controller_loop import ControllerSet
from ttoaa.training.init_from import InitFrom
from ttoaa.training_job import check_run, make_job
from ttoaa.workdir import Workdir

pytestmark = pytest.mark.usefixtures("sketched")

NAMES = ("alone/planted", "without/planted", "sham", "reordered", "reinitialised")


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """A copy of the finished study with every named run trained and scored."""
    folder = tmp_path_factory.mktemp("runs") / "work"
    workdir = studies.copy(finished[0], folder, "plan", "control", "run", "tables")
    for name in NAMES:
        assert studies.main(train, workdir, f"--run={name}") == 0
    assert studies.main(evaluate, workdir) == 0
    return workdir


@pytest.mark.parametrize(
    ("name", "experiments", "subset"),
    [
        ("control", (), None),
        ("run", ("a", "b", "c"), None),
        ("sham", ("a", "b", "c"), None),
        ("reordered", (), None),
        ("reinitialised", (), None),
        ("alone/b", ("b",), ("b",)),
        ("without/b", ("a", "c"), ("a", "c")),
    ],
)
def test_a_name_says_whose_edits_are_made(name, experiments, subset):
    spec = parse_run(name, ["a", "b", "c"])
    assert spec.experiments == experiments and spec.subset == subset
    assert (spec.order_seed(3) == 3) == (name != "reordered")
    assert (spec.init_seed(3) == 3) == (name != "reinitialised")


@pytest.mark.parametrize("name", ["", "alone", "alone/", "alone/d", "alone/a/b", "with/a"])
def test_other_names_are_refused(name):
    with pytest.raises(
        ValueError, match=r"the run must be one of control, run, sham|has only the experiments"
    ):
        parse_run(name, ["a", "b", "c"])


def test_the_folders_of_seeds_and_experiments_do_not_meet(tmp_path):
    folders = {
        Workdir(tmp_path, seed).run(name)
        for seed in (0, 1)
        for name in ("control", "alone/x", "alone/x-s1", "without/x", "sham")
    }
    assert len(folders) == 10
    for folder in folders:
        (folder / "checkpoints" / "10").mkdir(parents=True)
    assert Workdir(tmp_path).seeds() == Workdir(tmp_path).trained_seeds() == [0, 1]
    found = ["control", "run", "sham", "alone/x", "alone/x-s1", "without/x"]
    assert Workdir(tmp_path, 1).runs() == found


def load(workdir):
    return studies.config.load([workdir / "config.gin"])[0]


def rows_of(workdir, experiments, sham=None):
    """(tokens, arms) of the whole run, [steps, B, L]."""
    corpus, made = Corpus.open(workdir / "corpus"), Plan.open(workdir / "plan")
    overlay = Overlay(made, corpus, experiments, sham)
    shares = list(load_shares(corpus, made, range(studies.STEPS), overlay=overlay))
    return np.stack([s.tokens for s in shares]), np.stack([s.arms for s in shares])


def test_an_experiment_has_the_same_bytes_in_every_run_that_includes_it(finished):
    made = Plan.open(finished[0] / "plan")
    tokens, arms = rows_of(finished[0], None)
    bare, none = rows_of(finished[0], [])
    assert not none.any()
    own = np.array([arm["id"] for arm in made.arms if arm["experiment"] == "planted"])
    for name in ("alone/planted", "without/late", "without/forgetting"):
        spec = parse_run(name, made.contents["experiments"])
        ours, where = rows_of(finished[0], spec.experiments)
        mine = np.isin(where, own)
        assert mine.any() and np.array_equal(mine, np.isin(arms, own))
        assert np.array_equal(ours[mine], tokens[mine])
        others = np.isin(where, own) | (where == 0)
        assert others.all() == (name == "alone/planted")
        assert np.array_equal(ours[where == 0], bare[where == 0])


def test_sham_differs_from_the_run_in_edited_tokens_only(finished):
    handle = StudyHandle(load(finished[0]), Workdir(finished[0]))
    windows = handle.sham_windows
    tokens, arms = rows_of(finished[0], None)
    sham, places = rows_of(finished[0], None, windows)
    assert np.array_equal(arms, places)
    assert np.array_equal(sham[arms == 0], tokens[arms == 0])
    made, length = handle.plan, handle.config.geometry.length
    texts = handle.corpus.windows("reserve", windows, length)
    kinds = made.columns["kind"]
    assert {TOKENS, RESERVE} <= {*kinds.tolist()}
    flat = sham.reshape(-1, length)
    for edit in range(len(kinds)):
        row, at, n = (int(made.columns[k][edit]) for k in ("position", "offset", "length"))
        assert (texts[:, :n] == flat[row, at : at + n]).all(1).any()
    used = {int(w) for w in made.columns["source"][kinds == RESERVE]}
    assert used and used.isdisjoint(windows.tolist())


def test_every_run_is_what_its_name_says(trained):
    leaves = {
        name: studies.jax.tree.leaves(studies.params(trained, name))
        for name in ("control", "run", *NAMES)
    }
    assert len({b"".join(x.tobytes() for x in each) for each in leaves.values()}) == len(leaves)
    made = {
        name: json.loads((Workdir(trained).run(name) / "finished.json").read_text())["identity"]
        for name in leaves
    }
    first = {name: studies.records(Workdir(trained).run(name))["arms"][0] for name in leaves}
    for name in NAMES:
        keys = {*made[name], *made["control"]} - {"defaulted"}
        differing = {k for k in keys if made[name].get(k) != made["control"].get(k)}
        spec = parse_run(name, ["planted", "late", "forgetting"])
        assert differing and differing <= spec.differs
        same_start = name not in ("reordered", "reinitialised")
        assert (first[name]["arms"]["0"] == first["control"]["arms"]["0"]) <= same_start


@pytest.mark.parametrize("name", NAMES)
def test_the_audit_derives_every_run_and_compares_it_with_the_run(trained, name, capsys):
    assert studies.main(plan, trained, "--audit=30", f"--audit_run={name}") == 0
    out = capsys.readouterr().out
    assert f"of {name} audited, no difference" in out
    spec = parse_run(name, ["planted", "late", "forgetting"])
    _, arms = rows_of(trained, spec.experiments)
    same = "places" if name == "sham" else "places and bytes"
    line = f"no difference; its {(arms > 0).sum():,} edited tokens have the {same} of run\n"
    assert out.endswith(line) == bool(spec.experiments)


@pytest.mark.parametrize(
    ("name", "what", "inside"),
    [
        ("alone/planted", "tokens", True),
        ("alone/planted", "tokens", False),
        ("alone/planted", "arms", True),
        ("sham", "tokens", False),
        ("sham", "arms", True),
        ("sham", "arms", False),
    ],
)
def test_a_run_that_differs_in_anything_else_is_found(trained, name, what, inside):
    corpus, made = Corpus.open(trained / "corpus"), Plan.open(trained / "plan")
    spec = parse_run(name, made.contents["experiments"])
    windows = np.load(trained / "sham" / SHAM_WINDOWS) if spec.sham else None
    overlay = Overlay(made, corpus, spec.experiments, windows)
    shares = list(load_shares(corpus, made, range(studies.STEPS), overlay=overlay))
    assert compare_with_run(Workdir(trained), made, spec, shares)
    share = next(share for share in shares if share.arms.any())
    row, column = np.argwhere((share.arms > 0) == inside)[0]
    getattr(share, what)[row, column] ^= 1
    found = f"step {share.step} row {row} token {column}: {name} and run differ in more than"
    with pytest.raises(ValueError, match=found):
        compare_with_run(Workdir(trained), made, spec, shares)


def test_a_run_again_is_finished_already_and_another_plan_is_refused(trained, tmp_path, capsys):
    assert studies.main(train, trained, "--run=alone/planted") == 0
    assert "alone/planted is finished already" in capsys.readouterr().out
    error = studies.main(train, trained, "--run=alone/nobody")
    assert "run 'alone/nobody': the study has only the experiments" in error


def test_a_sham_run_keeps_the_windows_that_it_began_with(trained, tmp_path):
    workdir = studies.copy(trained, tmp_path / "work", "plan", "control", "sham")
    windows, finished = workdir / "sham" / SHAM_WINDOWS, workdir / "sham/finished.json"
    before = windows.stat()
    finished.unlink()
    assert studies.main(train, workdir, "--run=sham") == 0 and finished.exists()
    assert (windows.stat().st_ino, windows.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    windows.write_bytes(windows.read_bytes()[:-1] + b"\x01")
    assert f"{windows} is damaged" in studies.main(evaluate, workdir)


def test_an_impossible_run_is_refused_before_any_is_trained(finished, tmp_path, monkeypatch):
    study = dataclasses.replace(load(finished[0]), init_from=InitFrom("imports/x"))
    reinitialised = dataclasses.replace(study, runs=("reinitialised",))
    handle = StudyHandle(study, Workdir(finished[0]))
    weights = "initial weights are those of imports/x"
    with pytest.raises(ValueError, match=weights):
        check_run(handle, handle.run_spec("reinitialised"))
    workdir = Workdir(studies.copy(finished[0], tmp_path / "work"))
    with pytest.raises(ValueError, match=weights):
        StudyHandle(reinitialised, workdir).try_plan()
    with monkeypatch.context() as patched, pytest.raises(ValueError, match="no unused window left"):
        patched.setattr(StudyHandle, "sham_windows", np.empty(0, np.int64))
        StudyHandle(dataclasses.replace(study, runs=("sham",)), workdir).make_plan()
    assert not workdir.plan.exists()
    handle = StudyHandle(dataclasses.replace(study, runs=("sham",)), workdir)
    before = handle.sham_windows  # not yet planned
    handle.make_plan()
    again = StudyHandle(reinitialised, workdir)
    assert np.array_equal(before, again.sham_windows)
    with pytest.raises(ValueError, match=weights):
        again.make_plan()


def test_a_run_of_a_renamed_experiment_is_left_out_in_one_line(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "work")
    for part in ("", "tables"):
        shutil.copytree(workdir / part / "alone/planted", workdir / part / "alone/renamed")
    shutil.rmtree(workdir / "tables/alone/planted")
    line = f"{workdir}/alone/renamed is left out, as the plan has no experiment of that name"
    assert studies.main(evaluate, workdir) == 0
    out = capsys.readouterr().out
    assert out.count(line) == 1 and "9 tables written" in out
    assert studies.main(report, workdir) == 0 and capsys.readouterr().out.count(line) == 1
    assert "renamed" not in (workdir / "summary.json").read_text()
    status.main([str(workdir)])
    out = capsys.readouterr().out
    assert out.count(line) == 1 and "tables   63 of 63" in out and "everything is done" in out


def test_evaluate_status_and_report_know_the_runs(trained, capsys):
    for name in NAMES:
        assert Workdir(trained).table(name, 30, "planted").exists()
    assert studies.main(report, trained) == 0
    page = (trained / "report.html").read_text()
    for name in NAMES:
        row = '<tr><th scope="row">'
        assert page.count(f"{row}{name}</th>") == 4, "three experiments, and training"
        assert page.count(f"{row}train {name}</th>") == 1
    rows = json.loads((trained / "summary.json").read_text())
    experiment = next(e for e in load(trained).experiments if e.name == "planted")
    tables = [read_outcomes(Workdir(trained).table(k, 30, "planted")) for k in ("sham", "control")]
    wanted = {(e.outcome, e.condition): e.difference for e in experiment.estimates(*tables)}
    shown = {
        (row["outcome"], row["condition"]): row["sham_difference"]
        for row in rows
        if row["experiment"] == "planted"
    }
    assert shown == pytest.approx(wanted)
    capsys.readouterr()
    status.main([str(trained)])
    out = capsys.readouterr().out
    assert "tables   63 of 63" in out and "everything is done" in out
    for name in NAMES:
        assert f"  {name} " in out


def test_runs_of_the_config_are_missing_until_they_are_trained(finished, tmp_path, capsys):
    parts = ("plan", "control", "run", "tables", "report.html", "summary.json")
    workdir = studies.copy(finished[0], tmp_path / "work", *parts)
    studies.edit_config(workdir, add="Study.runs = ['sham', 'alone/late']")
    status.main([str(workdir)])
    out = capsys.readouterr().out
    assert "--run=sham" in out and "--run=alone/late" in out and "everything is done" not in out


def test_noise_stays_with_its_experiment_and_a_sham_run_leaves_it_out(tiny_study, make_workdir):
    noise = GaussianWatermark("noise", "statistic/all", 1, steps=(3, 6))
    study = dataclasses.replace(tiny_study, experiments=(*tiny_study.experiments, noise))
    workdir = make_workdir()
    workdir.config.write_text("")
    handle = StudyHandle(study, workdir)
    handle.make_plan()
    noisy = {}
    for name in ("run", "alone/noise", "without/noise", "alone/late", "sham", "control"):
        spec, controls = handle.run_spec(name), ControllerSet()
        job = make_job(handle, spec, controls, {}, lambda: True, range(0), None)
        loaded = itertools.islice(job.batches(0, np.arange(2)), 8)
        noisy[name] = [batch["step"] for batch in loaded if NOISE_KEY in batch]
        assert job.noisy == bool(noisy[name])
        if name == "sham":
            edits = next(job.batches(3, np.arange(8)))
            own = [arm["id"] for arm in handle.plan.arms if arm["experiment"] == "noise"]
            assert np.isin(edits["arms"], own).all()
    marked = [name for name, steps in noisy.items() if steps == [3, 6]]
    assert marked == ["run", "alone/noise"] and not any(noisy[n] for n in noisy if n not in marked)
