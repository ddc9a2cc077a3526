"""What-if runs: another run continued from a checkpoint with an experiment less or more."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import studies

from ttoaa import evaluate, plan, status, train
from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order
from ttoaa.evaluation.trained_rows import TrainedRows
from ttoaa.parquet_io import read_outcomes
from ttoaa.planning.audit.compare import load_shares
from ttoaa.planning.injection import Overlay
from ttoaa.planning.plan import Plan
from ttoaa.runs import parse_run
from ttoaa.training.checkpoint_io import read_meta
from ttoaa.workdir import Workdir

ALL = ["planted", "late", "forgetting"]
NAMES = ("run@20", "without/forgetting@20", "without/late@10", "alone/late@10", "control@20")


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory):
    """A copy of the finished study, with all runs trained by this process, and scored."""
    folder = tmp_path_factory.mktemp("what_if") / "work"
    workdir = studies.copy(finished[0], folder, "plan")
    for name in ("control", "run", "alone/late", *NAMES):
        assert studies.main(train, workdir, f"--run={name}") == 0
    assert studies.main(evaluate, workdir) == 0
    return workdir


def same(workdir, one, other):
    return studies.same_bits(studies.params(workdir, one), studies.params(workdir, other))


@pytest.mark.parametrize(
    ("name", "experiments", "base"),
    [
        ("run@20", ("a", "b"), "run"),
        ("without/b@300", ("a",), "run"),
        ("control@7", (), "control"),
        ("alone/b@300", ("b",), "control"),
    ],
)
def test_a_name_says_what_is_continued(name, experiments, base):
    spec = parse_run(name, ["a", "b"])
    assert (spec.experiments, spec.base) == (experiments, base)
    assert spec.start == int(name.partition("@")[2]) and "branch" in spec.differs


@pytest.mark.parametrize(
    "name", ["sham@20", "run@", "run@0", "run@x", "run@020", "alone/@20", "@2"]
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"without/NAME@STEP, not"):
        parse_run(name, ["a", "b"])


def test_a_what_if_that_changes_nothing_has_the_bits_and_records_of_the_run(trained):
    edits = Plan.open(trained / "plan").columns
    arms = [a["id"] for a in Plan.open(trained / "plan").arms if a["experiment"] == "forgetting"]
    own = edits["position"][np.isin(edits["arm"], arms)]
    assert len(own) and own.max() < 20 * 4, "all edits of forgetting lie before step 20"
    for name, base in (
        ("run@20", "run"),
        ("without/forgetting@20", "run"),
        ("control@20", "control"),
    ):
        assert same(trained, name, base)
        records = [studies.records(Workdir(trained).run(each)) for each in (name, base)]
        assert records[0] == records[1]
        table, other = (
            read_outcomes(Workdir(trained).table(each, 30, "planted")) for each in (name, base)
        )
        assert table.equals(other)


def test_an_experiment_added_before_its_first_edit_is_the_run_of_it_alone(trained):
    assert same(trained, "alone/late@10", "alone/late")
    assert not same(trained, "alone/late@10", "control")
    assert not same(trained, "without/late@10", "run")


def test_removing_an_experiment_changes_exactly_the_rows_that_held_it(trained, capsys):
    corpus, made = Corpus.open(trained / "corpus"), Plan.open(trained / "plan")
    arms = [a["id"] for a in made.arms if a["experiment"] == "late"]
    kept = parse_run("without/late@10", ALL).experiments
    for share, other in zip(
        load_shares(corpus, made, range(10, studies.STEPS)),
        load_shares(corpus, made, range(10, studies.STEPS), overlay=Overlay(made, corpus, kept)),
        strict=True,
    ):
        held = np.isin(share.arms, arms)
        np.testing.assert_array_equal(held.any(1), (share.tokens != other.tokens).any(1))
        np.testing.assert_array_equal(share.tokens[~held], other.tokens[~held])
    assert studies.main(plan, trained, "--audit=20", "--audit_run=without/late@10") == 0
    assert "places and bytes of run" in capsys.readouterr().out
    error = studies.main(plan, trained, "--audit_steps=9", "--audit_run=without/late@10")
    assert "the run has steps 10 to 29: step 9 cannot be audited" in error


def test_the_record_says_where_it_began_and_status_knows_it(trained, capsys):
    sha256 = read_meta(trained / "run/checkpoints", 10)["sha256"]
    record = json.loads((trained / "without/late@10/provenance.json").read_text())
    assert record["branch"] == {"type": "Branch", "run": "run", "step": 10, "sha256": sha256}
    assert record["source"]["folder"] == str(trained / "run")
    own = Workdir(trained).run("without/late@10") / "checkpoints"
    assert sorted(p.name for p in own.glob("[0-9]*")) == ["20", "30"]
    ledger = json.loads((trained / "without/late@10/ledger.json").read_text())
    assert ledger["tokens"] == 20 * 4 * 32
    assert Workdir(trained).runs()[2:4] == ["control@20", "run@20"]
    assert Workdir(trained).seeds() == [0]
    status.main([str(trained)])
    out = capsys.readouterr().out
    assert "  without/late@10 " in out and "ttoaa.train" not in out and "ttoaa.evaluate" not in out


def test_it_resumes_from_its_own_checkpoint_without_the_other_run(trained, tmp_path, capsys):
    workdir = studies.copy(trained, tmp_path / "work", "plan", "control", "run", "without")
    own = workdir / "without/late@10"
    (own / "finished.json").unlink()
    for folder in (own / "checkpoints/30", workdir / "run/checkpoints/10"):
        shutil.rmtree(folder)
    assert studies.main(train, workdir, "--run=without/late@10") == 0
    assert studies.same_bits(
        *(studies.params(each, "without/late@10") for each in (workdir, trained))
    )
    shutil.rmtree(own)
    error = studies.main(train, workdir, "--run=without/late@10")
    assert "run/checkpoints has no checkpoint 10 before the end of training, only [20]" in error
    assert "has no checkpoint 30 before" in studies.main(train, workdir, "--run=control@30")
    error = studies.main(train, workdir, "--run=without/nobody@20")
    assert "the study has only the experiments" in error


def test_rows_before_the_branch_are_those_of_the_continued_run(trained):
    made, corpus = Plan.open(trained / "plan"), Corpus.open(trained / "corpus")
    rows = {
        names: TrainedRows(made, corpus, Order(**made.contents["order"]), 0, experiments=names)
        for names in (None, (), ("late",))
    }
    positions, start = np.arange(made.geometry.sequences), 80
    for earlier in (None, ()):
        mixed = dataclasses.replace(rows["late",], start=start, earlier=earlier)
        expected = [rows[earlier].rows(positions[:start]), rows["late",].rows(positions[start:])]
        np.testing.assert_array_equal(mixed.rows(positions), np.concatenate(expected))
        edited = [rows[earlier].edited_rows, rows["late",].edited_rows]
        split = [edited[0][edited[0] < start], edited[1][edited[1] >= start]]
        np.testing.assert_array_equal(mixed.edited_rows, np.concatenate(split))
