"""Experiments that share a source get different questions of it."""

import collections

import numpy as np
import pytest

from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.benchmarks.question import PartOf, Question


class Given:
    """All that it has, as a file gives it, whatever is asked for."""

    def __init__(self, sizes):
        self.every = [
            Question(f"{name}-{k}", name, (f"{name} {k}",) * 2, (" a", " b"), k % 2)
            for name, size in sizes.items()
            for k in range(size)
        ]

    def questions(self, count, rng):
        return self.every


GIVEN = Given({"arc": 31, "piqa": 20, "swag": 10})


def parts(parts, rng=0, count=5, **fields):
    return [
        PartOf(GIVEN, part, parts, **fields).questions(count, np.random.default_rng(rng))
        for part in range(parts)
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_parts_are_all_and_share_nothing(number):
    made = parts(number)
    ids = [question.id for part in made for question in part]
    assert sorted(ids) == sorted(question.id for question in GIVEN.every)
    assert max(map(len, made)) - min(map(len, made)) <= 1
    for name in ("arc", "piqa", "swag"):
        counts = [collections.Counter(q.benchmark for q in part)[name] for part in made]
        assert max(counts) - min(counts) <= 1


def test_parts_follow_from_the_key_alone():
    assert parts(2) == parts(2, rng=1, count=7)
    assert parts(2, key=1) != parts(2)
    shares = [len(set(parts(2, key=k)[0]) & set(parts(2)[0])) / 31 for k in range(1, 40)]
    assert 0.4 < np.mean(shares) < 0.6  # at random, and not every second one


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PartOf(GIVEN, part=2), "part must be 0 to 1, not 2"),
        (lambda: PartOf(GIVEN, parts=0), "parts at least 1"),
        (lambda: parts(3, count=22), "22 questions are needed, but part 0 of 3 has only 21"),
        # One that makes as many as it is asked for has nothing to divide.
        (
            lambda: PartOf(GeneratedQuestions()).questions(40, np.random.default_rng(0)),
            "part 0 of 2 has only 20",
        ),
    ],
)
def test_what_cannot_be_divided_is_one_line(make, told):
    with pytest.raises(ValueError, match=told):
        make()
