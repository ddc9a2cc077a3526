import numpy as np
import pandas as pd
import pytest

from ttoaa.reporting.frames import (
    StudyFrames,
    above_held_out,
    by_lag,
    by_period,
    by_repetitions,
)


@pytest.fixture(scope="module")
def study(finished):
    return StudyFrames(finished[0])


NUMBERS = ["difference", "low", "high"]
KEYS = ["outcome", "condition"]


def test_the_last_estimates_are_those_of_the_summary(study):
    last = study.estimates().query("step == @study.steps[-1]").set_index(["experiment", *KEYS])
    rows = study.summary.query("seed == 'all'").set_index(["experiment", *KEYS])
    assert set(study.estimates()["step"]) == set(study.steps) == {10, 20, 30}
    pd.testing.assert_frame_equal(last[NUMBERS], rows[NUMBERS].loc[last.index])


def test_groups_by_condition_have_the_estimates_of_the_experiment(study):
    gains = study.gains("planted", "log_likelihood")
    found = study.compare_groups(gains, by="condition").set_index([*KEYS, "step"])
    estimates = study.estimates("planted").set_index([*KEYS, "step"])
    pd.testing.assert_frame_equal(found[NUMBERS], estimates[NUMBERS].loc[found.index])
    inserted = gains[gains["repetitions"] > 0]
    assert (inserted["first_copy"] <= inserted["last_copy"]).all()
    assert gains.loc[gains["repetitions"] == 0, "last_copy"].isna().all()
    assert inserted["text"].str.len().min() > 0


def test_items_of_the_other_sign_gain_when_they_fall(study):
    gains = study.gains("forgetting", "cross_entropy")
    assert gains["difference"].equals(gains["control_value"] - gains["value"])


def test_what_held_out_items_gain_is_subtracted_from_those_of_their_kind(study):
    gains = by_repetitions(study.gains("planted", "log_likelihood"))
    above = above_held_out(gains.assign(sign=-1, difference=-gains["difference"]))
    means = above.groupby(["seed", "step", "repetitions"])["difference"].mean().unstack()
    before = -gains.groupby(["seed", "step", "repetitions"])["difference"].mean().unstack()
    np.testing.assert_allclose(means, before.sub(before[0], axis=0), atol=1e-9)
    np.testing.assert_allclose(above["difference"], above["control_value"] - above["value"])
    with pytest.raises(ValueError, match="1x has no held-out items"):
        above_held_out(gains[gains["repetitions"] > 0])


def test_primaries_have_a_placebo_and_a_verdict_for_each_experiment(study):
    found = study.primaries()
    assert set(found["kind"]) == {"run", "placebo"}  # the study has no sham run
    assert list(found.query("kind == 'run'")["experiment"]) == list(study.experiments)
    assert list(study.findings["verdict"]) == list(found.query("kind == 'run'")["verdict"])
    assert study.findings["finding"].str.len().min() > 20


def test_what_does_not_exist_is_refused_in_one_line(study, tmp_path):
    with pytest.raises(ValueError, match="holds no finished study"):
        StudyFrames(tmp_path).estimates()
    assert not StudyFrames(tmp_path).exists and study.exists
    with pytest.raises(ValueError, match="has no experiment 'canaries'"):
        study.estimates("canaries")
    with pytest.raises(ValueError, match=r"no outcome 'x' of single items.*log_likelihood"):
        study.gains("planted", "x")


def test_repetitions_and_series_are_read_from_conditions():
    conditions = ["16x", "0x", "plain-16x", "unlikely-8-4x", "all", "lag-8", "x"]
    rows = pd.DataFrame({"experiment": "a", "condition": conditions})
    found = by_repetitions(rows)
    assert found["condition"].tolist() == ["0x", "unlikely-8-4x", "16x", "plain-16x"]
    assert found["repetitions"].tolist() == [0, 4, 16, 16]
    assert found["series"].tolist() == ["", "unlikely-8", "", "plain"]


def test_lags_that_few_batches_reach_are_left_out():
    rows = pd.DataFrame({"condition": ["lag-8", "lag-0", "lag-32", "lag-32/early", "all"]})
    rows = rows.assign(n=[6, 6, 2, 3, 6], experiment="a", outcome="b", step=30)
    found = by_lag(rows)
    assert found["condition"].tolist() == ["lag-0", "lag-8", "lag-32/early"]
    assert found["series"].tolist() == ["", "", "early"]


def test_periods_hold_items_whose_copies_all_lie_in_one():
    gains = pd.DataFrame({"first_copy": [0, 9, 10, 5, None], "last_copy": [0, 9, 19, 15, None]})
    found = by_period(pd.concat([gains.assign(step=step) for step in (10, 20)]))
    assert found.query("step == 10")["period"].tolist() == [
        *("steps 1 to 10", "steps 1 to 10", "steps 11 to 20")
    ]
    with pytest.raises(ValueError, match="no item has all of its copies"):
        by_period(gains.iloc[3:].assign(step=10))
