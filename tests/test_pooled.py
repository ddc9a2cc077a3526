"""Experiments of another package: found by its name in every command, and named where missing."""

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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package lab_a, from which modules are imported."""
    folder = tmp_path / "site" / "lab_a"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "spelling.py").write_text(SPELLING)
    (folder / "spelling.gin").write_text(GIN)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder.parent
    for name in ("lab_a", "lab_a.spelling"):
        sys.modules.pop(name, None)


def test_an_experiment_of_another_package_is_found_in_every_command(
    package, finished, tmp_path, monkeypatch
):
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
    path = f"{studies.PYTHONPATH}:{package}"
    code, printed, _ = studies.run("status", root, env={"PYTHONPATH": path})
    assert code == 0 and "spelling is not in the plan: it inserts nothing" in printed
    code, _, error = studies.run("status", root)
    assert code == 1 and error == (
        "status: bad config: No module named 'lab_a': install the package that has it on this "
        "machine, or run from its folder\n"
    )


def test_only_regular_packages_are_searched(package, tmp_path, monkeypatch):
    monkeypatch.chdir(package)
    (package / "plain").mkdir()
    (package / "plain" / "part.gin").touch()
    for name in ("plain/part.gin", "lab_a/none.gin", "no_such_package/part.gin"):
        (tmp_path / "study.gin").write_text(f"include '{name}'\n")
        with pytest.raises(ValueError, match=f"includes '{name}', which is neither in"):
            config.load([tmp_path / "study.gin"])
    assert locate("lab_a/spelling.gin") == package / "lab_a/spelling.gin"
