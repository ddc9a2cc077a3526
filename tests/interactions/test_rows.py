"""Rows of bursts on a finished tiny study: paired, resumable, and the bits of the trainer."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import studies

from ttoaa import config, dependence
from ttoaa.interactions.burst_study import Length, find_source, make_burst_study
from ttoaa.interactions.effects import COLUMNS, read_effects
from ttoaa.interactions.null_bursts import null_bursts
from ttoaa.interactions.rows import BurstJob, list_rows, row_seconds
from ttoaa.parquet_io import read_table
from ttoaa.planning.audit.compare import audit
from ttoaa.study_handle import StudyHandle
from ttoaa.training.loop import train
from ttoaa.training_job import identity_of, make_controls, make_job
from ttoaa.workdir import Workdir

STEP, STEPS = 20, 8
LENGTH = Length(STEPS, 0.1)


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    names = ("plan", "plan-s1", "control", "reference")
    names = [name for name in names if (finished[0] / name).exists()]
    root = studies.copy(finished[0], tmp_path_factory.mktemp("bursts") / "work", *names)
    return StudyHandle(config.load([root / "config.gin"])[0], Workdir(root))


@pytest.fixture(scope="module")
def bursts(study):
    return make_burst_study(study, find_source(study, STEP, None), LENGTH, f"step-{STEP}")


@pytest.fixture(scope="module")
def made(bursts):
    """The first two rows by a job that ends there, the rest by another one."""
    rows = list_rows([e.name for e in bursts.config.experiments], leave_one_out=True)
    first, second = BurstJob(bursts), BurstJob(bursts)
    first.run([0], rows[:2])
    second.run([0, 1], rows)
    return rows, first, second


def test_a_repeated_command_makes_only_what_is_missing(bursts, made):
    rows, first, second = made
    tables = len(rows) * len(bursts.config.experiments)
    assert not first.failures + second.failures + second.busy
    assert (first.trained, second.trained) == (2, 2 * len(rows) - 2)
    assert first.written + second.written == 2 * tables
    path = bursts.handle(0).workdir.table("run", STEPS, "late")
    before = path.stat().st_mtime_ns
    path.unlink()
    again = BurstJob(bursts)
    again.run([0, 1], rows)
    assert (again.trained, again.written) == (1, 1) and path.stat().st_mtime_ns > before
    assert not list(bursts.root.glob("*/checkpoints"))
    assert row_seconds(bursts.handle(1), "run")["train"] > 0


def test_the_command_makes_what_is_missing_and_writes_the_effects(study, bursts, made, capsys):
    rows, *_ = made
    bursts.handle(1).workdir.table("alone/late", STEPS, "late").unlink()
    given = [f"--checkpoints={STEP}", f"--burst_steps={STEPS}", "--share=0.1", "--burst_seeds=0,1"]
    assert not studies.main(dependence, study.workdir.root, *given, "--leave_one_out")
    printed = capsys.readouterr().out
    assert "1 rows trained, 1 tables written" in printed
    assert "no matrix yet: a dependence matrix needs at least 6 seeds, not 2" in printed
    path = study.workdir.root / "bursts" / "step-effects.parquet"
    effects, source, _ = read_table(path, "")
    assert source == {"seeds": [0, 1]} and len(effects) == 2 * 3 * (len(rows) - 1)
    both = studies.main(dependence, study.workdir.root, *given, "--full_runs", "--nulls=6")
    assert "--nulls, --full_runs and --rank_by are three commands" in both
    wrong = studies.main(dependence, study.workdir.root, *given, "--rows=alone/none")
    assert "--rows: 'alone/none' is none of control, alone/planted" in wrong


def test_effects_are_differences_from_the_null_row(bursts, made):
    rows, *_ = made
    effects = read_effects(bursts, [0, 1], rows)
    assert list(effects.columns) == list(COLUMNS) and len(effects) == 2 * 3 * (len(rows) - 1)
    own = effects[effects["row"] == "alone/" + effects["experiment"]]
    planted = own[own["experiment"] == "planted"]["estimate"]
    assert (planted > 0).all() and len(planted) == 2
    others = effects[(effects["row"] == "alone/late") & (effects["experiment"] == "planted")]
    assert (others["estimate"].abs() < planted.min()).all()


def test_rows_of_a_seed_differ_in_their_experiments_alone(study, bursts, made):
    for row in ("control", "alone/planted", "without/planted", "run"):
        assert "no difference" in audit(bursts.handle(1).workdir, STEPS, 0, hosts=(1, 2), name=row)
    rows, order = study.config.geometry.batch, study.order
    for seed in (0, 1):  # the next rows of the stream that the checkpoint was trained on
        first = (STEP + seed * STEPS) * rows
        own = bursts.handle(seed).order.windows(np.arange(STEPS * rows))
        np.testing.assert_array_equal(own, order.windows(first + np.arange(STEPS * rows)))


def test_a_row_has_the_bits_of_the_trainer(bursts, made, tmp_path):
    handle = bursts.handle(0)
    spec = handle.run_spec("alone/planted")
    controls = make_controls(handle, spec)
    made_of, job = identity_of(handle, spec, controls), BurstJob(bursts)
    training = make_job(handle, spec, controls, made_of, lambda: True, job.program, "")
    params = train(dataclasses.replace(training, folder=tmp_path))
    assert (tmp_path / "checkpoints" / str(STEPS)).is_dir()
    copied = dataclasses.replace(training, folder=tmp_path / "row", saves=False)
    again = train(dataclasses.replace(copied, initial=lambda: job.initial(made_of)))
    assert studies.same_bits(*(jax.tree.map(np.asarray, each) for each in (params, again)))
    row = handle.workdir.run("alone/planted")
    assert studies.records(row)["metrics"] == studies.records(tmp_path)["metrics"]


def test_the_rate_is_that_of_the_checkpoint(study, bursts):
    lines = (study.workdir.run("control") / "metrics.jsonl").read_text().splitlines()
    rates = {line["step"]: line.get("learning_rate") for line in map(json.loads, lines)}
    assert bursts.source.learning_rate == pytest.approx(rates[STEP + 1], rel=1e-7)


def test_other_bursts_do_not_share_a_folder(study, bursts):
    with pytest.raises(ValueError, match=r"length.share 0\.1, now it would be 0\.2: name"):
        make_burst_study(study, bursts.source, Length(STEPS, 0.2), f"step-{STEP}")
    with pytest.raises(ValueError, match="at the end of the learning-rate schedule of 30 steps"):
        find_source(study, 30, None)
    assert find_source(study, 30, None, rate=1e-3).learning_rate == 1e-3


def test_null_bursts_have_the_items_of_a_seed_and_stretches_of_their_own(
    study, bursts, made, capsys
):
    given = [f"--checkpoints={STEP}", f"--burst_steps={STEPS}", "--share=0.1", "--nulls=6"]
    assert not studies.main(dependence, study.workdir.root, *given)
    printed = capsys.readouterr().out
    assert "6 rows trained, 18 tables written" in printed and "8 seeds of 5 rows take" in printed
    assert not studies.main(dependence, study.workdir.root, *given)
    assert "0 rows trained, 0 tables written" in capsys.readouterr().out
    nulls, _, _ = read_table(bursts.root.with_name(f"step-{STEP}-nulls.parquet"), "")
    assert list(nulls.columns) == list(COLUMNS) and len(nulls) == 6 * 3
    assert nulls["row"].nunique() == 6 and nulls["estimate"].nunique() > 12
    preview = json.loads(bursts.root.with_name(f"step-{STEP}-power.json").read_text())
    own = {each["column"]: each["own"] for each in preview["columns"]}
    assert own["planted"] > 0 and preview["seconds"] > 0
    stretches = [burst.order_of(burst.run_spec("control")) for burst in null_bursts(bursts, 0, 6)]
    windows = [tuple(each.windows(np.arange(STEPS)).tolist()) for each in stretches]
    assert len({bursts.handle(0).order, *stretches}) == len({*windows}) + 1 == 7
    few = studies.main(dependence, study.workdir.root, *given[:-1], "--nulls=5")
    assert "power needs at least 6 null bursts, not 5" in few
