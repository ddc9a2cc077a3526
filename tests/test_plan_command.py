"""python -m ttoaa.plan, in processes of its own, and the functions behind it."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from fakes import Planted

from ttoaa import plan as command
from ttoaa.making import make_plan
from ttoaa.planning.plan import Plan
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
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def run(root, *flags):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "JAX_PLATFORMS": "cpu"}
    arguments = [sys.executable, "-m", "ttoaa.plan", f"--workdir={root}", *flags]
    return subprocess.run(
        arguments, cwd=TESTS.parent, env=environment, capture_output=True, text=True
    )


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
    assert len(Plan.open(workdir.plan).columns["arm"]) == 40
    assert json.loads((workdir.plan / "ledger.json").read_text())["seconds"]["plan"] > 0


def test_again_it_does_nothing_and_says_so(planned):
    workdir, _ = planned
    before = files(workdir.root)
    done = run(workdir.root)
    assert done.returncode == 0
    assert done.stdout == (
        f"plan: {workdir.plan} is made already ({Plan.open(workdir.plan).hash[:12]})\n"
    )
    assert files(workdir.root) == before


def test_show_prints_the_step(planned):
    workdir, _ = planned
    table = pd.read_parquet(workdir.plan / "provenance.parquet")
    edit = table.iloc[7]
    done = run(workdir.root, f"--show=step={edit['step']}")
    head = f"row {edit['row']} tokens {edit['offset']}-{edit['offset'] + 8}  {edit['arm']}  "
    assert done.returncode == 0 and f"{head}item {edit['item']}" in done.stdout


@pytest.mark.parametrize("show", ["step=40", "step=-1", "step=x", "7", "row=3"])
def test_a_step_outside_the_run_is_one_line(show):
    with pytest.raises(ValueError, match=r"step=K with K from 0 to 39, not") as caught:
        command._step(show, 40)
    assert repr(show) in str(caught.value)


def test_an_error_is_one_line_and_leaves_nothing(planned):
    workdir, _ = planned
    before = files(workdir.root)
    done = run(workdir.root, "--seed=1", "--gin_bindings=Planted.length = 33")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "plan: planted: item '0x-0' has 33 tokens, a row holds 1 to 32: "
        "shorten it or raise Geometry.length\n"
    )
    changed = {name for name, digest in files(workdir.root).items() if before.get(name) != digest}
    assert changed <= {pathlib.Path("config.gin")}


@pytest.fixture(scope="module")
def made(tiny_study, make_workdir):
    workdir = make_workdir()
    make_plan(tiny_study, workdir)
    return workdir


def test_other_experiments_or_another_geometry_are_refused(tiny_study, made):
    before = files(made.root)
    other_items = (Planted("planted", items=5), *tiny_study.experiments[1:])
    longer = dataclasses.replace(tiny_study.geometry, steps=41)
    others = [
        ("experiments", {"experiments": tiny_study.experiments[:2]}),
        ("experiments", {"experiments": other_items}),
        ("geometry", {"geometry": longer}),
        ("validation_sequences", {"validation_sequences": 9}),
    ]
    for name, change in others:
        with pytest.raises(ValueError, match=f"another setting of {name}: use ano") as caught:
            make_plan(dataclasses.replace(tiny_study, **change), made)
        assert str(made.plan) in str(caught.value) and "\n" not in str(caught.value)
    assert files(made.root) == before


def test_the_same_experiments_in_another_order_are_the_same_plan(tiny_study, made):
    turned = dataclasses.replace(tiny_study, experiments=tiny_study.experiments[::-1])
    plan, new = make_plan(turned, made)
    assert not new and plan.hash == Plan.open(made.plan).hash


def test_another_corpus_is_refused(tiny_study, made, tmp_path):
    shutil.copytree(made.root, tmp_path / "study")
    manifest = tmp_path / "study" / "corpus" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": "', '"source": "another '))
    with pytest.raises(ValueError, match="another setting of corpus"):
        make_plan(tiny_study, Workdir(tmp_path / "study"))


def test_seeds_have_plans_of_their_own(tiny_study, made):
    one = Workdir(made.root, 1)
    plan, new = make_plan(tiny_study, one)
    assert new and plan.folder == made.root / "plan-s1"
    assert plan.hash != Plan.open(made.plan).hash
    assert plan.contents["order"]["seed"] == plan.contents["seed"] == 1


def test_a_plan_without_a_corpus_says_what_to_run(tiny_study, tmp_path):
    with pytest.raises(ValueError, match=r"no finished corpus .*run python -m ttoaa.prepare"):
        make_plan(tiny_study, Workdir(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_audit_looks_at_random_batches_of_the_whole_run(tiny_study, made, monkeypatch):
    asked = []

    def spy(reader, given):
        asked.append([step for step, _, _ in given])
        return []

    assert command.audit(made, 5, 3) == []
    monkeypatch.setattr(command, "differences", spy)
    for seed in (0, 0, 1):
        command.audit(made, 12, seed)
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[0])) == 12 and max(asked[0]) >= 18 > min(asked[0])


@pytest.mark.parametrize("file", ["train-00000.bin", "train-00001.bin", "reserve-00000.bin"])
def test_the_audit_names_a_changed_shard(tiny_study, made, tmp_path, file):
    shutil.copytree(made.root, tmp_path / "study")
    path = tmp_path / "study" / "corpus" / file
    content = np.fromfile(path, "<u2")
    content[40] ^= 1
    content.tofile(path)
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        command.audit(Workdir(tmp_path / "study"), 40, 0)
