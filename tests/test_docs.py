"""The guide's example is a working experiment: what it shows is run here."""

import pathlib
import re
import sys
import types

import gin
import pytest

from ttoaa import config
from ttoaa.planning.placement import Uniform, Within

ROOT = pathlib.Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "configs/quickstart.gin"
GUIDE = (ROOT / "docs/extending/experiment.md").read_text(encoding="utf-8")
MODULE = "phone_numbers"


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
    study = study_of(1, tmp_path)
    assert study.experiments[:-1] == quickstart.experiments
    assert study.experiments[-1].name == "phone-numbers"


def test_the_short_run_is_a_valid_study(study_of, tmp_path):
    bindings = re.findall(r"--gin_bindings='(.*?)'", GUIDE)
    study = study_of(1, tmp_path, bindings)
    assert study.geometry.steps == 150 and study.model.layers == 1


def test_it_runs_alone_or_next_to_those_of_the_quickstart(study_of, tmp_path):
    counts = [len(study_of(number, tmp_path).experiments) for number in (0, 1, 2)]
    assert counts == [1, 11, 12]


def test_one_class_runs_twice_under_two_names(study_of, tmp_path):
    whole, early = study_of(2, tmp_path).experiments[-2:]
    assert (whole.name, early.name) == ("phone-numbers", "phone-numbers-early")
    assert (whole.placement, early.placement) == (Uniform(), Within(0.0, 0.25))
