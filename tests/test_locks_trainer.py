"""One trainer a run: refused where another lives, waited for where one died elsewhere."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import studies

from ttoaa.locks import exclusive_trainer, running_trainer

TRAINER = """
import pathlib, sys, time
from ttoaa.locks import exclusive_trainer
with exclusive_trainer(pathlib.Path(sys.argv[1]), stale=2.0):
    print("trains", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that trains that run."""
    asked = [sys.executable, "-c", TRAINER, str(tmp_path)]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "trains\n"
        yield process
        process.kill()


def elsewhere(folder):
    """Makes its lease look like that of another machine."""
    (path,) = (folder / "leases").glob("trainer.*")
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    return path


def test_a_second_trainer_is_refused_and_the_first_goes_on(other, tmp_path):
    with (
        pytest.raises(ValueError, match=f"is being trained by .*-{other.pid}-.*: stop that"),
        exclusive_trainer(tmp_path, poll=0.01),
    ):
        pass
    assert f"-{other.pid}-" in running_trainer(tmp_path).owner


def test_after_a_kill_on_this_machine_the_next_starts_at_once(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert running_trainer(tmp_path) is None
    began = time.monotonic()
    with exclusive_trainer(tmp_path, poll=10.0):
        assert time.monotonic() - began < 5
        assert f"-{os.getpid()}-" in running_trainer(tmp_path).owner
    assert not list(tmp_path.glob("leases/*"))


def test_one_that_died_elsewhere_is_waited_for(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    began, path = time.time(), elsewhere(tmp_path)
    os.utime(path, (began, began))
    with exclusive_trainer(tmp_path, poll=0.01):
        assert 1.9 < time.time() - began < 10


def test_the_command_refuses_a_run_that_is_in_training(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan")
    first = studies.start("train", workdir, "--run=control", slow=0.5)
    try:
        while running_trainer(workdir / "control") is None:
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        code, _, told = studies.run("train", workdir, "--run=control")
        assert code == 1 and told.splitlines()[-1].startswith(
            f"train: {workdir / 'control'} is being trained by "
        )
    finally:
        first.kill()
        first.communicate()


def test_who_stood_too_long_has_lost_the_run(tmp_path):
    with exclusive_trainer(tmp_path) as ours:
        assert ours()
        (path,) = (tmp_path / "leases").iterdir()
        path.with_suffix(".1").write_text('{"owner": "who came next", "stale": 60.0}')
        assert not ours()
