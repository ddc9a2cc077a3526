import collections
import itertools

import pytest

from tests.performance import train
from tests.performance.sides import TASKS, Variant

TASK = TASKS[0]


class Fake:
    """A side whose steps take given milliseconds; time and loss do not depend on the machine."""

    def __init__(self, milliseconds, losses=(8.0, 7.0, 6.0)):
        self.milliseconds, self.losses = milliseconds, losses

    def prepare(self, task):
        return {"devices": 2}

    def start(self, params=None):
        self.loss = itertools.chain(self.losses, itertools.repeat(5.0))
        return {}

    def step(self, variant=None):
        return next(self.milliseconds(variant)) / 1e3, next(self.loss)


def steady(times, default=900.0):
    return lambda variant: itertools.repeat(times.get(variant, default))


def race(ours, theirs, attempts=1):
    return train.race_task(ours, theirs, TASK, repeats=8, attempts=attempts, quick=False)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(train, "PAUSE", 0)


def test_ratio_is_against_the_strongest_form_of_torch():
    times = {Variant("sdpa", 4): 700.0, Variant("sdpa", 8, compiled=True): 512.0}
    result = race(Fake(steady({}, 409.6)), Fake(steady(times)))
    assert result["torch"] == "sdpa, 8 rows, compiled"
    assert result["ours_tokens_per_second"] == 20_000  # 32 rows of 256 tokens in 409.6 ms
    assert result["torch_tokens_per_second"] == 16_000
    assert result["ratio"] == 1.25
    assert result["min_ms"] == {"ours": 409.6, "sdpa, 8 rows, compiled": 512.0, "sdpa, 4 rows": 700}
    assert result["torch_tried_ms"]["eager, 32 rows"] == 900.0


def noisy(until):
    """500 ms, but three in four of a form's steps take 700 until it has made so many."""
    made = collections.Counter()

    def steps(variant):
        made[variant] += 1
        yield 700.0 if made[variant] % 4 and made[variant] <= until else 500.0

    return steps


def test_a_noisy_run_is_thrown_away(capsys):
    with pytest.raises(SystemExit, match="every run was thrown away"):
        race(Fake(steady({})), Fake(noisy(until=100)), attempts=2)
    assert capsys.readouterr().err.count("torch's median is 1.40 minima") == 2


def test_a_noisy_run_is_repeated(capsys):
    # A finalist makes 3 steps in the short race, 3 for its losses, and 8 in the first run.
    assert race(Fake(steady({})), Fake(noisy(until=14)), attempts=2)["ratio"] == round(500 / 900, 3)
    assert capsys.readouterr().err.count("minima") == 1


@pytest.mark.parametrize("losses", [(8.001, 7.0, 6.0), (8.0, 7.0, 6.01), (8.0, float("nan"), 6.0)])
def test_sides_that_differ_are_not_raced(losses):
    with pytest.raises(SystemExit, match="do not compute the same"):
        race(Fake(steady({})), Fake(steady({}), losses))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(train.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"torch is missing: pip install 'ttoaa\[hf\]'"):
        train.main([])
