import os
import threading
import time

import pytest

from ttoaa import locks
from ttoaa.locks import CheckpointGone, deletion_mark, pin, remove_stale_pins
from ttoaa.training import checkpoints


def make(folder, step):
    unfinished = folder / f"{step}.tmp"
    (unfinished / "meta").mkdir(parents=True)
    for number in range(20):
        (unfinished / "meta" / str(number)).touch()
    (unfinished / "meta/metadata").write_text("x")
    unfinished.rename(folder / str(step))


@pytest.fixture
def folder(tmp_path):
    make(tmp_path, 5)
    return tmp_path


def test_a_pinned_checkpoint_stays_until_the_last_reader_has_gone(folder):
    with pin(folder, 5):
        with pin(folder, 5):
            checkpoints.delete_checkpoints(folder, [5])
        checkpoints.delete_checkpoints(folder, [5])
        assert (folder / "5/meta/metadata").exists()
    checkpoints.delete_checkpoints(folder, [5])
    assert [p.name for p in folder.iterdir()] == ["pins"] and not list((folder / "pins").iterdir())


def test_a_pin_is_for_its_own_step(folder):
    make(folder, 55)
    with pin(folder, 55):
        checkpoints.delete_checkpoints(folder, [5, 55])
    assert not (folder / "5").exists() and (folder / "55").exists()


def test_what_is_not_there_cannot_be_pinned(folder):
    with (
        pytest.raises(CheckpointGone, match=r"no checkpoint 6 in .*, or no longer"),
        pin(folder, 6),
    ):
        pass
    with pytest.raises(CheckpointGone), pin(folder / "none", 6):
        pass
    assert not list((folder / "pins").iterdir())


@pytest.mark.parametrize("goes", [True, False])
def test_a_reader_waits_for_what_the_trainer_decides(folder, goes):
    told = []

    def read():
        try:
            with pin(folder, 5):
                told.append("read")
        except CheckpointGone:
            told.append("gone")

    reader = threading.Thread(target=read)
    with deletion_mark(folder, 5) as free:
        assert free
        reader.start()
        time.sleep(0.1)
        assert told == []
        if goes:
            (folder / "5").rename(folder / "deleting-5")
    reader.join(10)
    assert told == ["gone" if goes else "read"]


def test_each_raises_its_flag_before_it_looks(folder, monkeypatch):
    """In the other order each could look, see nothing, and go on."""
    fresh, seen = locks._exists_fresh, []

    def look(where, prefix):
        seen.append(
            (prefix, sorted(p.name.partition("-")[0] for p in locks._pins(where).iterdir()))
        )
        return fresh(where, prefix)

    monkeypatch.setattr(locks, "_exists_fresh", look)
    monkeypatch.setattr(locks.socket, "gethostname", lambda: "host")
    with pin(folder, 5):
        pass
    with deletion_mark(folder, 5):
        pass
    assert seen == [("5.deleting", ["5@host"]), ("5@", ["5.deleting"])]


def test_the_pins_of_the_dead_do_not_count_and_are_swept(folder, monkeypatch):
    with pin(folder, 5):
        (own,) = (folder / "pins").iterdir()
        long_ago = time.time() - locks.PIN_STALE - 1
        os.utime(own, (long_ago, long_ago))
        with deletion_mark(folder, 5) as free:
            assert free
        remove_stale_pins(folder)
        assert not own.exists()


def test_a_pin_of_the_living_stays_fresh(folder, monkeypatch):
    monkeypatch.setattr(locks, "_HEARTBEATS", 60_000)
    with pin(folder, 5):
        (own,) = (folder / "pins").iterdir()
        os.utime(own, (0, 0))
        end = time.time() + 10
        while own.stat().st_mtime < 1 and time.time() < end:
            time.sleep(0.01)
        with deletion_mark(folder, 5) as free:
            assert not free
        remove_stale_pins(folder)
        assert own.exists()


def test_what_a_killed_trainer_left_holds_up_no_one_for_ever(folder, monkeypatch):
    flag = folder / "pins/5.deleting"
    flag.parent.mkdir()
    flag.touch()
    os.utime(flag, (0, 0))
    with pin(folder, 5):
        pass
    flag.touch()
    remove_stale_pins(folder)
    assert not flag.exists()
    (folder / "5").rename(folder / "deleting-5")
    checkpoints.delete_checkpoints(folder, [])
    assert not (folder / "deleting-5").exists()


def test_a_folder_that_may_not_be_written_to_is_read_without_a_pin(folder, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(locks.pathlib.Path, "touch", refuse)
    with pin(folder, 5):
        assert not list((folder / "pins").iterdir())


def test_readers_that_loop_while_the_trainer_deletes(folder):
    """What a reader has pinned is whole, at every moment that it looks."""
    over, newest, read, gone, broken = threading.Event(), [5], [], [], []

    def loop():
        while not over.is_set():
            step = newest[0]
            try:
                with pin(folder, step):
                    for _ in range(5):
                        if len(list((folder / str(step) / "meta").iterdir())) != 21:
                            broken.append(step)
                    read.append(step)
            except CheckpointGone:
                gone.append(step)
            except OSError as error:
                broken.append(repr(error))

    readers = [threading.Thread(target=loop) for _ in range(3)]
    for reader in readers:
        reader.start()
    begin, step = time.time(), 5
    while time.time() < begin + 1.5 or step < 15 or len(set(read)) < 4:
        assert time.time() < begin + 60
        make(folder, step + 1)
        old = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
        checkpoints.delete_checkpoints(folder, [s for s in old if s <= step])
        step += 1
        newest[0] = step
    over.set()
    for reader in readers:
        reader.join()
    left = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]
    checkpoints.delete_checkpoints(folder, [s for s in left if s < step])
    assert not broken
    assert len(set(read)) > 3
    assert [p.name for p in folder.iterdir() if p.name != "pins"] == [str(step)]
