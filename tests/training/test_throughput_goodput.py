import json

import pytest

from ttoaa.training import throughput
from ttoaa.training.throughput import HEARTBEAT_SECONDS, Attempts, held_seconds


def lines(*attempts):
    """Lines of starts that showed life at these seconds."""
    return [
        {"start": number, "time": float(seconds), "step": 0}
        for number, attempt in enumerate(attempts)
        for seconds in attempt
    ]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; wall clock and monotonic clock are far apart."""
    now = [1000.0]
    monkeypatch.setattr(throughput.time, "time", lambda: 1.7e9 + now[0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_time_held_is_from_each_start_to_its_last_sign_of_life():
    assert held_seconds([]) == 0
    assert held_seconds(lines([5])) == 0
    assert held_seconds(lines([0, 30, 60, 85], [200, 230, 290])) == 85 + 90


def test_a_clock_that_was_set_back_takes_no_time_away():
    assert held_seconds(lines([100, 160, 40, 50], [60, 90])) == 60 + 30
    assert held_seconds(lines([100, 40])) == 0


def test_a_history_with_a_kill_by_hand():
    """20 s of compiling, steps of 10 s; step 4 is saved in 5 s; killed in step 7, last seen at 85.

    The second start compiles anew and does the steps 5 to 10; the ledger's useful time, carried by
    the checkpoint, has each of the ten steps once.
    """
    history = lines([0, 30, 60, 85], [200, 225, 255, 280])
    assert held_seconds(history) == 85 + 80


def test_signs_of_life_are_written_now_and_then(clock, tmp_path):
    path = tmp_path / "run/starts.jsonl"
    attempts = Attempts(path, step=0)
    for step in range(1, 11):
        clock(HEARTBEAT_SECONDS / 4)
        attempts.beat(step)
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in written] == [0, 4, 8]
    assert [line["time"] - 1.7e9 - 1000 for line in written] == [
        0,
        HEARTBEAT_SECONDS,
        2 * HEARTBEAT_SECONDS,
    ]
    assert attempts.goodput(HEARTBEAT_SECONDS) == {"goodput": pytest.approx(1 / 2.5)}


def test_a_killed_start_counts_and_the_time_between_two_does_not(clock, tmp_path):
    path = tmp_path / "starts.jsonl"
    killed = Attempts(path, step=0)
    for step in range(1, 4):
        clock(HEARTBEAT_SECONDS)
        killed.beat(step)
    clock(HEARTBEAT_SECONDS / 2)  # no one can know of these
    with open(path, "a") as file:
        file.write('{"start": 0, "ti')  # the kill cut a line short
    clock(10_000)
    again = Attempts(path, step=2, began=throughput.time.time() - 7)
    clock(HEARTBEAT_SECONDS)
    # Steps 1 and 2 were saved; 3 is done again.
    held = 4 * HEARTBEAT_SECONDS + 7
    assert again.goodput(3 * HEARTBEAT_SECONDS) == {
        "goodput": pytest.approx(3 * HEARTBEAT_SECONDS / held)
    }
    again.beat(3)
    third = Attempts(path, step=3)
    numbers = [json.loads(line)["start"] for line in path.read_text().splitlines()]
    assert numbers == [0] * 4 + [1] * 3 + [2]
    assert third.goodput(3 * HEARTBEAT_SECONDS) == {
        "goodput": pytest.approx(3 * HEARTBEAT_SECONDS / held)
    }


def test_other_processes_keep_nothing(clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempts = Attempts(None, step=0)
    clock(2 * HEARTBEAT_SECONDS)
    attempts.beat(1)
    assert list(tmp_path.iterdir()) == []
