"""A tiny study of knowledge acquisition from text to report, by the real commands."""

import json

import pytest
import studies

from ttoaa import evaluate, plan, prepare, report, train
from ttoaa.parquet_io import read_outcomes
from ttoaa.planning import controller_log
from ttoaa.workdir import Workdir

EXPERIMENT = """
import ttoaa.experiments.acquisition
Geometry.length = 96
Training.checkpoint_every = 15
Study.experiments = [@Acquisition()]
Acquisition.name = 'knowledge'
Acquisition.primary = 'log_rmse/controlled'
Acquisition.expected_sign = -1
Acquisition.every = 5
Acquisition.entities = 2
Acquisition.held_out = 2
Acquisition.new_tokens = 4
Acquisition.policies = [@Proportional(), @Doubling(), @FixedRate(), @UntilAcquired()]
Acquisition.knowledge = @GeneratedKnowledge()
GeneratedKnowledge.facts = 1
GeneratedKnowledge.framed = False
GeneratedKnowledge.paraphrases = 8
GeneratedKnowledge.name_syllables = 2
GeneratedKnowledge.value_syllables = 2
Proportional.most = 8
Doubling.most = 8
FixedRate.tokens = 500
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory, corpus_prepare):
    folder = tmp_path_factory.mktemp("acquisition")
    shared = studies.GIN[: studies.GIN.index("planted/Planted.name")]
    shared = "".join(
        line
        for line in shared.splitlines(keepends=True)
        if not line.startswith(("Study.experiments", "Geometry.length", "Training.checkpoint"))
        and "forgetting" not in line
    )
    paths = f"TextFiles.paths = {list(corpus_prepare.source.paths)!r}\n"
    (folder / "study.gin").write_text(shared + EXPERIMENT + paths)
    work = folder / "work"
    assert studies.main(prepare, work, f"--gin_file={folder / 'study.gin'}") == 0
    stages = [(train, "--run=control"), (plan,), (train, "--run=run"), (evaluate,), (report,)]
    for module, *options in stages:
        assert studies.main(module, work, *options) == 0
    return Workdir(work)


def test_the_run_did_what_was_decided(made):
    lines = controller_log.read_log(made.run("run") / controller_log.LOG_NAME)
    assert [line["interval"] for line in lines if line["slots"] == "fixed"] == list(range(6))
    control = controller_log.read_log(made.run("control") / controller_log.LOG_NAME)
    assert len(control) == len(lines) == 6 * 5
    assert all(line["chosen"] is None for line in control)
    assert [a["log_p"] for a in lines[:5]] == [b["log_p"] for b in control[:5]]  # at step 0
    table = read_outcomes(made.table("run", 30, "knowledge"))
    for arm in ("controlled", "doubling", "fixed", "until"):
        chosen = sum(len(line["chosen"]) for line in lines if line["slots"] == arm)
        told = table[(table["condition"] == arm) & (table["outcome"] == "exposures")]
        assert told["value"].sum() == chosen > 0
    metrics = (made.run("run") / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) >= 30


def test_its_estimates_reach_the_report(made):
    rows = json.loads(made.summary.read_text())
    found = {(row["outcome"], row["condition"]): row for row in rows}
    assert found["log_rmse", "controlled"]["primary"]
    assert found["value_at", "never@25"]["value"] > 0
    assert found["at_least", "doubling"]["n"] == 2
    assert "knowledge" in made.report.read_text()
