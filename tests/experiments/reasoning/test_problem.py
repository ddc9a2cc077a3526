import collections
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from ttoaa.experiments.reasoning.names import FULL, SHORT, Names, ShortNames
from ttoaa.experiments.reasoning.problem import Arithmetic, draw_operations, template
from ttoaa.experiments.reasoning.solution_checker import ParsedQuestion, check_solution
from ttoaa.experiments.reasoning.structure import Draws, draw_size, draw_structure


@pytest.fixture(scope="module")
def drawn():
    """1,500 problems by the law of sizes, at the paper's setting."""
    arithmetic, sizes = Arithmetic(), Draws("sizes")
    return [arithmetic.draw(f"problem-{i}", draw_operations(sizes, 10)) for i in range(1500)]


def operations_of(solution):
    """Counted in the text: of each definition its signs, or one where it has none."""
    steps = re.split(r"\.(?:\s+|$)", solution.strip())[:-1]
    shown = [re.findall(r"[A-Za-z0-9]+ [-+*] [A-Za-z0-9]+ =", step) for step in steps]
    # Each sign stands twice: between letters and between their numbers.
    return sum(max(1, len(signs) // 2) for signs in shown)


def test_every_solution_is_right_by_the_text_of_its_problem(drawn):
    for problem in drawn:
        verdict = check_solution(problem.question, problem.solution, 23)
        assert verdict.right and verdict.unneeded == 0, (problem, verdict)
        question = ParsedQuestion.parse(problem.question)
        assert question.value(question.query, 23) == problem.answer
        assert operations_of(problem.solution) == problem.operations


def test_sizes_follow_the_law(drawn):
    """Lower of two uniform draws; the figures of iGSM's own code: 20 17 14 14 11 10 7 5 3 0.5%."""
    counts = collections.Counter(problem.operations for problem in drawn)
    seen = np.array([counts[op] for op in range(1, 11)])
    law = np.array([(2 * (10 - op) + 1) / 100 for op in range(1, 11)])
    assert stats.chisquare(seen, law * len(drawn)).pvalue > 0.001
    assert abs(100 * seen / len(drawn) - [20, 17, 14, 14, 11, 10, 7, 5, 3, 0.5]).max() < 3
    sentences = [problem.question.count("The number of") for problem in drawn]
    assert 8 < np.mean(sentences) < 10 and max(sentences) <= 20


def test_answers_are_residues_and_zero_is_the_commonest(drawn):
    counts = np.bincount([problem.answer for problem in drawn], minlength=23)
    assert len(counts) == 23 and counts.min() > 0
    assert counts.argmax() == 0


def test_a_problem_follows_from_its_key_alone(drawn):
    code = (
        "from ttoaa.experiments.reasoning.problem import Arithmetic; "
        "print(Arithmetic().draw('a', 5))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    problem = Arithmetic().draw("a", 5)
    assert told.stdout.strip() == str(problem)
    assert len({problem.question for problem in drawn}) > 0.99 * len(drawn)


@pytest.mark.parametrize("operations", range(1, 15))
def test_operations_are_as_asked(operations):
    names = ShortNames(5) if operations % 2 else Names(hierarchies=2, lists=1, names=4)
    arithmetic = Arithmetic(modulus=7, names=names)
    for i in range(30):
        problem = arithmetic.draw(i, operations)
        assert problem.operations == operations == operations_of(problem.solution)
        assert 0 <= problem.answer < 7
        assert check_solution(problem.question, problem.solution, 7).right


def test_small_problems_and_impossible_ones():
    arithmetic = Arithmetic(modulus=7, edges=4, names=Names(1, 1, 4))
    problems = [arithmetic.draw(i, 2) for i in range(50)]
    assert max(p.question.count("The number of") for p in problems) == 4
    words = {word for p in problems for word in re.findall(r"[A-Z][a-z]+", p.question)}
    assert len(words) < 30
    with pytest.raises(ValueError, match="no problem of 30 operations with at most 4 edges"):
        arithmetic.draw(0, 30)


def test_a_solution_that_runs_out_of_letters_is_one_line():
    with pytest.raises(ValueError, match="needs more than 52 letters: ask for fewer operations"):
        Arithmetic(edges=48).draw("key", 60)


def test_templates_ignore_names_numbers_and_letters():
    first = "Define A x's B x as p; so p = 3. Define A x's Cs as q; so q = 2 + p = 2 + 3 = 5."
    other = "Define D y's E y as Z; so Z = 11. Define D y's Cs as a; so a = 9 + Z = 9 + 11 = 20."
    product = other.replace("+", "*")
    assert template(first, ("Cs",)) == template(other, ("Cs",))
    assert template(first, ("Cs",)) != template(product, ("Cs",))
    assert template(first, ("Cs",)) != template(first, ("B x",))


def test_one_operation_has_one_template_and_many_have_many(drawn):
    of = collections.defaultdict(set)
    for problem in drawn:
        of[problem.operations].add(problem.template)
    assert len(of[1]) == 1 and len(of[2]) <= 6
    assert len(of[8]) == sum(problem.operations == 8 for problem in drawn)


def test_structures_hold_what_their_size_says():
    draws = Draws("structures")
    for _ in range(500):
        size = draw_size(draws, draws.between(1, 20), 20)
        structure = draw_structure(draws, size)
        widths = structure.widths
        assert len(widths) == size.depth and len(set(structure.edges)) == len(structure.edges)
        assert all(size.narrow <= width <= size.wide for width in widths)
        assert len(structure.edges) == size.edges <= 20
        below = {(i + 1, k) for i, _, k in structure.edges}
        assert below == {(i, k) for i in range(1, size.depth) for k in range(widths[i])}


def test_names_are_unique_and_hold_no_full_stop():
    names = [n for h in (*FULL, SHORT) for level in h.names for part in level for n in part]
    assert len(names) == len(set(names)) == 1680
    assert not any(mark in name for name in names for mark in ".;'")
    with pytest.raises(ValueError, match=r"Names.names must be 4 to 20, not 3"):
        Names(names=3)


@pytest.mark.parametrize(
    ("field", "value", "told"), [("modulus", 1, "at least 2"), ("edges", 3, "4 to 48")]
)
def test_bad_settings_are_named(field, value, told):
    with pytest.raises(ValueError, match=rf"Arithmetic.{field} must be {told}"):
        Arithmetic(**{field: value})
