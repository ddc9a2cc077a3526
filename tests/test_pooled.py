"""Experiments of another package: found by its name in every command, and named where missing."""

import pathlib
import re
import sys

import pytest
import studies

from ttoaa import config, evaluate
from ttoaa.gin_files import locate
from ttoaa.parquet_io import read_outcomes
from ttoaa.workdir import Workdir

SPELLING = """
import dataclasses
import gin
from fakes import HeldOut


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Spelling(HeldOut):
    pass
"""
GIN = """
import lab_a.spelling

Spelling.name = 'spelling'
Spelling.group = 'lab-a'
"""
POOLED = """
include 'config.gin'
include 'lab_a/spelling.gin'

Study.experiments = [@planted/Planted(), @late/Planted(), @Forgetting(), @Spelling()]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the packages lab_a and lab_b, from which modules are imported."""
    folder = tmp_path_factory.mktemp("site")
    for package, module in (("lab_a", "spelling"), ("lab_b", "counting")):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        for name, text in ((f"{module}.py", SPELLING), (f"{module}.gin", GIN)):
            for old, new in (("lab_a", package), ("lab-a", package.replace("_", "-"))):
                text = text.replace(old, new)
            text = text.replace("spelling", module).replace("Spelling", module.capitalize())
            (folder / package / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("lab_a", "lab_b")]:
        del sys.modules[name]


def test_an_experiment_of_another_package_is_found_in_every_command(site, finished, tmp_path):
    """It only measures, so the runs are there already."""
    parts = ("plan", "control", "run", "tables")
    root = studies.copy(finished[0], tmp_path / "study", *parts)
    (root / "pooled.gin").write_text(POOLED)
    chosen = ["--experiments=spelling", "--steps=30"]
    assert studies.main(evaluate, root, f"--gin_file={root / 'pooled.gin'}", *chosen) == 0
    table = read_outcomes(Workdir(root).table("run", 30, "spelling"))
    assert len(table) == 4 and {*table["outcome"]} == {"log_likelihood"}

    # The folder alone is enough from now on, in other processes too, where the package is.
    text = (root / "config.gin").read_text()
    assert "import lab_a.spelling" in text and "lab_a/spelling.gin sha256" in text
    path = f"{studies.PYTHONPATH}:{site}"
    code, printed, _ = studies.run("status", root, env={"PYTHONPATH": path})
    assert code == 0 and "spelling is not in the plan: it inserts nothing" in printed
    code, _, error = studies.run("status", root)
    missing = (
        "No module named 'lab_a': install the package that has it on this machine, or run from"
    )
    assert code == 1 and error.startswith(f"status: bad config: {missing} its folder (file ")
    assert error.count("\n") == 1


def test_the_config_of_the_guide_is_one_of_two_packages(site, tmp_path):
    guide = pathlib.Path(__file__).parents[1] / "docs/pooled.md"
    (block,) = re.findall(r"^```gin\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "pooled.gin").write_text(block)
    study, resolved = config.load([tmp_path / "pooled.gin"])
    assert [(e.name, e.group) for e in study.experiments] == [
        ("spelling", "lab-a"),
        ("counting", "lab-b"),
    ]
    assert "import lab_a.spelling" in resolved and "import lab_b.counting" in resolved


def test_only_regular_packages_are_searched(site, tmp_path, monkeypatch):
    monkeypatch.chdir(site)
    (site / "plain").mkdir()
    (site / "plain" / "part.gin").touch()
    for name in ("plain/part.gin", "lab_a/none.gin", "no_such_package/part.gin"):
        (tmp_path / "study.gin").write_text(f"include '{name}'\n")
        with pytest.raises(ValueError, match=f"includes '{name}', which is neither in"):
            config.load([tmp_path / "study.gin"])
    assert locate("lab_a/spelling.gin") == site / "lab_a/spelling.gin"
