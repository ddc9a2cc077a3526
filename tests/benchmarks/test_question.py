import pytest

from ttoaa.benchmarks.question import Question, require_count, with_shots


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
