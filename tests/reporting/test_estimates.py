"""Estimates of a study, and tables of earlier versions whose checkpoints are gone."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import studies
from fakes import Planted
from reporting.synthetic import STEPS, Fake, make_study
from scipy import stats

from ttoaa import evaluate, report, status
from ttoaa.json_io import read_json
from ttoaa.report_stamp import tables_digests
from ttoaa.reporting import page
from ttoaa.reporting.estimates import collect, summary
from ttoaa.reporting.frames import StudyFrames
from ttoaa.statistics.power import paired_effect
from ttoaa.workdir import RUNS, Workdir

pytestmark = pytest.mark.usefixtures("sketched")

COLUMNS = [
    *("experiment", "outcome", "condition", "primary", "seed", "n", "value", "ci_low", "ci_high"),
    *("control_value", "difference", "difference_ci_low", "difference_ci_high"),
    *("groups", "run_ci_low", "run_ci_high", "runs", "sham_difference"),
    *("placebo", "placebo_ci_low", "placebo_ci_high", "detectable"),
]
CONDITIONS = ["0x", "4x", "16x"]


def test_summary_is_the_final_step_in_the_agreed_schema(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS, "b": CONDITIONS})
    estimates = collect(tmp_path, experiments)
    rows = summary(estimates)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert all(list(row) == COLUMNS for row in rows)
    assert len(rows) == 2 * 2 * 3
    primary = [row for row in rows if row["primary"]]
    assert [(r["experiment"], r["outcome"], r["condition"]) for r in primary] == [
        ("a", "loss", "16x"),
        ("b", "loss", "16x"),
    ]
    run, control = (
        pd.read_parquet(Workdir(tmp_path).table(kind, STEPS, "a")).query(
            "outcome == 'loss' and condition == '16x'"
        )["value"]
        for kind in ("run", "control")
    )
    assert primary[0]["value"] == pytest.approx(run.mean())
    assert primary[0]["control_value"] == pytest.approx(control.mean())
    assert primary[0]["difference"] == pytest.approx((control - run).mean())  # expected to fall
    assert primary[0]["difference_ci_low"] > 0.3  # the effect is 0.4
    assert sorted(estimates.table["step"].unique()) == [30, STEPS]


def test_seeds_have_an_interval_over_runs_next_to_that_over_items(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1, 2))
    rows = [row for row in summary(collect(tmp_path, experiments)) if row["primary"]]
    assert [row["seed"] for row in rows] == [0, 1, 2, "all"]
    *seeds, total = rows
    differences = [row["difference"] for row in seeds]
    interval = stats.ttest_1samp(differences, 0).confidence_interval()
    assert total["runs"] == 3 and total["n"] == sum(row["n"] for row in seeds)
    assert total["difference"] == pytest.approx(np.mean(differences))
    assert total["run_ci_low"] == pytest.approx(interval.low)
    assert total["run_ci_high"] == pytest.approx(interval.high)
    reach = [row["difference"] - row["difference_ci_low"] for row in seeds]
    wanted = total["difference"] - np.linalg.norm(reach) / 3
    assert total["difference_ci_low"] == pytest.approx(wanted)
    assert all(row["run_ci_low"] is None and row["runs"] == 1 for row in seeds)
    assert total["control_value"] == pytest.approx(np.mean([r["control_value"] for r in seeds]))


def test_bounds_of_all_seeds_are_in_order_where_an_interval_begins_at_its_value(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1))
    estimates = collect(tmp_path, experiments)
    estimates.table["difference_ci_low"] = estimates.table["difference"]
    total = next(row for row in summary(estimates) if row["seed"] == "all")
    assert total["difference_ci_low"] == total["difference"] < total["difference_ci_high"]


def test_two_seeds_have_no_interval_over_runs(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1))
    total = [row for row in summary(collect(tmp_path, experiments)) if row["primary"]][-1]
    assert total["seed"] == "all" and total["run_ci_low"] is None
    assert total["difference_ci_low"] < total["difference"] < total["difference_ci_high"]


def test_the_sham_difference_over_seeds_needs_a_sham_run_of_each(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1))
    shown = []
    for seed in (0, 1):
        folder = Workdir(tmp_path, seed)
        folder.run("sham").mkdir()
        shutil.copytree(folder.tables / "run", folder.tables / "sham")
        rows = [row for row in summary(collect(tmp_path, experiments)) if row["primary"]]
        shown.append([row["sham_difference"] for row in rows])
    differences = [row["difference"] for row in rows]
    assert shown == [[differences[0], None, None], differences]


def test_rows_of_the_primary_outcome_carry_the_placebo(tmp_path):
    make_study(tmp_path, {"a": CONDITIONS, "b": CONDITIONS}, seeds=(0, 1))
    experiments = [Fake("a", "loss/16x", -1, "loss/0x"), Fake("b", "loss/16x", -1)]
    rows = summary(collect(tmp_path, experiments))
    null = [
        r for r in rows if (r["experiment"], r["outcome"], r["condition"]) == ("a", "loss", "0x")
    ]
    primaries = [row for row in rows if row["primary"]]
    assert [row["placebo"] is None for row in primaries] == [False] * 3 + [True] * 3
    for primary, row in zip(primaries, null, strict=False):
        for name in ("", "_ci_low", "_ci_high"):
            assert primary[f"placebo{name}"] == pytest.approx(row[f"difference{name}"])
    assert all(row["placebo"] is None for row in rows if not row["primary"])


def test_what_is_detectable_is_of_the_headline_s_interval(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1, 2))
    *seeds, total = [row for row in summary(collect(tmp_path, experiments)) if row["primary"]]
    spread = np.std([row["difference"] for row in seeds], ddof=1)
    assert total["detectable"] == pytest.approx(paired_effect(spread, 3))
    tables = [pd.read_parquet(Workdir(tmp_path).table(kind, STEPS, "a")) for kind in RUNS]
    one, other = (t.query("outcome == 'loss' and condition == '16x'")["value"] for t in tables)
    wanted = paired_effect(np.std(one.to_numpy() - other.to_numpy(), ddof=1), len(one))
    assert seeds[0]["detectable"] == pytest.approx(wanted, rel=0.05)


def test_what_has_no_interval_is_null(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS})
    for kind in ("run", "control"):
        path = Workdir(tmp_path).table(kind, STEPS, "a")
        pd.read_parquet(path).drop_duplicates(["outcome", "condition"]).to_parquet(path)
    row = next(r for r in summary(collect(tmp_path, experiments)) if r["primary"])
    assert row["n"] == 1
    assert row["ci_low"] is row["difference_ci_high"] is row["detectable"] is None
    assert row["value"] is not None


@pytest.mark.parametrize("kind", ["run", "control"])
def test_missing_outcomes_at_the_end_are_an_error_that_says_what_to_do(tmp_path, kind):
    experiments = make_study(tmp_path, {"a": CONDITIONS, "b": CONDITIONS}, seeds=(0, 1))
    Workdir(tmp_path, 1).table(kind, STEPS, "b").unlink()
    message = rf"seed 1: the {kind} has no outcomes of 'b' at step {STEPS}: .*evaluate.*--seed=1"
    with pytest.raises(ValueError, match=message):
        collect(tmp_path, experiments)


def test_a_gap_before_the_end_is_named_not_silent(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1))
    Workdir(tmp_path).table("control", 30, "a").unlink()
    estimates = collect(tmp_path, experiments)
    assert estimates.notes == (
        "Seed 0, step 30: a is left out, as the control was not evaluated there.",
    )
    assert set(estimates.table[["seed", "step"]].itertuples(index=False, name=None)) == {
        (0, STEPS), (1, 30), (1, STEPS)}  # fmt: skip


def test_a_seed_in_training_is_named(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS})
    Workdir(tmp_path, 3).run("run").mkdir()
    estimates = collect(tmp_path, experiments)
    assert estimates.seeds == (0,)
    assert estimates.notes == ("Seed 3 has no outcomes yet.",)


@pytest.mark.parametrize("kind", ["run", "control"])
def test_a_seed_in_training_is_left_out_while_another_is_done(tmp_path, kind):
    experiments = make_study(tmp_path, {"a": CONDITIONS}, seeds=(0, 1))
    behind = Workdir(tmp_path, 1)
    (behind.run(kind) / "finished.json").unlink()
    assert collect(tmp_path, experiments).seeds == (0, 1)  # all outcomes are there
    behind.table(kind, STEPS, "a").unlink()
    estimates = collect(tmp_path, experiments)
    assert estimates.seeds == (0,) and set(estimates.table["seed"]) == {0}
    assert estimates.notes == ("Seed 1 is left out, as it is still in training.",)


def test_estimates_that_raise_anything_are_one_line(tmp_path):
    class Broken(Fake):
        def estimates(self, run, control):
            return run["no such\ncolumn"]

    make_study(tmp_path, {"a": CONDITIONS})
    with pytest.raises(
        ValueError, match=r"^a, seed 0, step 30: KeyError\('no such.*'\) \(.*\.py:\d+\)$"
    ):
        collect(tmp_path, [Broken("a", "loss/16x", -1)])


def test_an_experiment_that_estimates_nothing_yet(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS})
    for kind in ("run", "control"):
        path = Workdir(tmp_path).table(kind, 30, "a")
        pd.read_parquet(path).head(0).to_parquet(path)
    assert set(collect(tmp_path, experiments).table["step"]) == {STEPS}


def test_errors_name_the_experiment(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS})
    with pytest.raises(ValueError, match=r"a: its primary outcome 'loss/99x' is not among"):
        collect(tmp_path, [Fake("a", "loss/99x", -1)])
    with pytest.raises(ValueError, match=r"a: its placebo outcome 'loss/99x' is not among"):
        collect(tmp_path, [Fake("a", "loss/16x", -1, placebo="loss/99x")])
    with pytest.raises(ValueError, match=r"no outcome tables yet: run python -m ttoaa\.evaluate"):
        collect(tmp_path / "elsewhere", experiments)
    with pytest.raises(ValueError, match="no experiments"):
        collect(tmp_path, ())
    path = Workdir(tmp_path).table("run", STEPS, "a")
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    with pytest.raises(ValueError, match=rf"a, seed 0, step {STEPS}: item '0x-0' of loss/0x"):
        collect(tmp_path, experiments)


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
    frames = StudyFrames(workdir)
    assert (
        {*frames.estimates("late")["step"]} == {*frames.outcomes("late", ["run"])["step"]} == {30}
    )


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


def test_tables_of_other_runs_do_not_move_the_final_step(tmp_path):
    """One of them that is stale is left out; a run that has none is named."""
    experiments = make_study(tmp_path, {"a": ["0x", "4x"]}, steps=(30, 60))
    folder = Workdir(tmp_path)
    for name in ("sham", "alone/a"):
        folder.run(name).mkdir(parents=True)
    stamp = tables_digests(tmp_path)
    for name in ("sham", "alone/a"):
        path = folder.table(name, 60, "a")
        path.parent.mkdir(parents=True)
        shutil.copy(folder.table("run", 60, "a"), path)
        assert stamp != (stamp := tables_digests(tmp_path)), "a report before it is of other tables"
    found = collect(tmp_path, experiments, {folder.table("sham", 60, "a")})
    assert found.final_step == 60 and set(found.others["run"]) == {"alone/a"}
    assert found.notes == ("Seed 0: the run sham is left out, as it has no outcomes at step 60.",)


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
