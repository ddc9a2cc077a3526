import numpy as np
import pandas as pd
import pytest
from reporting.synthetic import STEPS, Fake, make_study
from scipy import stats

from ttoaa.json_io import read_json
from ttoaa.reporting import page
from ttoaa.reporting.hypothesis_tests import compare_items, compare_studies, parse_margins, write
from ttoaa.statistics.equivalence import binary_equivalence
from ttoaa.statistics.power import paired_effect
from ttoaa.workdir import Workdir

pytestmark = pytest.mark.usefixtures("sketched")

CONDITIONS = ["0x", "4x", "16x"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, tests.json by key) of a study with effects, against one of smaller effects."""
    folder, other = tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("other")
    experiments = make_study(folder, {"a": CONDITIONS, "b": CONDITIONS}, seeds=(0, 1, 2))
    alone = make_study(other, {"a": CONDITIONS}, seeds=(0, 1), effect=0.02)
    for root, ones in ((folder, experiments), (other, alone)):
        page.write(root, "x", ones)
    return folder, read_json(write(folder, experiments, set(), {"accuracy": 0.5, "loss": 1}, other))


def row_of(rows, **keys):
    (row,) = [row for row in rows if all(row[k] == v for k, v in keys.items())]
    return row


def test_items_are_tested_against_independent_references(made):
    folder, found = made
    assert len(found["items"]) == 3 * 2 * 2 * 3
    tables = [
        pd.read_parquet(Workdir(folder, 1).table(kind, STEPS, "b")).query("condition == '16x'")
        for kind in ("run", "control")
    ]
    loss = [t[t["outcome"] == "loss"]["value"].to_numpy() for t in tables]
    row = row_of(found["items"], seed=1, experiment="b", outcome="loss", condition="16x")
    gain = loss[1] - loss[0]  # expected to fall
    t_test = stats.ttest_1samp(gain, 0)
    assert row["n"] == 30 and row["difference"] == pytest.approx(gain.mean())
    assert row["z"] == pytest.approx(t_test.statistic, rel=0.01)
    assert row["detectable"] == pytest.approx(paired_effect(gain.std(ddof=1), 30))
    assert row["p"] == row["p_experiment"] == 1e-4, "no permutation is as extreme"
    assert row["p_equivalence"] < 1e-6 and row["low"] < 0.4 < row["high"] < 1
    right = [t[t["outcome"] == "accuracy"]["value"].to_numpy() for t in tables]
    row = row_of(found["items"], seed=1, experiment="b", outcome="accuracy", condition="16x")
    assert row["p_equivalence"] == pytest.approx(binary_equivalence(*right, 0.5).p)
    assert row["p"] == pytest.approx(
        stats.wilcoxon(*right, method="approx", zero_method="zsplit").pvalue, abs=0.02
    )


def test_outcomes_that_only_serve_others_are_left_out():
    experiment = Fake("a", "loss/x", -1)
    table = pd.DataFrame({"item": [*"abcdef"] * 2, "condition": "x",
                          "outcome": ["loss"] * 6 + ["raw"] * 6, "value": range(12)})  # fmt: skip
    rows = compare_items(experiment, table, table.assign(value=2.5), {})
    assert [(row["outcome"], row["difference"]) for row in rows] == [("loss", 0.0)]


def test_items_of_one_group_count_as_one():
    experiment = Fake("a", "loss/x", -1)
    rng = np.random.default_rng(0)
    values, group = np.repeat(rng.normal(size=6), 50), np.repeat(np.arange(6), 50)
    table = pd.DataFrame({"item": np.arange(300), "condition": "x", "outcome": "loss",
                          "value": values, "group": group})  # fmt: skip
    control = table.assign(value=0.0)
    (row,) = compare_items(experiment, table, control, {})
    (alone,) = compare_items(experiment, table.drop_duplicates("group"), control, {})
    assert row == pytest.approx(alone) and row["n"] == 6
    assert row["p"] > 0.02, "of 64 signs of six groups"
    assert compare_items(experiment, table[table["group"] > 0], control, {}) == []


def test_p_values_are_adjusted_over_the_experiment_and_the_study(made):
    _, found = made
    rows = [row for row in found["items"] if row["seed"] == 0]
    p = np.array([row["p"] for row in rows])
    assert [row["q_study"] for row in rows] == pytest.approx(stats.false_discovery_control(p))
    assert min(row["p_study"] for row in rows) == pytest.approx(len(rows) * p.min())
    assert all(row["p"] <= row["p_experiment"] + 0.01 for row in rows)
    null = row_of(rows, experiment="a", outcome="loss", condition="0x")
    assert null["p_experiment"] > 0.05 and null["p_study"] > 0.05


def test_studies_are_compared_by_seed(made):
    folder, found = made
    assert len(found["studies"]) == 2 * 3, "the other study does not have b"
    row = row_of(found["studies"], experiment="a", outcome="loss", condition="16x")
    ours = [r["difference"] for r in read_json(Workdir(folder).summary)
            if (r["experiment"], r["outcome"], r["condition"]) == ("a", "loss", "16x")
            and r["seed"] != "all"]  # fmt: skip
    assert row["seeds"] == [3, 2] and row["difference"] == pytest.approx(
        np.mean(ours) - 0.04, abs=0.03
    )
    assert row["p"] == pytest.approx(0.1, abs=0.02), (
        "the most extreme of ten ways to label five seeds"
    )
    assert row["p_equivalence"] < 0.05 and 0 < row["detectable"] < 0.3
    with pytest.raises(ValueError, match=r"needs two seeds in each .* not 1 and 3 seeds"):
        one = [dict(row, seed=0) for row in found["items"] if row["seed"] == 0]
        compare_studies(one, found["items"], {})


def test_what_cannot_be_tested_is_named(tmp_path):
    experiments = make_study(tmp_path, {"a": CONDITIONS})
    with pytest.raises(ValueError, match=r"other/summary\.json is missing"):
        write(tmp_path, experiments, set(), {}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"such as accuracy=0\.05, not accuracy"):
        parse_margins(["accuracy"])
    assert parse_margins(["accuracy=0.05", "loss=1"]) == {"accuracy": 0.05, "loss": 1.0}
