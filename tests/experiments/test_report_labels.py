"""Words of the report: every outcome of the shipped studies has a title; conditions read well."""

import pathlib

import pytest

from ttoaa import config
from ttoaa.experiments.report_labels import PERCENT, Label, ReportLabels

LABELS = ReportLabels(
    outcomes={"accuracy": Label("accuracy", PERCENT), r"auc_(\w+)": Label(r"AUC by \1", help="h")},
    conditions={r"(\d+)x": r"\1 copies", r"op-(\d+)": r"\1 operations"},
    curves=(r"auc_\w+/.*@\d+",),
)


def test_patterns_name_outcomes_conditions_and_curves():
    assert (LABELS.outcome("accuracy").scale, LABELS.outcome("accuracy").unit_of_differences) == (
        100,
        "points",
    )
    assert LABELS.outcome("auc_min_k").title == "AUC by min k"
    assert LABELS.outcome("other_one") == Label("other one")
    names = [LABELS.condition(name) for name in ("1x", "11x", "op-1", "held_out")]
    assert names == ["1 copy", "11 copies", "1 operation", "held out"]
    assert LABELS.on_curve("auc_loss", "low@10") and not LABELS.on_curve("accuracy", "low@10")


@pytest.mark.parametrize("name", ["all_ten.gin", "olmo2_1b_exp.gin"])
def test_every_outcome_of_the_shipped_studies_is_labelled(name):
    study, _ = config.load([pathlib.Path(name)])
    for experiment in study.experiments:
        labels = experiment.labels
        assert labels.question.endswith("?") and labels.method and labels.caption, experiment.name
        for outcome in experiment.signs:
            label = labels.outcome(outcome)
            assert label != Label(outcome.replace("_", " ")), (experiment.name, outcome)
            assert "_" not in label.title, (experiment.name, outcome)
