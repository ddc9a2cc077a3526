"""The guide's example is a working experiment: what it shows is run here."""

import dataclasses
import pathlib
import re
import sys
import types

import gin
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.planning.placement import Uniform, Within

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "configs/quickstart.gin"
GUIDE = (ROOT / "docs/extending/experiment.md").read_text(encoding="utf-8")
MODULE = "ttoaa.experiments.phone_numbers"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def study_of():
    """Loads the guide's config number k, with its file in place of the module that it names."""
    module = types.ModuleType(MODULE)
    with pytest.MonkeyPatch.context() as patch, gin.unlock_config():
        patch.setitem(sys.modules, MODULE, module)
        exec(compile(blocks("python")[0], "phone_numbers.py", "exec"), module.__dict__)

        def load(number, folder, bindings=()):
            text = blocks("gin")[number]
            (folder / "study.gin").write_text(text)
            return config.load([folder / "study.gin"], bindings)[0]

        yield load


def test_the_config_adds_one_experiment_to_the_quickstart(study_of, tmp_path):
    quickstart, _ = config.load([QUICKSTART])
    study = study_of(0, tmp_path)
    assert study.experiments[:-1] == quickstart.experiments
    assert study.experiments[-1].name == "phone-numbers"


def test_the_short_run_is_a_valid_study(study_of, tmp_path):
    bindings = re.findall(r"--gin_bindings='(.*?)'", GUIDE)
    study = study_of(0, tmp_path, bindings)
    assert study.geometry.steps == 150 and study.model.layers == 1


def test_it_runs_alone_or_next_to_those_of_the_quickstart(study_of, tmp_path):
    counts = [len(study_of(number, tmp_path).experiments) for number in (0, 1, 2)]
    assert counts == [11, 1, 12]


def test_one_class_runs_twice_under_two_names(study_of, tmp_path):
    whole, early = study_of(2, tmp_path).experiments[-2:]
    assert (whole.name, early.name) == ("phone-numbers", "phone-numbers-early")
    assert (whole.placement, early.placement) == (Uniform(), Within(0.0, 0.25))


def test_the_experiment_plans_scores_and_draws(study_of, tmp_path, plan_of):
    experiment = dataclasses.replace(
        study_of(0, tmp_path).experiments[-1],
        people=3,
        repetitions=(0, 2),
        primary="log_likelihood_above_holdout/2x",
    )
    plan = plan_of([experiment], geometry=Geometry(length=64, batch=8, steps=20))
    items = plan.items(experiment.name)
    assert [arm["name"] for arm in plan.arms] == ["phone-numbers/2x"]
    assert plan.arms[0]["edits"] == 6 and len(items) == 6

    run, control = (experiment.outcome(FakeScorer(items, gain)) for gain in (1.0, 0.0))
    estimates = experiment.estimates(run, control)
    assert [(e.outcome, e.condition) for e in estimates] == [
        ("log_likelihood", "0x"),
        ("log_likelihood", "2x"),
        ("log_likelihood_above_holdout", "2x"),
    ]
    assert estimates[-1].difference > 0 and estimates[0].difference == 0
    rows = pd.DataFrame([dataclasses.asdict(e) for e in estimates]).assign(seed=0, step=7)
    axes = Figure().add_subplot()
    experiment.figure(rows, axes)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [estimates[-1].difference])


@dataclasses.dataclass
class FakeScorer:
    """Gives every token of an inserted number `gain`, and none to a held-out one."""

    items: pd.DataFrame
    gain: float

    def log_likelihood(self, requests):
        inserted = self.items["repetitions"] > 0
        return [
            np.full(len(tokens) - start, -2.0 + self.gain * known)
            for (tokens, start), known in zip(requests, inserted, strict=True)
        ]
