"""What is preregistered, when it may be, and which later changes the report names."""

import dataclasses
import importlib
import json
import pathlib
import shutil

import pytest
import studies

from ttoaa import config, preregister
from ttoaa.checksums import write_record
from ttoaa.experiments import watermark
from ttoaa.reporting import preregistration
from ttoaa.reporting.preregistration import compare
from ttoaa.statistics.run_equivalence import RunComparison
from ttoaa.training.init_from import InitFrom
from ttoaa.training.run_records import read_provenance
from ttoaa.workdir import Workdir


@pytest.fixture
def registered(finished, tmp_path, capsys):
    """(study, folder) of two planned seeds that were preregistered, and nothing trained."""
    root = studies.copy(finished[0], tmp_path / "study", "plan", "plan-s1")
    assert studies.main(preregister, root) == 0
    assert "log_likelihood/4x rises by more than 0" in capsys.readouterr().out
    return config.load([root / "config.gin"])[0], root


def with_first(study, **changes):
    first, *rest = study.experiments
    return dataclasses.replace(study, experiments=(dataclasses.replace(first, **changes), *rest))


def test_it_holds_what_decides_and_is_written_once(registered, capsys):
    study, root = registered
    path = Workdir(root).preregistration
    before = path.read_bytes()
    made = json.loads(before)
    assert made["plans"].keys() == {"0", "1"} and "smallest_effect" in made["rule"]
    assert made["experiments"]["planted"]["primary"] == "log_likelihood/4x"
    assert studies.main(preregister, root) == 0
    assert path.read_bytes() == before
    wanted = f"(sha256 {made['sha256']}): the analysis matches it in every point."
    (line,) = compare(study, root, [0, 1])
    assert line == f"Preregistered on {made['written']} {wanted}"
    margins = "RunComparison.margins = {'validation_loss': 0.2}"
    more = [f"--gin_bindings={line}" for line in ("Study.comparison = @RunComparison()", margins)]
    assert "exists, with another content (margins: " in studies.main(preregister, root, *more)
    path.write_text(before.decode().replace("planted", "plonted"))
    with pytest.raises(ValueError, match=r"preregistration\.json is damaged: its checksum"):
        compare(study, root, [0, 1])


def test_every_change_of_the_analysis_is_named(registered):
    study, root = registered
    changes = {
        "experiments: planted.smallest_effect was 0.0, and is now 0.1.": (
            with_first(study, smallest_effect=0.1),
            [0, 1],
        ),
        "experiments: planted.primary was log_likelihood/4x, and is now log_likelihood/1x.": (
            with_first(study, primary="log_likelihood/1x"),
            [0, 1],
        ),
        "experiments: late was present, and is now absent.": (
            dataclasses.replace(study, experiments=study.experiments[::2]),
            [0, 1],
        ),
        "margins: margins.validation_loss was absent, and is now 0.2.": (
            dataclasses.replace(study, comparison=RunComparison({"validation_loss": 0.2})),
            [0, 1],
        ),
        "plans: 1 was": (study, [0]),
        "model_and_training was": (
            dataclasses.replace(study, model=dataclasses.replace(study.model, layers=2)),
            [0, 1],
        ),
    }
    other = dataclasses.replace(study, init_from=InitFrom("another/model"))
    assert compare(other, root, [0, 1])[1].startswith("model_and_training was")
    for start, (changed, seeds) in changes.items():
        first, *lines = compare(changed, root, seeds)
        assert "the analysis differs from it in" in first
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert len(compare(with_first(study, group="lab-a"), root, [0, 1])) == 1


def test_the_source_is_that_of_the_package_of_the_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for package, text in (("first", "A = 1"), ("again", "A = 1"), ("changed", "A = 2")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "helper.py").write_text(text)
        (tmp_path / package / "__init__.py").write_text("from . import helper")
        mine = "from ttoaa.experiments.base import Experiment\nclass Mine(Experiment): ...\n"
        (tmp_path / package / "mine.py").write_text(mine)
        module = importlib.import_module(f"{package}.mine")
        found.append(preregistration._source(module.Mine))
    assert found[0] == found[1] != found[2] and all(found)
    assert preregistration._files(watermark.__name__) == [pathlib.Path(watermark.__file__)]


def test_uncommitted_changes_of_the_code_are_named(registered, monkeypatch):
    study, root = registered
    made = json.loads(Workdir(root).preregistration.read_text())["code"]
    dirty = made | {"git_dirty": not made["git_dirty"]}
    monkeypatch.setattr(preregistration, "code_version", lambda: dirty)
    assert "with uncommitted changes" in compare(study, root, [0, 1])[-1]


def test_a_run_that_began_before_it_gives_it_away(registered, finished, tmp_path):
    study, root = registered
    shutil.copytree(finished[0] / "control", root / "control")
    lines = compare(study, root, [0, 1])
    assert lines[1:] == ["The run control began without this preregistration."]
    sha256 = json.loads(Workdir(root).preregistration.read_text())["sha256"]
    run = Workdir(root).run("control")
    write_record(run / "provenance.json", read_provenance(run) | {"preregistration": sha256})
    assert len(compare(study, root, [0, 1])) == 1

    (run / "provenance.json").unlink()
    assert compare(study, root, [0, 1])[1:] == lines[1:]

    late = studies.copy(finished[0], tmp_path / "late", "plan", "run")
    (late / "run" / "provenance.json").unlink()
    wrong = studies.main(preregister, late)
    assert "run has begun training: a preregistration comes before every run" in wrong
    assert not Workdir(late).preregistration.exists()
    assert compare(study, late, [0])[0].startswith("This study was not preregistered")
