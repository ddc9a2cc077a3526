"""What signals do, in every command from its first line on; the long version is kills.py."""

import itertools
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
import stops
import studies

from ttoaa import locks, signals
from ttoaa.__main__ import COMMANDS
from ttoaa.workdir import Workdir, remove_leftovers

NUMBERS = {signal.SIGINT: 130, signal.SIGTERM: 143}
BEGIN = """
import pathlib, sys, time
from ttoaa import signals
from ttoaa.workdir import atomic_writer, unfinished_folder
from ttoaa.locks import Leases, pin

signals.install("example")
folder = pathlib.Path(sys.argv[1])
(folder / "checkpoints/5").mkdir(parents=True)

def nap(*_):
    time.sleep(60)
"""
HOLDING = (
    BEGIN
    + """
with Leases(folder / "leases") as leases, pin(folder / "checkpoints", 5):
    with unfinished_folder(folder / "made") as unfinished, atomic_writer(folder / "file") as file:
        leases.acquire("work")
        (unfinished / "part").touch()
        file.write(b"half")
        print("ready", flush=True)
        %s
"""
)
WAITS = {
    "in Python": "while True: pass",
    "in a call": "time.sleep(60)",
    "where exceptions are swallowed": "import gc; gc.callbacks.append(nap); gc.collect()",
    "in a lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
}
DEFERRING = (
    BEGIN
    + """
with signals.deferred() as stop:
    print("ready", flush=True)
    while not stop.number:
        time.sleep(0.01)
    time.sleep(%s)
print("saved", flush=True)
signals.leave(128 + stop.number)
"""
)


def start(code, folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": studies.PYTHONPATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n", process.communicate()
    return process


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("where", WAITS)
def test_a_stop_takes_its_traces_along_wherever_it_comes(tmp_path, number, where):
    process = start(HOLDING % WAITS[where], tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (NUMBERS[number], "")
    assert err == f"example: stopped by {number.name}; run it again to continue\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not list(tmp_path.glob("made*"))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_command_that_saves_first_exits_when_it_has(tmp_path, number):
    process = start(DEFERRING % 0, tmp_path)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("saved\n", "")
    assert process.returncode == NUMBERS[number]


def test_a_second_ctrl_c_ends_it_at_once(tmp_path):
    process = start(DEFERRING % 600, tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # schedulers repeat themselves
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, "")
    assert err.startswith("example: stopped at once by a second signal") and err.count("\n") == 1


def test_what_is_ignored_from_the_start_stays_ignored(tmp_path):
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + DEFERRING % 0
    process = start(code, tmp_path)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


@pytest.mark.parametrize("code", [0, 3])
def test_an_abort_after_the_work_does_not_fail_a_command_that_succeeded(code):
    text = f"""
import atexit, os, sys
from ttoaa import command_line

class Thread:
    def __del__(self):
        os.abort()  # as threads of C++ libraries do while the interpreter is taken down

def main(argv):
    global thread
    thread = Thread()
    atexit.register(print, "exit callback")
    print("result")
    sys.exit({code})

command_line.run("example", main)
"""
    env = {**os.environ, "PYTHONPATH": studies.PYTHONPATH}
    ended = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True)
    assert ended.stdout == "result\nexit callback\n"
    assert ended.returncode == (-signal.SIGABRT if code else 0)


def test_the_watcher_does_not_stop_a_command_that_has_saved(monkeypatch):
    stopped = []
    monkeypatch.setattr(signals, "_stop", stopped.append)
    monkeypatch.setattr(signals, "_received", False)
    signals._respond(signal.SIGTERM, watcher=True)  # the main thread is in a long call
    assert stopped == [signal.SIGTERM]
    with signals.deferred() as stop:
        signals._respond(signal.SIGTERM)
    signals._respond(signal.SIGTERM, watcher=True)  # late: the main thread has left its context
    assert (stop.number, stopped) == (signal.SIGTERM, [signal.SIGTERM])
    signals._respond(signal.SIGTERM)  # another signal, while the command exits
    assert stopped == [signal.SIGTERM] * 2


def test_handlers_are_given_back():
    before = {number: signal.getsignal(number) for number in NUMBERS}
    with signals.deferred() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_handles_signals_from_its_first_line_on(tmp_path, name, number):
    command = stops.Command(COMMANDS[name].removeprefix("ttoaa."), ())
    line = stops.stop(command, tmp_path, number, 0.0)
    text = stops.told(tmp_path)
    # A command that refuses its flags may have done so before the signal.
    assert line["code"] in (NUMBERS[number], 1, 2) and "Traceback" not in text, (line, text)
    assert len(text.splitlines()) <= 1, text


@pytest.mark.parametrize("name", ["evaluate", "train"])
def test_stopped_at_random_and_started_again_it_ends_as_ever(finished, tmp_path, name):
    (command,) = (each for each in stops.COMMANDS if each.name == name)
    whole = stops.Whole(tmp_path, finished[0])
    lines = list(stops.chains(whole, 1, 0, [command]))
    assert [line for line in lines if line["problems"]] == []


def test_what_a_kill_left_is_removed_by_the_next_command_and_nothing_else(tmp_path):
    workdir = Workdir(tmp_path)
    with start(HOLDING % WAITS["in a call"], tmp_path) as process:
        remove_leftovers(workdir.root)
        locks.remove_dead_pins(tmp_path / "checkpoints")
        files = {path.name.split(".tmp-")[0] for path in tmp_path.rglob("*") if path.is_file()}
        assert {"file", "work.0", "part"} < files and len(files) == 4, "its owner lives"
        process.kill()
    remove_leftovers(workdir.root)
    locks.remove_dead_pins(tmp_path / "checkpoints")
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["part", "work.0"], "the next owner of these removes them"
    elsewhere = tmp_path / "file.tmp-another.host-1"
    elsewhere.touch()
    remove_leftovers(workdir.root)
    assert elsewhere.exists()


def test_leftovers_are_found_in_every_run(tmp_path):
    child = subprocess.Popen(["true"])
    child.wait()
    ending = f".tmp-{socket.gethostname()}-{child.pid}"
    for seed, name in itertools.product((0, 3), ("run", "sham", "alone/a", "without/a")):
        workdir = Workdir(tmp_path, seed)
        run = workdir.run(name)
        for path in (run / "x", run / "controllers/x", workdir.table(name, 20, "a")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name + ending).touch()
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 24
    remove_leftovers(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_refused_lock_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no room"), locks.exclusive_trainer(tmp_path / "run"):
        raise ValueError("no room")
    assert not (tmp_path / "run").exists()
    with locks.exclusive_trainer(tmp_path / "run"):
        pathlib.Path(tmp_path / "run/made").touch()
    assert (tmp_path / "run/made").exists()


def test_only_a_checkpoint_makes_a_seed_trained(tmp_path):
    workdir = Workdir(tmp_path)
    for name in ("plan", "control/leases", "run-s3/checkpoints/4.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir(parents=True)
    assert workdir.seeds() == [0, 3] and workdir.trained_seeds() == []
    (tmp_path / "run-s3/checkpoints/4").mkdir()
    assert workdir.trained_seeds() == [3]
