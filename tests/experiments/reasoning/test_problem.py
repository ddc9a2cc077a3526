import collections
import dataclasses
import graphlib
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from ttoaa.experiments.reasoning.graph import SentenceSize, draw_graph
from ttoaa.experiments.reasoning.names import FULL, SHORT, Names, ShortNames
from ttoaa.experiments.reasoning.problem import Arithmetic, draw_operations, template
from ttoaa.experiments.reasoning.problem_parser import ParsedQuestion
from ttoaa.experiments.reasoning.solution_checker import check_solution
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


def test_no_problem_is_cyclic(drawn):
    """By the full rule: an abstract parameter needs those of all items below, zero or not."""
    zeros = abstract = sentences = 0
    for problem in drawn:
        question = ParsedQuestion.parse(problem.question)
        graph = {name: question.needs(name) for name in question.parameters.values()}
        order = [*graphlib.TopologicalSorter(graph).static_order()]
        assert set(order) == set(graph), problem
        needed = question.needed()
        zeros += any(not graph[name] and name not in question.stated for name in needed)
        sentences += len(question.stated)
        abstract += sum(
            any(operand not in question.stated for operand in said.operands)
            for said in question.stated.values()
        )
    # 3,000 problems of iGSM's own code: 8.3% and 16.6%.
    assert 0.06 < zeros / len(drawn) < 0.11
    assert 0.14 < abstract / sentences < 0.19


def test_independent_distractors_depend_on_each_other_only():
    draws, alone, mixed = Draws("distractors"), 0, 0
    for _ in range(300):
        graph = draw_graph(draws, draw_size(draws, 5, 20), 5, SentenceSize(23, 4))
        if graph is None:
            continue
        distractors = [edge for edge in graph.structure.edges if edge not in graph.needed]
        independent = set()
        for edge in distractors * len(distractors):
            if independent.issuperset(graph.sentences[edge].operands):
                independent.add(edge)
        alone += len(independent)
        mixed += len(distractors) - len(independent)
    # Half are independent by draw, and of the rest those that have a constant only.
    assert 0.5 < alone / (alone + mixed) < 0.75


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
    pairs = [dataclasses.replace(arithmetic, operands=2).draw(i, 3) for i in range(50)]
    assert any("the sum of" in p.question for p in problems + pairs)
    assert not any(", each" in p.question for p in pairs)
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


def test_one_operation_has_two_templates_and_many_have_many(drawn):
    """One operation: a stated number, or an abstract parameter with nothing below it."""
    of = collections.defaultdict(set)
    for problem in drawn:
        of[problem.operations].add(problem.template)
    assert len(of[1]) == 2 and len(of[2]) <= 8
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
    assert len(names) == len(set(names)) == 2000
    assert not any(mark in name for name in names for mark in ".;'")
    with pytest.raises(
        ValueError, match=r"Names.names must be .* at least 4 and at most 20, not 3"
    ):
        Names(names=3)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("modulus", 1, "at least 2"),
        ("edges", 3, "at least 4 and at most 48"),
        ("operands", 1, "at least 2"),
    ],
)
def test_bad_settings_are_named(field, value, told):
    with pytest.raises(ValueError, match=rf"Arithmetic.{field} must be .*{told}"):
        Arithmetic(**{field: value})
