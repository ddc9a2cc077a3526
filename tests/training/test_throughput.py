import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttoaa.accelerators import PEAK_FLOPS
from ttoaa.training import throughput
from ttoaa.training.throughput import (
    HEARTBEAT_SECONDS,
    Attempts,
    Ledger,
    Profiler,
    Speedometer,
    held_seconds,
    mfu,
    parse_profile_steps,
    peak_flops,
)


@pytest.fixture
def devices(monkeypatch):
    def pretend(kind, count):
        class Device:
            device_kind = kind

        monkeypatch.setattr(jax, "devices", lambda: [Device()] * count)
        monkeypatch.setattr(jax, "device_count", lambda: count)

    return pretend


def test_a_chip_that_is_not_in_the_table_is_unknown(devices):
    assert peak_flops() is None and mfu(1e6, 1e9) is None
    devices("TPU v99", 8)
    assert peak_flops() is None


@pytest.mark.parametrize("kind", ["TPU v5", "TPU v5p"])
def test_the_peak_is_that_of_all_devices(devices, kind):
    devices(kind, 64)
    assert peak_flops() == 64 * 459e12


def test_both_names_of_a_chip_have_one_peak():
    """JAX names a v5p "TPU v5" and a v5e "TPU v5 lite"; vendors' names are taken too."""
    for one, other in [("5 lite", "5e"), ("5", "5p"), ("6 lite", "6e")]:
        assert PEAK_FLOPS[f"TPU v{one}"] == PEAK_FLOPS[f"TPU v{other}"]


def test_mfu_of_the_papers_model_by_hand(devices):
    """1.5B on 64 v5p at two million tokens a second; 16 layers, width 2,048, length 4,096."""
    devices("TPU v5", 64)
    layer = 4 * 2048 * 2048 + 3 * 2048 * 8192 + 4 * 2048
    matrix = 16 * layer + 2048 + 2048 * 100_352
    flops = 6 * matrix + 6 * 16 * 2048 * 4096
    assert mfu(2e6, flops) == pytest.approx(2e6 * flops / (64 * 459e12))
    assert 0.5 < mfu(2e6, flops) < 0.7


def test_speed_between_two_reads(devices, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    devices("TPU v4", 2)
    meter = Speedometer(tokens_per_step=1000, flops_per_token=275e9)
    assert meter.lap() == {}
    now[0] += 4
    assert meter.lap() == {"tokens_per_second": 250.0, "mfu": pytest.approx(0.125)}
    now[0] += 1
    meter.pause()
    now[0] += 100
    assert meter.lap() == {}
    now[0] += 2
    assert meter.lap()["tokens_per_second"] == 500.0
    devices("cpu", 2)
    now[0] += 2
    assert meter.lap() == {"tokens_per_second": 500.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves; wall clock and the others are far apart."""
    now = [1000.0]
    monkeypatch.setattr(throughput.time, "time", lambda: 1.7e9 + now[0])
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(throughput.time, name, lambda: now[0])

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


def lines(*attempts):
    """Lines of starts that showed life at these seconds."""
    return [
        {"start": number, "time": float(seconds), "step": 0}
        for number, attempt in enumerate(attempts)
        for seconds in attempt
    ]


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


LOOPS = 20
add = jax.jit(lambda x: x + 1)
"""A step that is over at once."""
slow = jax.jit(lambda x: jax.lax.fori_loop(0, LOOPS, lambda i, y: jnp.tanh(y @ y), x))
"""A step that takes longer than its dispatch."""


def run(folder, steps, start=0, stop=8, update=add, state=0.0):
    state = update(jnp.asarray(state))
    with Profiler(folder, steps) as profiler:
        for step in range(start, stop):
            with profiler.step(step, state):
                state = update(state)
    return state


def events(folder):
    """Of the one trace that lies in the folder."""
    (path,) = folder.rglob("*.trace.json.gz")
    with gzip.open(path, "rt") as file:
        return json.load(file)["traceEvents"]


def traced(folder):
    """Numbers of the steps in the trace."""
    named = (event for event in events(folder) if event.get("name") == "train")
    return sorted(int(event["args"]["step_num"]) for event in named)


@pytest.mark.parametrize(("text", "steps"), [("0:1", [0]), ("3:5", [3, 4]), ("11:99", [11])])
def test_the_steps_that_a_range_names(text, steps):
    assert list(parse_profile_steps(text, 12)) == steps


def test_no_range_names_no_steps():
    assert not parse_profile_steps(None, 12)


@pytest.mark.parametrize("text", ["", "3", "3:", "5:3", "3:3", "-1:2", "a:b", "1:2:3", "1.5:3"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="must be first:stop, such as 10:13, not"):
        parse_profile_steps(text, 12)


def test_a_range_behind_the_run_is_refused():
    with pytest.raises(ValueError, match="--profile_steps=12:13 is after the last step of a run"):
        parse_profile_steps("12:13", 12)


@pytest.mark.parametrize(
    ("steps", "bounds", "expected"),
    [
        (range(2, 5), (0, 8), [2, 3, 4]),
        (range(6, 8), (0, 8), [6, 7]),  # the run ends inside
        (range(2, 5), (3, 8), [3, 4]),  # continued inside
    ],
)
def test_exactly_these_steps_are_traced(tmp_path, steps, bounds, expected):
    assert run(tmp_path / "profile", steps, *bounds) == 1 + bounds[1] - bounds[0]
    assert traced(tmp_path / "profile") == expected


def test_the_devices_work_of_exactly_these_steps_is_traced(tmp_path):
    """Dispatch runs ahead of the device: no earlier step's work is in it, and none is cut off."""
    run(tmp_path, range(3, 5), update=slow, state=np.full((600, 600), 1e-3, np.float32))
    names = [event.get("name", "") for event in events(tmp_path)]
    assert sum("tanh" in name and "end" not in name for name in names) == 2 * LOOPS


def test_nothing_is_traced_unasked_or_where_the_run_is_past_it(tmp_path):
    run(tmp_path / "profile", range(0))
    run(tmp_path / "profile", range(2, 5), start=5)
    assert not (tmp_path / "profile").exists()


def test_only_the_primary_process_traces(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "writes_records", lambda: False)
    run(tmp_path / "profile", range(2, 5))
    assert not (tmp_path / "profile").exists()


def test_a_run_that_fails_inside_leaves_a_whole_trace(tmp_path):
    with pytest.raises(KeyError), Profiler(tmp_path, range(1, 5)) as profiler:
        for step in range(3):
            with profiler.step(step, None):
                add(jnp.zeros(()))
                if step == 2:
                    raise KeyError
    assert traced(tmp_path) == [1, 2]
