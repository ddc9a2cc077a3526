"""`ttoaa new-experiment`: what it writes is an experiment that loads, plans and passes its test."""

import dataclasses
import importlib
import inspect
import re
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from ttoaa import config, new_experiment
from ttoaa.data.geometry import Geometry


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, from which modules are imported, as the commands have it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("my_study", "test_radio_calls", "radio_calls"):
            del sys.modules[name]


def write(*names, folder="."):
    with flagsaver.flagsaver():
        flags.FLAGS(["new-experiment", "--workdir=unused", f"--folder={folder}"])
        new_experiment.main(["new-experiment", *names])


def test_what_it_writes_plans_and_passes_its_own_test(here, plan_of, capsys, tmp_path_factory):
    write("radio-calls", folder="my_study")
    made = {path.name for path in (here / "my_study").iterdir()}
    assert made == {"radio_calls.py", "radio_calls.gin", "test_radio_calls.py"}
    printed = capsys.readouterr().out
    assert "python -m pytest my_study/test_radio_calls.py\n" in printed
    (command,) = re.findall(r"ttoaa study (.*)", printed)
    text = (here / "my_study/radio_calls.gin").read_text()
    assert text.count(f"python -m ttoaa.study {command}\n") == 1
    assert all(word in text for word in ("# Question: ", "# Hardware: ", "Time: ", "# Expected"))
    code = "".join(path.read_text() for path in (here / "my_study").iterdir())
    assert not re.search("phone[-_]numbers|PhoneNumbers", code)

    study, _ = config.load([here / "my_study/radio_calls.gin"])
    (experiment,) = study.experiments
    assert (study.name, experiment.name) == ("radio-calls", "radio-calls")
    few = {"people": 3, "repetitions": (0, 2), "primary": "log_likelihood_above_holdout/2x"}
    experiment = dataclasses.replace(experiment, **few)
    for wrong in ({"primary": "log_likelihood_above_holdout/3x"}, {"repetitions": (2, 4)}):
        with pytest.raises(ValueError, match="repetitions must have 0 and those of"):
            dataclasses.replace(experiment, **wrong)
    plan = plan_of([experiment], geometry=Geometry(length=64, batch=8, steps=20))
    assert [(arm["name"], arm["edits"]) for arm in plan.arms] == [("radio-calls/2x", 6)]
    assert len(plan.items("radio-calls")) == 6

    module = importlib.import_module("my_study.test_radio_calls")
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 3
    for number, test in enumerate(tests):
        folder = tmp_path_factory.mktemp(f"own-{number}")
        test(*[folder] * len(inspect.signature(test).parameters))


@pytest.mark.parametrize(
    ("names", "folder", "message"),
    [
        ([], ".", "give one NAME"),
        (["Radio Calls"], ".", "'Radio Calls'"),
        (["radio", "calls"], ".", "'radio calls'"),
        (["radio_calls_"], ".", "'radio_calls_'"),
        (["random"], ".", "'random' is a Python module already"),
        (["numpy"], ".", "'numpy' is a Python module already"),
        (["radio"], "json", "'json' is a Python module already"),
        (["radio"], "my-study", "cannot import a folder named 'my-study'"),
        (["radio"], "..", "--folder=.. must be below"),
        (["canaries"], ".", "Canaries is already a name in ttoaa"),
        (["item"], ".", "Item is already a name in ttoaa"),
        (["sequence"], ".", "Sequence is already a name in ttoaa"),
        (["taken"], ".", "taken.gin exists"),
    ],
)
def test_what_would_not_work_is_refused_and_nothing_is_written(here, names, folder, message):
    (here / "taken.gin").touch()
    with pytest.raises(ValueError, match=re.escape(message)):
        write(*names, folder=folder)
    assert [path.name for path in here.iterdir()] == ["taken.gin"]
