"""Which outcomes models pass that know less than a solution, and the margins by another way."""

import math
import re

import numpy as np
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import World
from ttoaa.experiments.reasoning import margins
from ttoaa.experiments.reasoning.baselines import best_constant, best_copy
from ttoaa.experiments.reasoning.experiment import Reasoning
from ttoaa.experiments.reasoning.names import ShortNames
from ttoaa.experiments.reasoning.problem import Arithmetic
from ttoaa.planning.items import Item
from ttoaa.statistics.bootstrap import paired_estimates

M = 7
CONDITIONS = ("op-1", "op-3")


@pytest.fixture(scope="module")
def experiment():
    return Reasoning(
        name="mr",
        primary="margin_new/op-3",
        expected_sign=1,
        arithmetic=Arithmetic(modulus=M, edges=4, operands=2, names=ShortNames(20, lists=5)),
        problems=30,
        operations=3,
        test_operations=(1, 3),
        test_problems=84,
        shots=0,
        generate=False,
    )


@pytest.fixture(scope="module")
def tests(experiment, tokenizer):
    world = World(0, "mr", tokenizer, Geometry(4096, 4, 100), np.empty(0, int), lambda: None)
    return [item for item in experiment.intervene(world) if isinstance(item, Item)]


def knows_nothing(stated, written, answer):
    return [1e-3] * 10


def knows_the_format(stated, written, answer):
    return [1 / M] * M


def copies_a_stated_number(stated, written, answer):
    return [0.01 + (r in stated) for r in range(M)]


def copies_a_written_number(stated, written, answer):
    return [0.01 + written.count(r) for r in range(M)]


def repeats_the_last_number(stated, written, answer):
    return [0.01 + (r == written[-1]) for r in range(M)]


def copies_a_constant(stated, written, answer):
    """Of a sentence that states nothing else; `stated` holds only these, as often as stated."""
    return [0.01 + stated.count(r) for r in range(M)]


def avoids_written_numbers(stated, written, answer):
    return [0.01 + (r not in written) for r in range(M)]


def avoids_zero(stated, written, answer):
    return [0.01 + (r != 0) for r in range(M)]


def prefers_a_number(stated, written, answer):
    return [1.0 + (r == 4) for r in range(M)]


def solves(stated, written, answer):
    return [0.01 + (r == answer) for r in range(M)]


def outcomes_of(model, experiment, tests, make_scorer):
    """The outcomes of a model that gives the numbers after "= " these chances."""
    scorer = make_scorer(tests)
    by_context = {item.text.rpartition("= ")[0]: item for item in tests}

    def score(tokens, i):
        text = scorer.tokenizer.decode(tokens[1 : i + 1])
        before, _, number = text.rpartition("= ")
        if before not in by_context or not number.isdigit():
            return -0.01
        item = by_context[before]
        question = item.fields["question"]
        if model is copies_a_constant:
            question = " ".join(re.findall(r"equals \d\.", question))
        stated, written = (_numbers(t) for t in (question, before.partition(":")[2]))
        weights = model(stated, written, item.fields["answer"])
        total = sum(weights) if len(weights) == M else 1
        return math.log(weights[int(number)] / total)

    scorer.token_score = score
    return experiment.outcome(scorer)


@pytest.fixture(scope="module")
def nothing(experiment, tests, make_scorer):
    return outcomes_of(knows_nothing, experiment, tests, make_scorer)


STATED, NEW, RESIDUES = "margin_stated/op-1", "margin_new/op-3", "margin_residues/op-1"


@pytest.mark.parametrize(
    ("model", "passed"),
    [
        (knows_nothing, set()),
        (knows_the_format, set()),
        (copies_a_stated_number, {RESIDUES}),
        (copies_a_written_number, {RESIDUES}),
        (copies_a_constant, {RESIDUES}),
        (repeats_the_last_number, {RESIDUES}),
        (avoids_written_numbers, set()),
        (avoids_zero, set()),
        (prefers_a_number, set()),
        (solves, {RESIDUES, STATED, NEW, "margin_residues/op-3"}),
    ],
)
def test_only_a_solver_passes_the_primaries(model, passed, experiment, tests, nothing, make_scorer):
    """A model passes if the interval of its gain over one that knows nothing is above zero."""
    scored = outcomes_of(model, experiment, tests, make_scorer)
    found = paired_estimates(scored, nothing, experiment.sign)
    rows = {f"{e.outcome}/{e.condition}": e for e in found}
    margin_rows = {name for name in rows if name.startswith("margin")} - {experiment.placebo}
    assert {f"margin_residues/{c}" for c in CONDITIONS} < margin_rows
    above = {name for name in margin_rows if rows[name].difference_ci_low > 1e-6}
    if model is solves:
        assert above == passed
    else:
        assert above & {STATED, NEW, RESIDUES} == passed
    if model is avoids_zero:
        assert rows[STATED].difference == pytest.approx(0)
        assert rows[NEW].difference == pytest.approx(0)
    placebo = rows[experiment.placebo]
    assert placebo.difference_ci_low <= 1e-9 and placebo.difference_ci_high >= -1e-9
    copy = rows["copy_log_likelihood/op-1"]
    assert copy.value == pytest.approx(copy.control_value)  # not a part of any margin


def _numbers(text):
    return [int(word) for word in margins.NUMBER.findall(text)]


def test_margins_against_scores_of_whole_texts(tokenizer, make_scorer):
    """Numbers of several tokens: the difference of the log-probabilities of two whole texts."""
    question = "The number of each Ba's Ge equals 12. The number of each Ba's Ga equals 3. How ..."
    text = (
        "Modulo 23.\nProblem: The number …\nSolution: Define Ba's Ge as x; so x = 12. Define Ba's "
        "Bag as y; so y = 2 * x = 2 * 12 = 1.\nAnswer: 1"
    )
    item = Item("op-2-0", "op-2", 0, text=text, fields={"question": question, "answer": 1})
    scorer = make_scorer(
        [item], lambda tokens, i: -float(hash((*map(int, tokens[: i + 1]), i)) % 97)
    )
    (found,) = margins.score_results(scorer, [margins.Result.parse(text, question, 1, 23)])

    def whole(number):
        tokens = [
            tokenizer.eos_id,
            *tokenizer.encode(text.replace("= 1.\nAnswer: 1", f"= {number}.")),
        ]
        return sum(scorer.token_score(np.array(tokens), i) for i in range(1, len(tokens)))

    score = [whole(r) for r in range(23)]
    assert max(len(tokenizer.encode(f" {r}.")) for r in range(23)) > 2

    def margin(number, others):
        return score[number] - np.mean([score[r] for r in others if r != number])

    written = {12, 3, 2}
    assert found["margin_residues"] == pytest.approx(margin(1, range(23)))
    assert found["margin_new"] == pytest.approx(margin(1, set(range(1, 23)) - written))
    assert "margin_stated" not in found
    placebos = [margin(n, set(range(23)) - {12, 3, 1}) for n in set(range(23)) - {12, 3, 1}]
    assert min(abs(found["margin_wrong_residue"] - p) for p in placebos) < 1e-6
    assert np.mean(placebos) == pytest.approx(0)
    assert len(scorer.requests) == 24


@pytest.mark.parametrize(
    ("step", "answer", "has"),
    [
        ("so x = 3", 3, {STATED}),
        ("so x = 0", 0, set()),
        ("so y = 5. Define A's D as x; so x = y = 5", 5, set()),
        ("so x = 2 * y = 2 * 5 = 4", 4, {NEW}),
        ("so x = 4 + y = 4 + 6 = 3", 3, {STATED}),
        ("k = y + z = 5 + 1 = 6; so x = 2 * k = 2 * 6 = 6", 6, set()),
    ],
)
def test_which_margins_a_problem_has(step, answer, has):
    question = "The number of each A's B equals 3. The number of each A's C equals 5. How …"
    text = f"Modulo 7.\nProblem: {question}\nSolution: Define A's B as x; {step}.\nAnswer: {answer}"
    result = margins.Result.parse(text, question, answer, M)
    expected = {"margin_residues", margins.PLACEBO} | {name.partition("/")[0] for name in has}
    assert result.comparisons().keys() == expected
    number, others = result.comparisons()[margins.PLACEBO]
    assert {number, *others} == set(range(M)) - {3, 5, answer}


def test_placebos_choose_every_wrong_number_equally_often():
    none, two = frozenset(), frozenset({2})
    chosen = [
        margins.Result("", ".", 1, M, none, two, two, True, str(key)).comparisons()
        for key in range(1000)
    ]
    counts = np.bincount([c[margins.PLACEBO][0] for c in chosen], minlength=M)
    assert counts[[1, 2]].tolist() == [0, 0] and counts[[0, 3, 4, 5, 6]].min() > 150


def test_baselines():
    questions = [
        "The number of each A's B equals 3. The number of each A's C equals 5 more than each A's B."
        " How many C does A have?",
        "The number of each A's B equals 2. The number of each D's B equals 6. How many B does A "
        "have?",
        "The number of each D's B equals 4. How many Bag does D have?",
    ]
    assert best_constant([1, 6, 6]) == [False, True, True]
    assert best_copy(questions, [5, 6, 4], 1) == [True, True, True]  # the last one
    assert sum(best_copy(questions, [3, 6, 1], 1)) == 1
    assert best_copy(questions, [5, 2, 1], 2) == [True, True, False]  # that of the query's sentence
