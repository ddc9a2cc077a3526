"""Processes of this machine: the same results as here, one clear error, no one left behind."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ttoaa.data.prepare.workers import Local


def leave(piece):
    """Leaves its argument in a file, in three steps; pieces may ask for trouble."""
    folder, number, trouble = piece
    yield number
    if trouble == "fault":
        raise ValueError(f"piece {number} is bad")
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "slow":
        for _ in range(600):
            time.sleep(0.1)
            yield 0
    pathlib.Path(folder, f"{number}").write_text(f"{os.getpid()}")
    yield 1


@pytest.mark.parametrize("processes", [1, 2])
def test_every_piece_is_done_and_counted_once(tmp_path, processes):
    pieces = [(str(tmp_path), number, "") for number in range(9)]
    assert sum(Local(processes)(leave, pieces)) == 36 + 9
    assert {path.name for path in tmp_path.iterdir()} == {f"{number}" for number in range(9)}
    workers = {int(path.read_text()) for path in tmp_path.iterdir()}
    assert (os.getpid() in workers) == (processes == 1) and len(workers) <= processes


def test_a_piece_alone_needs_no_process(tmp_path):
    assert sum(Local(8)(leave, [(str(tmp_path), 3, "")])) == 4
    assert (tmp_path / "3").read_text() == f"{os.getpid()}"
    assert list(Local()(leave, [])) == []


def test_the_fault_of_a_piece_ends_all_at_once(tmp_path):
    pieces = [(str(tmp_path), 0, "slow"), (str(tmp_path), 1, "fault")]
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^piece 1 is bad$"):
        list(Local(2)(leave, pieces))
    assert time.monotonic() - began < 30
    assert not list(tmp_path.iterdir())


def test_a_worker_that_is_killed_is_an_error(tmp_path):
    pieces = [(str(tmp_path), 0, "slow"), (str(tmp_path), 1, "kill")]
    began = time.monotonic()
    with pytest.raises(OSError, match="a worker process died"):
        list(Local(2)(leave, pieces))
    assert time.monotonic() - began < 30


PARENT = """
import sys
from test_workers import leave
from ttoaa.data.prepare.workers import Local

if __name__ == "__main__":
    folder = sys.argv[1]
    list(Local(2)(leave, [(folder, 0, "slow"), (folder, 1, ""), (folder, 2, "slow")]))
"""


def test_workers_die_with_their_parent(tmp_path):
    here = pathlib.Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[2]}"}
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, env=environment) as parent:
        deadline = time.monotonic() + 60
        while not (tmp_path / "1").exists() or not (tmp_path / "1").read_text():
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        worker = int((tmp_path / "1").read_text())
        parent.kill()
    while _lives(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _lives(process):
    """Whether that process runs; a dead one that nobody waited for does not."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
