"""The benchmark of a training step with experiments at a tiny size, and its sums by hand."""

import dataclasses

import pytest
from controlled import Steered

from tests.performance import overhead
from ttoaa.study_handle import StudyHandle


def test_ratios_by_hand():
    steps = {"none": 2.0, "edits": 2.2, "slots": 2.4}
    ratios = overhead.step_ratios(steps, controllers=0.1, probes=0.3)
    assert ratios == {"edits": 1.1, "with_controllers": 1.25, "with_probes": 1.25, "all": 1.4}


def test_it_times_steps_decisions_and_probes(tiny_study, make_workdir, tmp_path):
    experiments = (tiny_study.experiments[0], Steered("steered", intervals=10))
    handle = StudyHandle(dataclasses.replace(tiny_study, experiments=experiments), make_workdir())
    handle.make_plan()
    found = overhead.measure(handle, tmp_path, repeats=3)
    assert found["repeats"] == 3 and found["experiments"] == 2 and 0 < found["edited_share"] < 1
    for statistic in (found, found["medians"]):
        ms, ratio = statistic["ms"], statistic["ratio"]
        assert all(value > 0 for value in ms.values())
        assert ratio["all"] > ratio["with_controllers"]
        assert ratio["with_probes"] > ratio["edits"]
        assert ratio["edits"] == pytest.approx(ms["edits"] / ms["none"], rel=0.05)
