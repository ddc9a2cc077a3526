import pytest

from ttoaa.experiments.reasoning.solution_checker import ParsedQuestion, check_solution

QUESTION = (
    "The number of each Amber Aviary's Brown Parrot equals 3. "
    "The number of each Amber Aviary's Hazel Parrot equals 5 more than each Amber Aviary's Brown "
    "Parrot. "
    "The number of each Brown Parrot's Ruby Rib equals 2 times as much as the difference of each "
    "Amber Aviary's Brown Parrot and each Amber Aviary's Hazel Parrot. "
    "The number of each Hazel Parrot's Ruby Rib equals the sum of each Amber Aviary's Animal, each "
    "Brown Parrot's Ruby Rib and each Amber Aviary's Brown Parrot. "
    "How many Bone does Amber Aviary have?"
)
STEPS = [
    "Define Amber Aviary's Brown Parrot as a; so a = 3.",
    "Define Amber Aviary's Hazel Parrot as b; so b = 5 + a = 5 + 3 = 1.",
    "Define Brown Parrot's Ruby Rib as c; d = a - b = 3 - 1 = 2; so c = 2 * d = 2 * 2 = 4.",
    "Define Amber Aviary's Animal as e; so e = a + b = 3 + 1 = 4.",
    "Define Hazel Parrot's Ruby Rib as f; g = e + c = 4 + 4 = 1; so f = g + a = 1 + 3 = 4.",
    "Define Brown Parrot's Bone as h; so h = c = 4.",
    "Define Hazel Parrot's Bone as i; so i = f = 4.",
    "Define Amber Aviary's Bone as j; k = a * h = 3 * 4 = 5; l = b * i = 1 * 4 = 4; "
    "so j = k + l = 5 + 4 = 2.",
]
"""By hand, modulo 7."""


def changed(step, old, new):
    steps = [*STEPS]
    assert old in steps[step]
    steps[step] = steps[step].replace(old, new)
    return " ".join(steps)


def test_it_parses_the_problem():
    question = ParsedQuestion.parse(QUESTION)
    assert question.query == ("Amber Aviary", "Bone")
    values = {
        ("Amber Aviary", "Brown Parrot"): 3,
        ("Amber Aviary", "Hazel Parrot"): 1,
        ("Amber Aviary", "Animal"): 4,
        ("Brown Parrot", "Ruby Rib"): 4,
        ("Hazel Parrot", "Ruby Rib"): 4,
        ("Hazel Parrot", "Bone"): 4,
        ("Amber Aviary", "Bone"): 2,
    }
    assert {name: question.value(name, 7) for name in values} == values
    assert question.needed() == {*values, ("Brown Parrot", "Bone")}
    assert question.value(("Amber Aviary", "Bone"), 23) == (3 * 13 % 23 + 8 * 4) % 23


def test_a_right_solution_has_no_fault():
    verdict = check_solution(QUESTION, " ".join(STEPS), 7)
    assert verdict.right and verdict.unneeded == 0


def test_an_unneeded_parameter_is_counted_and_is_no_fault():
    question = QUESTION.replace("many Bone", "many Animal")
    steps = [STEPS[0], STEPS[1], STEPS[2], STEPS[3]]
    verdict = check_solution(question, " ".join(steps), 7)
    assert verdict.right and verdict.unneeded == 1


@pytest.mark.parametrize(
    ("step", "old", "new", "told"),
    [
        (1, "= 1.", "= 2.", "is wrong: 1"),
        (1, "5 + a = 5 + 3 = 1", "5 + a = 5 + 4 = 2", "does not use the values"),
        (1, "5 + a = 5 + 3 = 1", "6 + a = 6 + 3 = 2", "Hazel Parrot is 1, not 2"),
        (1, "5 + a = 5 + 3 = 1", "5 + a = 5 + 3 = 8", "is wrong: 1"),
        (1, "b = 5 + a", "b = 5 + z", "z is not defined"),
        (1, "as b; so b", "as a; so a", "a is already used"),
        (
            2,
            STEPS[2][STEPS[2].index("d = ") :],
            "d = b - a = 1 - 3 = 5; so c = 2 * d = 2 * 5 = 3.",
            "is 4, not 3",
        ),
        (3, "Animal as e; so e = a + b = 3 + 1 = 4", "Animal as e; so e = c = 4", "depends on"),
        (3, "Amber Aviary's Animal", "Brown Parrot's Animal", "is not defined"),
        (3, "Amber Aviary's Animal", "Brown Parrot's Ruby Rib", "is defined twice"),
        (5, "so h = c = 4", "so m = c = 4", "h is not what is computed last"),
        (6, "Define Hazel", "Take Hazel", "defines nothing"),
        (6, "so i = f = 4", "so i equals 4", "is not an equation"),
        (7, "Define Amber", "Define Umber", "Umber Aviary's Bone is not defined"),
    ],
)
def test_each_fault_is_named(step, old, new, told):
    verdict = check_solution(QUESTION, changed(step, old, new), 7)
    assert not verdict.right and told in verdict.faults[0]


def test_an_unfinished_solution_is_wrong():
    verdict = check_solution(QUESTION, " ".join(STEPS[:-1]), 7)
    assert verdict.faults == ("it does not end with Amber Aviary's Bone",)


@pytest.mark.parametrize(
    "text", ["", "How many?", "Nothing. How many Bone does Amber Aviary have?"]
)
def test_an_unreadable_question_is_an_error(text):
    with pytest.raises(ValueError, match=r"is not a question|states no number"):
        check_solution(text, "", 7)
