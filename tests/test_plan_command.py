"""`ttoaa plan`, twice in a process of its own, and the functions behind it."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import studies
from fakes import Given, Planted

from ttoaa import locks, plan, study_handle
from ttoaa.planning.audit import compare
from ttoaa.planning.checks.findings import Checks
from ttoaa.planning.items import Item
from ttoaa.planning.plan import Plan
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir

TESTS = pathlib.Path(__file__).parent
GIN = """
import fakes

Study.name = 'tiny'
Study.prepare = @Prepare()
Study.geometry = @Geometry()
Study.model = @DecoderConfig()
Study.training = @Training()
Study.experiments = [@Planted(), @late/Planted()]
Study.validation_sequences = 8
Prepare.reserve_fraction = 0.3
Geometry.length = 32
Geometry.batch = 8
Geometry.steps = 40
DecoderConfig.vocab_size = 320
DecoderConfig.layers = 1
DecoderConfig.width = 8
DecoderConfig.heads = 1
DecoderConfig.hidden = 8
Training.optimizer = @AdamW()
AdamW.schedule = @Cosine()
Cosine.peak = 0.01
Cosine.warmup = 2
Planted.name = 'planted'
late/Planted.name = 'late'
late/Planted.placement = @Within()
Within.start = 0.5
Within.stop = 1.0
"""


def files(folder):
    paths = [p for p in folder.rglob("*") if p.is_file() and p.parent.name != "scans"]
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def run(root, *flags):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        "JAX_PLATFORMS": "cpu",
    }
    arguments = [sys.executable, "-m", "ttoaa.plan", f"--workdir={root}", *flags]
    return subprocess.run(
        arguments, cwd=TESTS.parent, env=environment, capture_output=True, text=True
    )


def call(root, *flags):
    """As `run`, in this process, which saves the start."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        left = studies.main(plan, root, *flags)
    error = f"{left}\n" if isinstance(left, str) else ""
    code = 1 if error else left or 0
    return subprocess.CompletedProcess(flags, code, out.getvalue(), error)


@pytest.fixture(scope="module")
def planned(make_workdir):
    """(workdir, what the first call printed)."""
    workdir = make_workdir()
    (workdir.root / "tiny.gin").write_text(GIN)
    done = run(workdir.root, f"--gin_file={workdir.root / 'tiny.gin'}")
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_the_command_makes_a_plan_and_prints_its_summary(planned):
    workdir, printed = planned
    summary = (workdir.plan / "summary.txt").read_text()
    assert printed.startswith(summary) and "planted/4x" in summary
    checks = (workdir.plan / "checks.txt").read_text()
    assert checks.startswith(f"checks of plan {Plan.open(workdir.plan).hash[:12]}: 0 errors, ")
    told = checks.partition("\n\n")[0]
    assert told in printed and printed.rpartition(told)[2].startswith("\nplan: ")
    assert json.loads((workdir.plan / "checks.json").read_text())["findings"] == []
    assert len(Plan.open(workdir.plan).columns["arm"]) == 40
    assert json.loads((workdir.plan / "ledger.json").read_text())["seconds"]["plan"] > 0


def test_again_it_does_nothing_and_says_so(planned):
    workdir, _ = planned
    before = files(workdir.root)
    done = call(workdir.root)
    assert done.returncode == 0
    assert done.stdout == (
        f"plan: {workdir.plan} is made already ({Plan.open(workdir.plan).hash[:12]})\n"
    )
    assert files(workdir.root) == before


def test_show_prints_the_step(planned):
    workdir, _ = planned
    table = pd.read_parquet(workdir.plan / "provenance.parquet")
    edit = table.iloc[7]
    done = call(workdir.root, f"--show=step={edit['step']}")
    head = f"row {edit['row']} tokens {edit['offset']}-{edit['offset'] + 8}  {edit['arm']}  "
    assert done.returncode == 0 and f"{head}item {edit['item']}" in done.stdout


def test_show_needs_a_plan(planned, tmp_path):
    done = call(tmp_path, "--show=step=1")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        f"plan: {tmp_path / 'plan'} holds no plan: run python -m ttoaa.plan first\n"
    )


def test_check_of_a_plan_that_is_made_looks_again(planned):
    workdir, _ = planned
    done = call(workdir.root, "--check=overlap")
    assert done.returncode == 0, done.stderr
    assert "not checked" not in done.stdout and "mean share of 13-grams" not in done.stdout
    assert done.stdout.endswith(f"plan: more in {workdir.plan / 'checks.txt'}\n")
    assert "mean share of 13-grams" in (workdir.plan / "checks.txt").read_text()
    assert call(workdir.root, "--check=fast").stderr == (
        "plan: --check is quick or overlap, not 'fast'\n"
    )


def test_checks_that_a_kill_kept_from_being_made_are_made_later(planned):
    workdir, _ = planned
    whole = (workdir.plan / "checks.json").read_bytes()
    (workdir.plan / "checks.json").unlink()
    done = call(workdir.root)
    assert "0 errors" in done.stdout and done.stdout.endswith(
        f"is made already ({Plan.open(workdir.plan).hash[:12]})\n"
    )
    told = json.loads((workdir.plan / "checks.json").read_text())
    assert {**told, "overlap": 0, "left_out": 0} == {
        **json.loads(whole),
        "overlap": 0,
        "left_out": 0,
    }


def test_the_audit_takes_steps_and_hosts_or_nothing(planned):
    workdir, _ = planned
    assert call(workdir.root, "--audit").stdout == (
        "plan: 10 batches (2,560 tokens and arms) audited, no difference\n"
    )
    done = call(workdir.root, "--audit_steps=1,39", "--audit_hosts=1,2")
    assert done.stdout == (
        "plan: 2 batches (512 tokens and arms) audited as each of 1, 2 hosts, no difference\n"
    )
    done = call(workdir.root, "--audit", "--show=step=1")
    assert (done.returncode, done.stderr) == (1, "plan: --show and --audit: one at a time\n")
    done = run(workdir.root, "--audit", "5")
    said = "plan: unexpected argument '5': write the value of a flag after '='"
    said += " (flags: ttoaa plan --help)\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, said, "")


def test_batches_and_hosts_that_there_are_not_are_one_line(made):
    with pytest.raises(ValueError, match=r"^the run has steps 0 to 39: step 40 cannot be audited$"):
        compare.audit(made, 0, 0, [3, 40])
    with pytest.raises(ValueError, match=r"^a batch of 8 rows can be cut for 1 to 8 hosts, not 9$"):
        compare.audit(made, 1, 0, hosts=[1, 9])


def test_an_error_is_one_line_and_leaves_nothing(planned):
    workdir, _ = planned
    config = workdir.config.read_text()
    studies.edit_config(workdir.root, add="Planted.length = 33")
    before = files(workdir.root)
    done = call(workdir.root, "--seed=1")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "plan: planted: item '0x-0' has 33 tokens, a row holds 1 to 32: "
        "shorten it or raise Geometry.length\n"
    )
    assert files(workdir.root) == before
    workdir.config.write_text(config)


def test_bindings_that_do_not_fit_the_plan_are_not_remembered(planned):
    workdir, _ = planned
    before = files(workdir.root)
    for binding, path in (
        ("Planted.length = 31", "planted.length"),
        ("Study.experiments = [@Planted()]", "late"),
    ):
        done = call(workdir.root, "--seed=1", f"--gin_bindings={binding}")
        assert done.returncode == 1 and done.stdout == ""
        assert f"plan was made with experiments.{path}" in done.stderr
    assert files(workdir.root) == before


@pytest.fixture(scope="module")
def made(tiny_study, make_workdir):
    workdir = make_workdir()
    StudyHandle(tiny_study, workdir).make_plan()
    return workdir


def test_other_experiments_or_another_geometry_are_refused(tiny_study, made):
    before = files(made.root)
    other_items = (Planted("planted", items=5), *tiny_study.experiments[1:])
    longer = dataclasses.replace(tiny_study.geometry, steps=41)
    others = [
        (r"experiments\.forgetting", {"experiments": tiny_study.experiments[:2]}),
        (r"experiments\.planted\.items 4", {"experiments": other_items}),
        (r"geometry\.steps 40", {"geometry": longer}),
        ("validation_sequences 8", {"validation_sequences": 9}),
    ]
    for name, change in others:
        with pytest.raises(
            ValueError, match=rf"made with {name}.*, now it would be .*: use another"
        ) as caught:
            StudyHandle(dataclasses.replace(tiny_study, **change), made).make_plan()
        assert str(made.plan) in str(caught.value) and "\n" not in str(caught.value)
    assert files(made.root) == before


def test_a_plan_whose_reserve_was_dealt_otherwise_is_refused(tiny_study, made, monkeypatch):
    monkeypatch.setattr(study_handle, "DEALT", "otherwise")
    with pytest.raises(ValueError, match="made with reserve by document, now it would be oth"):
        StudyHandle(tiny_study, made).make_plan()


def test_the_same_experiments_in_another_order_are_the_same_plan(tiny_study, made):
    turned = dataclasses.replace(tiny_study, experiments=tiny_study.experiments[::-1])
    same, new = StudyHandle(turned, made).make_plan()
    assert not new and same.hash == Plan.open(made.plan).hash


def test_another_corpus_is_refused(tiny_study, made, tmp_path):
    shutil.copytree(made.root, tmp_path / "study")
    manifest = tmp_path / "study" / "corpus" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": "', '"source": "another '))
    with pytest.raises(ValueError, match=r"made with corpus .*, now it would be"):
        StudyHandle(tiny_study, Workdir(tmp_path / "study")).make_plan()


def test_seeds_have_plans_of_their_own(tiny_study, made):
    one = Workdir(made.root, 1)
    other, new = StudyHandle(tiny_study, one).make_plan()
    assert new and other.folder == made.root / "plan-s1"
    assert other.hash != Plan.open(made.plan).hash
    assert other.contents["order"]["seed"] == other.contents["seed"] == 1


def test_a_plan_without_a_corpus_says_what_to_run(tiny_study, tmp_path):
    with pytest.raises(ValueError, match=r"no finished corpus .*run python -m ttoaa.prepare"):
        StudyHandle(tiny_study, Workdir(tmp_path)).make_plan()
    assert not any(tmp_path.glob("*"))


def test_one_process_at_a_time_makes_a_plan(tiny_study, made, make_workdir, monkeypatch):
    workdir = make_workdir()
    with (
        locks.exclusive(workdir.root, "plan", "planned", stale=20.0),
        pytest.raises(ValueError, match=f"^{workdir.root} is being planned by .*: stop that"),
    ):
        StudyHandle(tiny_study, workdir).make_plan()
    assert not workdir.plan.exists()

    @contextlib.contextmanager
    def wait_for_another(*arguments):
        shutil.copytree(made.plan, workdir.plan)
        yield

    monkeypatch.setattr(study_handle, "exclusive", wait_for_another)
    plan, new = StudyHandle(tiny_study, workdir).make_plan()
    assert not new and plan.hash == Plan.open(made.plan).hash


def test_the_audit_looks_at_random_batches_of_the_whole_run(made, monkeypatch):
    asked = []

    def spy(reader, given):
        asked.append([share.step for share in given])
        return iter([])

    assert compare.audit(made, 5, 3).startswith("5 batches (1,280 tokens and arms) audited, no")
    monkeypatch.setattr(compare, "differences", spy)
    for seed in (0, 0, 1):
        compare.audit(made, 12, seed)
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[0])) == 12 and max(asked[0]) >= 18 > min(asked[0])


def test_a_holdout_that_leaks_leaves_no_plan_where_that_is_an_error(tiny_study, make_workdir):
    tokens = np.arange(40, 50, dtype=np.int32)
    held, leaking = (Given(n, items=(Item("i", "c", r, tokens),)) for n, r in (("a", 0), ("b", 1)))
    study = dataclasses.replace(tiny_study, experiments=(held, leaking))
    workdir = make_workdir()
    before = files(workdir.root)
    with pytest.raises(ValueError, match="a holdout leaks: 1 of 1 held-out items of a are ident"):
        StudyHandle(dataclasses.replace(study, checks=Checks(holdout="error")), workdir).make_plan()
    assert files(workdir.root) == before
    assert StudyHandle(study, workdir).make_plan()[1]


@pytest.mark.parametrize("many", [3, 2_000])
def test_the_audit_names_the_first_difference(made, monkeypatch, many):
    lines = [f"step 1 row {k}" for k in range(many)]
    monkeypatch.setattr(compare, "differences", lambda reader, given: iter(lines))
    said = {3: "3", 2_000: "1,000 or more"}[many]
    with pytest.raises(ValueError, match=f"^the audit found {said} differences; first: step 1 r"):
        compare.audit(made, 5, 0)


def test_a_corpus_too_large_to_hash_is_said_to_be(made, monkeypatch):
    monkeypatch.setattr(compare, "_VERIFIED", 100)
    assert compare.audit(made, 1, 0).endswith("the corpus is large: its shards were not hashed)")


def test_the_audit_refuses_a_plan_of_another_corpus(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "study")
    manifest = tmp_path / "study" / "corpus" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": "', '"source": "another '))
    with pytest.raises(ValueError, match="was made for another corpus than"):
        compare.audit(Workdir(tmp_path / "study"), 1, 0)


@pytest.mark.parametrize("file", ["train-00000.bin", "train-00001.bin", "reserve-00000.bin"])
def test_the_audit_names_a_changed_shard(made, tmp_path, file):
    shutil.copytree(made.root, tmp_path / "study")
    path = tmp_path / "study" / "corpus" / file
    content = np.fromfile(path, "<u2")
    content[40] ^= 1
    content.tofile(path)
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        compare.audit(Workdir(tmp_path / "study"), 40, 0)
