import random

import pytest

from tests.experiments.reasoning.foreign_problems import judge
from tests.experiments.reasoning.mutations import FAULTS, STYLES, attack, own_truth, total, truths
from ttoaa.experiments.reasoning.names import Names
from ttoaa.experiments.reasoning.solution_checker import check_solution

PROBLEMS = 40


@pytest.mark.parametrize("style", STYLES)
def test_the_checker_and_an_independent_judge_agree_on_mutated_solutions(style):
    found = attack(style, PROBLEMS)
    counts = total(found)
    assert not any(counts.get(fault) for fault in FAULTS), (counts, found)
    assert counts["tries"] > 25 * PROBLEMS
    assert counts["accepted, right"] > PROBLEMS / 2, (
        "swapped operands and renamed letters are right"
    )


@pytest.mark.parametrize("style", ["foreign", "plain"])
def test_right_solutions_are_accepted_whatever_the_names(style):
    for truth in truths(style, 500):
        verdict = check_solution(truth.question, truth.solution, truth.modulus)
        assert verdict.right and verdict.unneeded == 0, (truth, verdict)


def test_the_judge_finds_what_is_wrong():
    truth = own_truth(5, Names(), 23)
    assert judge(truth, truth.solution)
    assert not judge(truth, truth.solution.replace("so ", ""))
    assert not judge(truth, truth.solution.partition(" Define")[0])


def test_a_damaged_question_is_parsed_or_named():
    draw = random.Random(0)
    for truth in truths("foreign", 60):
        at, character = draw.randrange(len(truth.question)), draw.choice("'s .,0é\n")
        damaged = truth.question[:at] + character + truth.question[at + draw.randint(0, 30) :]
        try:
            check_solution(damaged, truth.solution, truth.modulus)
        except ValueError as error:
            assert "\n" not in str(error)
