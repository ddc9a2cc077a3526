import itertools
import json
import types

import numpy as np
import pytest

from tests.performance import score, train
from tests.performance.sides import Variant

MIXED, EQUAL, MANY, ONE = score.works(quick=True)
BEST = Variant("sdpa", 16)


class Fake:
    """A side whose calls take given milliseconds; `changed` alters what its forms answer."""

    def __init__(self, milliseconds=lambda variant: itertools.repeat(100.0), changed=None):
        self.milliseconds, self.changed = milliseconds, changed or {}
        self.clocks = {}

    def prepare(self, *given):
        return {}

    def settings(self):
        return {"devices": 2}

    def close(self): ...

    def give(self, sequences, new_tokens):
        self.lengths, self.new_tokens = [len(s) for s in sequences], new_tokens

    def _call(self, variant, answers):
        clock = self.clocks.setdefault(variant, iter(self.milliseconds(variant)))
        return next(clock) / 1e3, self.changed.get(variant, lambda answers: answers)(answers)

    def score(self, variant=None):
        return self._call(variant, [-np.arange(n - 1, dtype=np.float32) for n in self.lengths])

    def generate(self, variant=None):
        return self._call(variant, [np.arange(self.new_tokens) + n for n in self.lengths])


def steady(times, default=400.0):
    return lambda variant: itertools.repeat(times.get(variant, default))


def race(ours, theirs, work=MIXED, attempts=1):
    return score.race_work(ours, theirs, work, repeats=8, attempts=attempts)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(train, "PAUSE", 0)


def test_ratio_is_against_the_quickest_form_that_was_tried():
    result = race(Fake(), Fake(steady({BEST: 250.0, Variant("eager", 4): 300.0})))
    tokens = sum(map(len, MIXED.sequences))
    assert (result["torch"], result["ratio"]) == ("sdpa, 16 rows", 2.5)
    assert result["tokens"] == tokens and result["ours_tokens_per_second"] == 10 * tokens
    assert result["torch_tokens_per_second"] == 4 * tokens
    assert result["min_ms"] == {"ours": 100, "sdpa, 16 rows": 250, "eager, 4 rows": 300}
    assert result["torch_tried_ms"]["eager, 16 rows"] == 400
    assert result["largest_difference"] == 0
    made = race(Fake(), Fake(steady({})), MANY)
    assert (made["tokens"], made["ratio"], made["identical"]) == (32 * 64, 4.0, 1.0)


@pytest.mark.parametrize("wrong", [-2e-4, 2e-4, np.nan])
def test_scores_that_differ_are_not_raced(wrong):
    def last(answers):
        answers[-1][3] += wrong
        return answers

    theirs = Fake(steady({BEST: 250.0}), {BEST: last})
    with pytest.raises(SystemExit, match="ours and torch differ on mixed lengths by"):
        race(Fake(), theirs)


def test_rounding_is_no_difference():
    theirs = Fake(steady({BEST: 250.0}), {BEST: lambda answers: [a + 3e-5 for a in answers]})
    found = race(Fake(), theirs)["largest_difference"]
    assert found == pytest.approx(3e-5, rel=0.3)


@pytest.mark.parametrize(("count", "same"), [(3, True), (4, False)])
def test_of_32_texts_three_may_differ(count, same):
    form = Variant("eager", 32)
    theirs = Fake(changed={form: lambda answers: [a + (k < count) for k, a in enumerate(answers)]})
    if same:
        assert race(Fake(), theirs, MANY)["identical"] == 29 / 32
    else:
        with pytest.raises(SystemExit, match="only 88% of the texts at batch 32"):
            race(Fake(), theirs, MANY)


def noisy(until):
    """500 ms, but three in four of a form's calls take 700 until it has made so many."""
    return lambda variant: (700.0 if k % 4 and k <= until else 500.0 for k in itertools.count(1))


def test_a_noisy_run_is_thrown_away(capsys):
    with pytest.raises(SystemExit, match="every run was thrown away"):
        race(Fake(), Fake(noisy(until=100)), attempts=2)
    assert capsys.readouterr().err.count("mixed: torch's median is 1.40 minima") == 2


def test_a_noisy_run_is_repeated(capsys):
    # A finalist makes 2 calls in the short race, 1 to compare, and 8 in the first run.
    assert race(Fake(), Fake(noisy(until=11)), attempts=2)["ratio"] == 5.0
    assert capsys.readouterr().err.count("minima") == 1


@pytest.fixture
def installed(monkeypatch):
    """As if torch were there; the environment is put back."""
    monkeypatch.setattr(score.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(score.importlib.metadata, "version", lambda name: f"{name} 1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    given = types.SimpleNamespace(repeats=8, attempts=1, quick=True)
    monkeypatch.setattr(score, "flags", types.SimpleNamespace(FLAGS=given))


def test_one_line_has_the_smaller_ratio_of_scoring(monkeypatch, capsys, installed):
    """Ours takes twice as long for sequences of one length."""

    class Ours(Fake):
        def _call(self, variant, answers):
            return (0.2 if len(set(self.lengths)) == 1 else 0.1), answers

    sides = {"tests.performance.scoring_ttoaa": Ours(), "tests.performance.scoring_torch": Fake()}
    monkeypatch.setattr(score, "Side", sides.get)
    score.main([])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["loglikelihood_ratio"], found["generation_ratio"]) == (0.5, 1.0)
    assert [*found["works"]] == ["mixed", "equal", "batch 32", "batch 1"]
    assert found["works"]["mixed"]["ratio"] == 1 and found["settings"] == {"devices": 2}
    assert found["repeats"] == 8 and found["versions"]["torch"] == "torch 1"


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(score.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"torch is missing: pip install 'ttoaa\[hf\]'"):
        score.main([])
