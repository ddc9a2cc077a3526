"""The notebooks: clean in git, and every cell runs on a small study and draws what can be read."""

import json
import re
import shlex
import sys

import notebook_cells
import numpy as np
import pytest
import studies
from absl import flags
from absl.testing import flagsaver
from interactions.effect_frames import effects

from ttoaa import config, new_experiment, plan, prepare, study
from ttoaa.interactions import results

sys.path.append(str(notebook_cells.FOLDER))
import clean

CONFIGS = notebook_cells.FOLDER.parent / "configs"
NAMES = sorted(path.stem for path in notebook_cells.FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_without_outputs_and_with_the_common_first_cell(name):
    path = notebook_cells.FOLDER / f"{name}.ipynb"
    cleaned = clean.clean(path.name, json.loads(path.read_text()))
    assert path.read_text() == clean.to_text(cleaned), "run python notebooks/clean.py"
    assert cleaned["cells"][1]["cell_type"] == "code"


def test_an_address_in_setup_gives_badges_and_what_to_install(monkeypatch):
    monkeypatch.setattr(clean, "repository", lambda: "https://github.com/someone/ttoaa")
    once = clean.clean("learning.ipynb", notebook_cells.read("learning"))
    assert clean.clean("learning.ipynb", once) == once
    badge, setup = ("".join(cell["source"]) for cell in once["cells"][:2])
    assert "/github/someone/ttoaa/blob/main/notebooks/learning.ipynb)" in badge
    assert 'SOURCE = "git+https://github.com/someone/ttoaa"' in setup


def test_the_readme_lists_every_notebook():
    text = (notebook_cells.FOLDER / "README.md").read_text()
    assert set(re.findall(r"\((\w+)\.ipynb\)", text)) == set(NAMES)


def no_command(line):
    raise AssertionError(f"a finished study needs no command: {line}")


def test_the_dependence_notebook_makes_the_matrix_if_there_is_none(finished):
    asked = []
    with pytest.raises(FileNotFoundError, match=r"dependence\.json"):
        [*notebook_cells.run("dependence", asked.append, WORKDIR=str(finished[0]))]
    _, *command = shlex.split(asked[0])
    assert command == ["-m", "ttoaa", "dependence", f"--workdir={finished[0]}", "--checkpoints=200"]
    quickstart = config.load([CONFIGS / "quickstart.gin"])[0]
    assert 200 in quickstart.training.checkpoint_steps(quickstart.geometry.steps)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("learning", 3),
        ("memorization", 3),
        ("forgetting", 2),
        ("dependence", 3),
        ("training_dynamics", 3),
    ],
)
def test_a_notebook_reads_a_finished_study(finished, name, figures):
    workdir, _ = finished
    if name == "dependence":
        results.write(workdir, effects(n=3, planted=[("alone/e0", "e1", 3.0)]))
    drawn = 0
    for _, found in notebook_cells.run(name, no_command, WORKDIR=str(workdir)):
        for figure in found:
            notebook_cells.check_figure(figure)
        drawn += len(found)
    assert drawn == figures


SMALL = [
    "Prepare.source = @TextFiles()",
    "TextFiles.paths = ['text.txt']",
    "TextFiles.separator = '\\n'",
    "Prepare.reserve_fraction = 0.3",
    "TrainBPE.vocab_size = 320",
    "TrainBPE.reserved = 32",
    "PhoneCalls.people = 6",
    "PhoneCalls.repetitions = (0, 2, 4)",
    "PhoneCalls.primary = 'log_likelihood_above_holdout/4x'",
    # The shapes and constants of `studies.GIN`, whose compiled programs other tests need as well.
    "Geometry.length = 32",
    "Geometry.batch = 4",
    "Geometry.steps = 30",
    "DecoderConfig.vocab_size = 320",
    "DecoderConfig.layers = 1",
    "DecoderConfig.width = 16",
    "DecoderConfig.hidden = 32",
    "DecoderConfig.init_std = 0.02",
    "Study.validation_sequences = 4",
    "Training.checkpoint_every = 30",
    "ConstantLinear.peak = 1e-2",
    "ConstantLinear.warmup = 4",
    "ConstantLinear.decay = 0.1",
]


@pytest.mark.usefixtures("sketched")
def test_the_own_experiment_is_written_planned_trained_and_read(tmp_path, monkeypatch):
    words = np.random.default_rng(0).choice(["The", "phone", "number", "of", "is"], (200, 30))
    (tmp_path / "text.txt").write_text("\n".join(" ".join(line) for line in words.tolist()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(study, "_Runner", studies.InThisProcess)
    modules = {"prepare": prepare, "plan": plan, "study": study}
    ran = []

    def shell(line):
        python, m, package, command, *more = shlex.split(line)
        assert [python, m, package] == [sys.executable, "-m", "ttoaa"]
        ran.append(command)
        if command == "new-experiment":
            with flagsaver.flagsaver():
                flags.FLAGS(["new-experiment", "--workdir=unused"])
                new_experiment.main([command, *more])
            return
        workdir, *more = more
        assert studies.main(modules[command], workdir.partition("=")[2], *more) in (0, None)

    try:
        shown = [*notebook_cells.run("own_experiment", shell, BINDINGS=SMALL)]
    finally:
        sys.modules.pop("phone_calls", None)
    assert ran == ["new-experiment", "prepare", "plan", "plan", "study"]
    assert sum(len(figures) for _, figures in shown) == 2
    assert (tmp_path / "runs/phone-calls/report.html").exists()
