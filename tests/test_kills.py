"""Part of the kill matrix (kills.py), and a run that goes on on other devices and processes."""

import numpy as np
import pytest
import studies
from interrupted import JAXS, Interrupted, Kill, Study


@pytest.fixture(scope="module")
def study(corpus_prepare, corpus_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("kills")
    return Study(root, corpus_prepare.source.paths, corpus_folder)


def test_killed_and_started_again_it_ends_in_the_same_bits(study):
    """Two processes; one alone is killed in test_train.py and test_controlled.py."""
    told = study.run("in pairs", Interrupted((Kill("commit before"),), processes=2))
    assert set(told["same"].values()) == {True} and told["good"], told
    (kill,) = told["kills"]
    assert kill["left"] == {"checkpoints": [], "other": ["4.orbax-checkpoint-tmp"]}
    assert "lost another process of the run" in kill["told"][0] or JAXS in kill["told"][0]


def losses(lines):
    names = ("loss", "validation_loss")
    return [line[name] for line in lines["metrics"] for name in names if name in line]


def test_begun_on_8_devices_gone_on_by_2_processes_and_ended_on_1_device(study):
    """Sums over rows and width are taken in other orders; a loss is about 5."""
    folder = study.folder("elsewhere")
    killed = [
        study.killed(folder, 1, Kill("commit after"), devices=8, fsdp=4, tensor=2),
        study.killed(folder, 2, Kill("commit after"), fsdp=2),
    ]
    (end,) = study.ends(study.start(folder, 1))
    assert [kill["good"] for kill in killed] == [True, True] and end["code"] == 0, (killed, end)
    moved = [
        line for line in (*killed[1]["told"], *end["told"]) if "resumes on another topology" in line
    ]
    assert len(moved) == 2
    assert "devices 8 → 2" in moved[0] and "processes 1 → 2" in moved[0]
    assert "devices 2 → 1" in moved[1] and "processes 2 → 1" in moved[1]
    whole = study.uninterrupted(1)
    ours, theirs = (studies.records(path / "control") for path in (folder, whole))
    np.testing.assert_allclose(losses(ours), losses(theirs), rtol=1e-5)
    assert [x["step"] for x in ours["arms"]] == [x["step"] for x in theirs["arms"]]
