import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttoaa.training import throughput
from ttoaa.training.throughput import Profiler, parse_profile_steps

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
    monkeypatch.setattr(throughput, "primary", lambda: False)
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
