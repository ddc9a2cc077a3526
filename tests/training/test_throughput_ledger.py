import pytest

from ttoaa.training import throughput
from ttoaa.training.throughput import Ledger


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_seconds_add_up_over_phases_and_restarts(clock):
    ledger = Ledger({"step": 10.0})
    for seconds in (1.0, 2.5):
        with ledger.phase("step"):
            clock(seconds)
        clock(7)  # outside all phases
    with ledger.phase("validate"):
        clock(4)
    assert ledger.seconds == {"step": 13.5, "validate": 4.0}


def test_nested_phases_are_counted_once(clock):
    ledger = Ledger()
    with ledger.phase("outer"):
        clock(1)
        with ledger.phase("inner"):
            clock(2)
            with ledger.phase("innermost"):
                clock(4)
        with ledger.phase("inner"):
            clock(8)
        clock(16)
    assert ledger.seconds == {"innermost": 4.0, "inner": 10.0, "outer": 17.0}


def test_a_phase_that_fails_is_counted(clock):
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.phase("outer"), ledger.phase("inner"):
        clock(3)
        raise KeyError
    with ledger.phase("after"):
        clock(1)
    assert ledger.seconds == {"inner": 3.0, "outer": 0.0, "after": 1.0}


def test_the_given_seconds_are_not_changed(clock):
    before = {"step": 1.0}
    with Ledger(before).phase("step"):
        clock(1)
    assert before == {"step": 1.0}
