"""Questions, and the parts of one source that different experiments get."""

import collections

import numpy as np
import pytest

from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.benchmarks.question import PartOf, Question, require_count, with_shots


def question(id, context, *continuations, label=0, benchmark="b"):
    contexts = (context,) * len(continuations)
    return Question(id, benchmark, contexts, continuations, label, "Answer:")


def test_shots_come_before_every_choice_with_an_empty_line_between():
    shots = [
        question("s0", "Q: one?\nA:", " no", " yes", label=1),
        question("s1", "Q: other?\nA:", " x", benchmark="c"),
        question("s2", "Q: two?\nA:", " a", " b"),
    ]
    asked = question("q", "Q: three?\nA:", " left", " right", label=1)
    made = with_shots(asked, shots)
    context = "Q: one?\nA: yes\n\nQ: two?\nA: a\n\nQ: three?\nA:"
    assert made.contexts == (context, context)
    assert made.texts == [f"{context} left", f"{context} right"]
    kept = ("id", "benchmark", "continuations", "label", "unconditional")
    assert all(getattr(made, name) == getattr(asked, name) for name in kept)
    assert with_shots(asked, []) == asked


def test_shots_must_be_of_the_benchmark_and_not_the_question():
    asked = question("q", "Q:", " a", " b")
    with pytest.raises(ValueError, match="no shot is of b"):
        with_shots(asked, [question("s", "Q:", " a", benchmark="c")])
    with pytest.raises(ValueError, match="question q is itself among the shots"):
        with_shots(asked, [question("s", "Q:", " a", " c")])


def test_enough_counts_the_longest_choice():
    questions = [question("short", "Q", " a", " bb"), question("long", "Q", " a", " bbb")]
    assert (
        require_count(questions, 2, None, "It") == require_count(questions, 2, 5, "It") == questions
    )
    assert [q.id for q in require_count(questions, 1, 4, "It")] == ["short"]
    with pytest.raises(ValueError, match="2 questions are needed, but It has only 1: lower"):
        require_count(questions, 2, 4, "It")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((("a",), (" b", " c"), 0), "question q has 1 contexts, 2 continuations"),
        ((("a", "a"), (" b", " c"), 2), "question q has 2 options and label 2"),
        ((("a", "a"), (" b", " "), 0), "question q has an empty option"),
    ],
)
def test_a_question_that_is_none_is_an_error(fields, message):
    with pytest.raises(ValueError, match=message):
        Question("q", "b", *fields)


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
