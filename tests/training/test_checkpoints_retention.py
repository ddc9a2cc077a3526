import logging
import pathlib
import shutil

import numpy as np
import pytest
from orbax.checkpoint._src.path import atomicity
from training.saved import meta_of, put

from ttoaa.locks import pin
from ttoaa.training import checkpoints
from ttoaa.training.checkpoint_io import CheckpointError, committed_steps
from ttoaa.training.checkpoints import CheckpointWriter, Keep

TREES = put(({"a": np.arange(6, dtype=np.float32)}, {"count": np.int32(1)}))


def kept(keep, steps, bad=()):
    gone = keep.surplus(steps, lambda step: step not in bad)
    return [step for step in steps if step not in gone]


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(), [1, 2, 3, 4, 5, 6, 7]),
        (Keep(milestones=(3,)), [1, 2, 3, 4, 5, 6, 7]),
        (Keep(last=1), [7]),
        (Keep(last=3), [5, 6, 7]),
        (Keep(last=30), [1, 2, 3, 4, 5, 6, 7]),
        (Keep(every=3), [3, 6, 7]),
        (Keep(last=2, every=3, milestones=[1]), [1, 3, 6, 7]),
        (Keep(last=1, per_doubling=1), [1, 2, 4, 7]),
    ],
)
def test_what_stays(keep, left):
    steps = [1, 2, 3, 4, 5, 6, 7]
    assert kept(keep, steps) == left
    assert kept(keep, left) == left, "a second look takes no more"
    assert kept(keep, []) == []


@pytest.mark.parametrize(
    ("per_doubling", "steps"),
    [
        (0, []),
        (1, [1, 2, 4, 8, 16, 32]),
        (2, [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]),
        (4, [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27, 32, 38]),
    ],
)
def test_log_spaced_steps(per_doubling, steps):
    assert Keep(per_doubling=per_doubling).saved(40) == {*steps}


def test_damaged_ones_do_not_count_and_the_newest_good_one_stays():
    assert kept(Keep(last=1), [1, 2, 3, 4], bad=(3, 4)) == [2, 3, 4]
    assert kept(Keep(last=2), [1, 2, 3, 4], bad=(3,)) == [2, 4]
    assert kept(Keep(every=10), [1, 2, 3], bad=(3,)) == [2, 3]
    assert kept(Keep(last=1), [1, 2, 3], bad=(1, 2, 3)) == [1, 2, 3]


def save(writer, *steps):
    for step in steps:
        writer.save(step, *TREES, meta_of(step))


def test_a_writer_keeps_what_it_is_told(tmp_path):
    writer = CheckpointWriter(tmp_path, Keep(last=2, milestones=(2,)))
    save(writer, 1, 2, 3)
    with pin(tmp_path, 1):
        save(writer, 4, 5)
        writer.finish()
        assert committed_steps(tmp_path) == [1, 2, 4, 5]
    writer.finish()
    assert committed_steps(tmp_path) == [2, 4, 5]
    assert not list(tmp_path.glob("deleting-*"))


def test_nothing_is_deleted_before_the_newer_one_is_there(tmp_path, monkeypatch):
    writer = CheckpointWriter(tmp_path, Keep(last=1))
    save(writer, 1)
    writer.finish()
    writer = CheckpointWriter(tmp_path, Keep(last=1))

    async def fail(*args, **kwargs):
        raise ValueError("no")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", fail)
    save(writer, 2)
    with pytest.raises(CheckpointError, match="a save failed: no"):
        writer.finish()
    assert committed_steps(tmp_path) == [1]


def test_a_newest_one_whose_meta_is_damaged_is_not_what_the_others_go_for(tmp_path):
    writer = CheckpointWriter(tmp_path, Keep(last=1))
    save(writer, 1, 2)
    writer._manager.wait_until_finished()
    (tmp_path / "2/meta/metadata").write_text("{")
    writer.finish()
    assert committed_steps(tmp_path) == [1, 2]


def test_a_kill_while_one_is_deleted_leaves_no_half_of_it(tmp_path, monkeypatch):
    CheckpointWriter(tmp_path).finish()
    shutil.copytree(pathlib.Path(__file__).parent, tmp_path / "7")

    def kill(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.shutil, "rmtree", kill)
        checkpoints.delete_checkpoints(tmp_path, [7])
    assert not (tmp_path / "7").exists() and (tmp_path / "deleting-7").exists()
    writer = CheckpointWriter(tmp_path)
    save(writer, 8)
    writer.finish()
    assert committed_steps(tmp_path) == [8] and not (tmp_path / "deleting-7").exists()


def test_what_cannot_be_deleted_is_told_and_ends_no_run(tmp_path, monkeypatch, caplog):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints.shutil, "rmtree", fail)
    (tmp_path / "7").mkdir()
    with caplog.at_level(logging.WARNING):
        checkpoints.delete_checkpoints(tmp_path, [7])
    assert "an old checkpoint cannot be deleted: [Errno 13] Permission denied" in caplog.text
