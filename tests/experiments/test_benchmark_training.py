"""Training on a benchmark: equal tokens, and what raises its outcome."""

import dataclasses
import itertools
import pathlib

import numpy as np
import pandas as pd
import pytest

from ttoaa import config
from ttoaa.benchmarks.question import Question
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.benchmark_training import ABOVE_WRONG, BenchmarkTraining
from ttoaa.planning.burst_size import BurstSize

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "studies"
SIZE = BurstSize(2_000, Geometry(256, 16, 25), {})


class Texts:
    """Questions of very different lengths, as real benchmarks have them."""

    def __init__(self, longest):
        self.longest = longest

    def questions(self, count, rng):
        lengths = rng.integers(1, self.longest, count)
        texts = [f"{k} " + "a cat " * n for k, n in enumerate(lengths)]
        return [Question(f"q{k}", "b", (t, t), (" sat", " ate"), 0) for k, t in enumerate(texts)]


def training(longest=8, **changes):
    fields = {
        "questions": Texts(longest),
        "groups": ((0, 5), (4, 100)),
        "primary": f"{ABOVE_WRONG}/4x",
    }
    return BenchmarkTraining(**{"name": "bench", "expected_sign": 1} | fields | changes)


def inserted(experiment, make_world, length=256):
    items = experiment.intervene(make_world(experiment, length=length))
    return [item for item in items if item.repetitions]


def tokens(items):
    return sum(item.repetitions * len(item.tokens) for item in items)


@pytest.fixture(scope="module")
def study():
    return config.load([CONFIGS / "benchmark_dependence.gin"])[0]


def test_bursts_of_all_benchmarks_insert_equally_many_tokens(make_world):
    rows = [inserted(training(n).burst(SIZE), make_world) for n in (2, 8, 30)]
    assert len(rows[0]) > 2 * len(rows[2])
    sums = [tokens(row) for row in rows]
    assert max(sums) / min(sums) < 1.05 and max(sums) <= SIZE.tokens
    assert {item.repetitions for row in rows for item in row} == {4}


def test_the_bursts_of_the_family_share_facts_and_tokens(study, make_world):
    """In the config: facts that both of two benchmarks insert, per question of one."""
    rows = {}
    for experiment in study.experiments:
        burst = dataclasses.replace(experiment.burst(SIZE), tokens=None)
        rows[experiment.name] = {
            tuple(item.text.split()[3::2]) for item in inserted(burst, make_world)
        }
    pairs = itertools.combinations(rows, 2)
    shares = {pair: len(rows[pair[0]] & rows[pair[1]]) / 24 for pair in pairs}
    assert shares.pop(("base", "all-facts")) > 0.8
    for other in ("base", "all-facts"):
        assert 0.35 < shares.pop((other, "half-the-facts")) < 0.6
    assert set(shares.values()) == {0.0} and len(shares) == 12


def test_too_few_or_too_long_questions_are_one_clear_line(make_world):
    few = training(groups=((0, 5), (4, 3)))
    often = training(groups=((0, 5), (4000, 10)), primary=f"{ABOVE_WRONG}/4000x")
    for wrong in (few, often):
        with pytest.raises(ValueError, match=r"^bench: whole questions fill \d+ of 2000 tokens:"):
            inserted(wrong.burst(SIZE), make_world)
    with pytest.raises(ValueError, match="groups must be a holdout and one group, not 3"):
        training(groups=((0, 5), (4, 9), (12, 9)))


def test_a_burst_reads_the_right_option_above_the_wrong_ones():
    burst = dataclasses.replace(training(), primary="accuracy/4x").burst(SIZE)
    assert (burst.primary, burst.tokens, burst.groups) == (
        f"{ABOVE_WRONG}/4x",
        2_000,
        ((0, 5), (4, 100)),
    )


def differences(make_world, make_scorer, tokenizer, gain):
    """By outcome: how much a model gains that adds `gain(item, option)` to a log-likelihood."""
    experiment = training(groups=((0, 5), (4, 10)))
    items = list(experiment.intervene(make_world(experiment, length=256)))

    def score(value):
        def of(sequence, i):
            text = tokenizer.decode(sequence[1:])
            return value(text.rpartition(" ")[0], text.endswith("sat"))

        return experiment.outcome(make_scorer(items, of))

    known = {item.text.rpartition(" ")[0] for item in items if item.repetitions}
    run = score(lambda context, right: -2.0 + gain(context in known, right))
    found = experiment.estimates(run, score(lambda context, right: -2.0))
    return {f"{e.outcome}/{e.condition}": e.difference for e in found}


def test_what_all_options_gain_does_not_pass(make_world, make_scorer, tokenizer):
    measured = make_world, make_scorer, tokenizer
    format_only = differences(*measured, lambda known, right: 0.5)
    assert format_only["gold_log_likelihood/4x"] >= 0.5
    assert format_only[f"{ABOVE_WRONG}/4x"] == pytest.approx(0)
    learned = differences(*measured, lambda known, right: 0.5 * (known and right))
    assert learned[f"{ABOVE_WRONG}/4x"] > 0.1 and learned[f"{ABOVE_WRONG}/0x"] == pytest.approx(0)


def test_a_gain_above_the_holdout_is_blind_to_another_benchmark(make_world, make_scorer, tokenizer):
    """Another benchmark changes the group and the holdout alike."""
    found = differences(make_world, make_scorer, tokenizer, lambda known, right: 0.5 * right)
    assert found[f"{ABOVE_WRONG}/4x"] > 0.1
    assert found["gold_log_likelihood_above_holdout/4x"] == pytest.approx(0)


def test_learning_the_form_of_answers_does_not_pass():
    """Names of three lengths, each right once and wrong twice: long ones gain more than short."""
    rows = [
        (f"q{right}", name == right, -2.0 * (1 + name), 1.0 * (1 + name))
        for right in range(3)
        for name in range(3)
    ]
    scored = pd.DataFrame(rows, columns=["item", "gold", "log_likelihood", "gain"])
    before = training()._values(scored)[ABOVE_WRONG]
    scored["log_likelihood"] += scored["gain"]
    after = training()._values(scored)[ABOVE_WRONG]
    assert (after - before).mean() == pytest.approx(0) and np.ptp(after - before) > 1


def test_wrong_options_count_by_their_mean():
    scored = pd.DataFrame(
        [
            ("p", True, -3.0),
            ("p", False, -5.0),
            ("q", False, -1.0),
            ("q", True, -1.0),
            ("q", False, -4.0),
        ],
        columns=["item", "gold", "log_likelihood"],
    )
    found = training()._values(scored)[ABOVE_WRONG]
    assert found.to_dict() == {"p": 2.0, "q": 1.5}
