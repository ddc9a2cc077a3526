"""Leases against owners that live, die, stand still, and race each other."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ttoaa import locks as module
from ttoaa import shared_files
from ttoaa.locks import Leases, list_leases

HOLDER = """
import pathlib, sys, time
from ttoaa.locks import Leases
with Leases(pathlib.Path(sys.argv[1]), stale=float(sys.argv[2])) as held:
    assert held.acquire("work")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds 'work'; it is killed in the end."""
    started = []

    def start(stale):
        command = [sys.executable, "-c", HOLDER, str(tmp_path), str(stale)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def elsewhere(folder, **changes):
    """Makes the only lease there look like that of another machine."""
    (path,) = folder.glob("*.*")
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another", **changes}))
    return path


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_one_at_a_time_and_anew_after_it_was_dropped(tmp_path):
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.acquire("a") and not other.acquire("a") and not one.acquire("a")
        assert other.acquire("b") and one.holds("a") and not one.holds("b") and not other.holds("a")
        assert [(x.name, x.owner) for x in one.of_others()] == [("b", other.owner)]
        one.release("a")
        assert not one.holds("a") and other.acquire("a")
    assert list(tmp_path.iterdir()) == []


def test_all_leases_are_found_in_one_listing(tmp_path, monkeypatch):
    """Of a bucket each takes a request."""
    names, listed = shared_files.names, []
    with Leases(tmp_path) as one:
        assert all(one.acquire(name) for name in ("a", "b", "c"))
        for name in ("a.1", "a.10"):  # of dead jobs
            (tmp_path / name).write_text("")
        monkeypatch.setattr(shared_files, "names", lambda at: listed.append(at) or names(at))
        assert [x.name for x in list_leases(tmp_path)] == ["a", "b", "c"]
        assert list_leases(tmp_path)[0].owner == "unknown", "the newest generation counts"
        assert listed == [tmp_path] * 2


def test_names_that_end_or_begin_alike_are_different(tmp_path):
    with Leases(tmp_path) as one:
        assert all(one.acquire(name) for name in ("run-1-a", "run-1-a.5", "run-1", "a"))
        one.release("run-1-a")
        assert [x.name for x in list_leases(tmp_path)] == ["a", "run-1", "run-1-a.5"]


def test_many_that_ask_at_once_for_what_a_dead_one_left(tmp_path):
    """Again and again: exactly one gets it, and what it holds stays its own."""
    rounds, jobs = 15, [Leases(tmp_path).__enter__() for _ in range(6)]
    with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
        for number in range(rounds):
            left = tmp_path / f"work{number}.0"
            left.write_text(json.dumps({"owner": "dead", "stale": 5.0, "boot": "another"}))
            age(left, 6)
            gate = threading.Barrier(len(jobs))

            def ask(job, name=f"work{number}", gate=gate):
                gate.wait()
                return job.acquire(name)

            got = list(pool.map(ask, jobs))
            assert got.count(True) == 1
            (winner,) = (job for job, won in zip(jobs, got, strict=True) if won)
            assert winner.holds(f"work{number}")
            winner.release(f"work{number}")
            assert not left.exists()
    for job in jobs:
        job.__exit__()


def test_a_killed_owner_on_this_machine_is_known_at_once(tmp_path, holder):
    process = holder(stale=600)
    with Leases(tmp_path) as mine:
        assert not mine.acquire("work")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not list_leases(tmp_path)[0].alive
        assert mine.acquire("work") and mine.holds("work")
    assert list(tmp_path.iterdir()) == []


def test_a_dead_owner_elsewhere_is_known_by_its_age(tmp_path):
    with Leases(tmp_path, stale=1000) as dead, Leases(tmp_path, stale=0.5) as mine:
        dead.acquire("work")
        path = elsewhere(tmp_path)
        age(path, 999 - 60)
        assert not mine.acquire("work"), "how old a lease may be is its owner's to say"
        age(path, 1001)
        assert mine.acquire("work")
        assert not dead.holds("work") and mine.holds("work")
        dead.release("work")
        assert mine.holds("work"), "who was thought dead takes nothing away"


def test_an_owner_that_lives_renews_its_leases(tmp_path):
    with Leases(tmp_path, stale=0.4) as mine, Leases(tmp_path) as other:
        mine.acquire("work")
        path = elsewhere(tmp_path)
        age(path, 100)
        end = time.monotonic() + 10
        while time.time() - path.stat().st_mtime > 10 and time.monotonic() < end:
            time.sleep(0.01)
        assert not other.acquire("work")


def test_a_job_that_stood_still_loses_its_lease_and_knows(tmp_path, holder):
    process = holder(stale=1.0)
    process.send_signal(signal.SIGSTOP)
    with Leases(tmp_path) as mine:
        assert not mine.acquire("work")
        end = time.monotonic() + 30
        while not mine.acquire("work") and time.monotonic() < end:
            time.sleep(0.05)
        assert mine.holds("work")
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        assert mine.holds("work")


def test_what_a_kill_left_empty_counts_as_living_until_it_is_old(tmp_path):
    path = tmp_path / "work.0"
    path.touch()
    with Leases(tmp_path, stale=0.2) as mine:
        assert not mine.acquire("work")
        age(path, module.LEASE_STALE + 1)
        assert mine.acquire("work")


def test_an_old_listing_does_not_make_two_owners(tmp_path, monkeypatch):
    """One of number 1 is there, and a job that saw none makes number 0."""
    with Leases(tmp_path) as one, Leases(tmp_path) as late:
        (tmp_path / "work.0").write_text(json.dumps({"owner": "dead", "stale": 0.0}))
        assert one.acquire("work")
        (tmp_path / "work.0").unlink()
        newest = module._newest_file
        monkeypatch.setattr(module, "_newest_file", lambda folder, name: None)
        assert not late.acquire("work")
        monkeypatch.setattr(module, "_newest_file", newest)
        assert one.holds("work") and [p.name for p in tmp_path.iterdir()] == ["work.1"]


def test_sweeping_takes_the_dead_alone(tmp_path):
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        one.acquire("living")
        (tmp_path / "left.0").write_text(json.dumps({"owner": "dead", "stale": 0.0}))
        other.remove_stale()
        assert [x.name for x in list_leases(tmp_path)] == ["living"]


@pytest.mark.parametrize("stale", [0, -1, float("nan")])
def test_a_lease_goes_stale_after_some_time(tmp_path, stale):
    with pytest.raises(ValueError, match="positive number of seconds"):
        Leases(tmp_path, stale)
