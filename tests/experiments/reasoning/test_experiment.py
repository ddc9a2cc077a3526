import dataclasses
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from ttoaa.experiments.reasoning.dataset import (
    SeenProblems,
    draw_problems,
    draw_shots,
    draw_test,
    traces,
)
from ttoaa.experiments.reasoning.experiment import Reasoning
from ttoaa.experiments.reasoning.names import Names, ShortNames
from ttoaa.experiments.reasoning.problem import Arithmetic
from ttoaa.experiments.reasoning.solution_checker import check_solution
from ttoaa.planning.items import Item, Items
from ttoaa.statistics.bootstrap import paired_estimates

SMALL = Arithmetic(modulus=7, edges=4, names=Names(1, 1, 4))
LENGTH = 4096


def reasoning(**changes):
    fields = {
        "name": "mr",
        "primary": "margin_stated/op-1",
        "expected_sign": 1,
        "arithmetic": SMALL,
        "problems": 60,
        "operations": 3,
        "test_operations": (1, 2, 5),
        "test_problems": 14,
        "shots": 1,
    }
    return Reasoning(**(fields | changes))


@pytest.fixture(scope="module")
def blocks_and_tests(request):
    """What the experiment does in a world, computed once."""
    kept = {}

    def get(make_world):
        if not kept:
            made = list(reasoning().intervene(make_world(reasoning(), length=LENGTH)))
            kept["training"] = [m for m in made if isinstance(m, Items)]
            kept["tests"] = [m for m in made if isinstance(m, Item)]
        return kept["training"], kept["tests"]

    return get


def split(text, modulus=7):
    form = rf"(?s)(.+modulo {modulus}\.)\nProblem: (.+)\nSolution: (.+)\nAnswer: (\d+)"
    match = re.fullmatch(form, text)
    return match[2], match[3], int(match[4])


def test_training_texts_are_right_and_each_stands_once(blocks_and_tests, make_world, tokenizer):
    (block,), _ = blocks_and_tests(make_world)
    assert len(block.ids) == len(set(block.texts)) == 60 and block.repetitions == 1
    starts = np.concatenate([[0], np.cumsum(block.lengths)])
    assert len(block.tokens) == starts[-1]
    for i, text in enumerate(block.texts):
        question, solution, _ = split(text)
        assert check_solution(question, solution, 7).right
        tokens = block.tokens[starts[i] : starts[i + 1]]
        assert tokens[0] == tokens[-1] == tokenizer.eos_id
        assert tokenizer.decode(tokens[1:-1]) == text
    assert len({text.partition("\n")[0] for text in block.texts}) == 5


def test_tests_are_held_out_balanced_and_not_given_away(blocks_and_tests, make_world):
    (block,), tests = blocks_and_tests(make_world)
    trained = {split(text)[0] for text in block.texts}
    for operations in (1, 2, 5):
        mine = [t for t in tests if t.condition == f"op-{operations}"]
        assert [t.repetitions for t in mine] == [0] * 14
        answers = [t.fields["answer"] for t in mine]
        assert np.bincount(answers, minlength=7).tolist() == [2] * 7
        questions = {t.fields["question"] for t in mine}
        assert len(questions) == 14 and not questions & trained
        for test in mine:
            assert test.text.endswith(f"Answer: {test.fields['answer']}")
            assert test.text.startswith(test.fields["prompt"].split("\n\n")[-1])
            shots = test.fields["prompt"].split("\n\n")[:-1]
            assert len(shots) == 1 and split(shots[0])[0] not in questions


def test_it_follows_from_seed_and_name(make_world, same_items):
    def tests(**world):
        experiment = reasoning(problems=5, test_operations=(1,), primary="accuracy/op-1")
        made = experiment.intervene(make_world(experiment, length=LENGTH, **world))
        return [m for m in made if isinstance(m, Item)]

    assert same_items(tests(), tests())
    assert not same_items(tests(), tests(seed=1))
    assert not same_items(tests(), tests(name="other"))


def test_what_is_seen_is_a_template_or_a_text():
    """Many operations: the form of the solution; few: the very words."""
    arithmetic = Arithmetic()
    trained = [arithmetic.draw(f"a{i}", 4) for i in range(400)]
    seen = SeenProblems(trained)
    assert len(seen.templates) < 400 and all(map(seen.has_question, trained))
    assert not seen.has_question(arithmetic.draw("z", 4))
    tests, _ = draw_test(arithmetic, "b", 4, 46, seen)
    assert not {t.template for t in tests} & {t.template for t in trained}
    easy = SeenProblems([arithmetic.draw("c", 1)])
    assert not easy.templates
    late = SeenProblems(trained, new_templates_from=5)
    alike = next(
        t
        for t in map(lambda i: arithmetic.draw(f"q{i}", 4), range(400))
        if t.template in seen.templates
    )
    assert seen.gives_away(alike) and not late.gives_away(alike) and not late.templates
    assert easy.gives_away(arithmetic.draw("c", 1)) and not easy.gives_away(arithmetic.draw("d", 1))
    every_answer_but_the_last = SeenProblems()
    every_answer_but_the_last.gives_away = lambda problem: problem.answer == 6
    with pytest.raises(ValueError, match=r"found only 12 of 14 test problems of 4 operations"):
        draw_test(SMALL, "e", 4, 14, every_answer_but_the_last)


def test_shots_are_neither_seen_nor_twice_nor_what_is_asked():
    test = SMALL.draw("t", 5)
    most = list(draw_problems(SMALL, "k", 5, 5))
    assert draw_shots(SMALL, "k", 3, 5, test, SeenProblems()) == most[:3]
    seen = SeenProblems([most[0], most[2]])
    assert draw_shots(SMALL, "k", 2, 5, test, seen) == [most[1], most[3]]
    # The test is of the form of most[k]: that one would give its solution away.
    alike = next(p for p in draw_problems(SMALL, "k", 200, 5) if p.operations > 3)
    assert alike not in draw_shots(SMALL, "k", 30, 5, alike, SeenProblems())
    with pytest.raises(ValueError, match="found only 0 of 1 shots that are neither"):
        seen.has_question = lambda problem: True
        draw_shots(SMALL, "k", 1, 1, test, seen)


def test_prompts_are_barred_from_training_and_all_tests(monkeypatch, make_world):
    asked = []

    def shots(arithmetic, key, count, most, test, seen):
        asked.append((key, test, seen))
        return draw_shots(arithmetic, key, count, most, test, seen)

    monkeypatch.setattr("ttoaa.experiments.reasoning.experiment.draw_shots", shots)
    experiment = reasoning(operations=5, test_operations=(1, 5), primary="accuracy/op-1")
    world = make_world(experiment, length=LENGTH)
    block, *tests = experiment.intervene(world)
    trained = list(draw_problems(SMALL, f"{world.seed}/{world.name}/train", len(block.texts), 5))
    assert {p.question for p in trained} == {split(text)[0] for text in block.texts}
    assert max(p.operations for p in trained) > 3
    assert [test.question for _, test, _ in asked] == [t.fields["question"] for t in tests]
    assert len({key for key, _, _ in asked}) == len(tests)
    for _, _, seen in asked:
        assert all(map(seen.has_question, trained)) and all(
            seen.has_question(test) for _, test, _ in asked
        )


def test_many_are_the_same_in_parallel_and_alone(monkeypatch):
    told = list(draw_problems(SMALL, "k", 4100, 3))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert told == list(draw_problems(SMALL, "k", 4100, 3))
    assert len({problem.question for problem in told}) > 1000


def test_a_solution_contains_those_of_other_problems():
    first, second = "Define A's B as {}; so {} = 3.", "Define A's C as {}; so {} = 5."
    third = "Define A's Bag as {}; {} = {} + {} = 3 + 5 = 1; so {} = 2 * {} = 2 * 1 = 2."
    solution = f"{first} {second} {third}".format(*"xxzzQkxzQk")
    assert list(traces(solution)) == [
        f"{first} {second} {third}".format(*(f"v{i}" for i in (0, 0, 1, 1, 2, 3, 0, 1, 2, 3))),
        f"{first} {second}".format("v0", "v0", "v1", "v1"),
        first.format("v0", "v0"),
        second.format("v0", "v0"),
    ]
    renamed = solution.translate(str.maketrans("xQk", "bax"))
    assert list(traces(renamed)) == list(traces(solution))


def test_no_test_solution_occurs_in_training(capsys, make_world):
    """80 problems of one operation cover a large part of a space of 192 names and 3 numbers."""
    arithmetic = Arithmetic(modulus=3, edges=4, operands=2, names=ShortNames(4))

    def tiny(**changes):
        fields = {"arithmetic": arithmetic, "operations": 2, "test_operations": (1, 2)}
        return reasoning(**fields, problems=80, test_problems=12, shots=0, **changes)

    def solutions(made):
        return [split(text, 3)[1] for each in made for text in _texts(each)]

    def plain(solution):
        """By another rule: words, with each letter as its distance to its first use."""
        words = re.sub(r"[;.]", "", solution).split()
        return [words.index(w) if len(w) == 1 and w.isalpha() else w for w in words]

    made = list(tiny().intervene(make_world(tiny(), length=LENGTH)))
    trained = [plain(s) for s in solutions(m for m in made if isinstance(m, Items))]
    tested = [plain(s) for s in solutions(m for m in made if isinstance(m, Item))]
    assert len(set(map(str, tested))) == len(tested) == 24
    for test in tested:
        assert not any(test == whole[: len(test)] for whole in trained)
    redrawn = re.findall(r"mr: redrew (\d+) test problems of op-(\d)", capsys.readouterr().out)
    assert [op for _, op in redrawn] == ["1", "2"] and int(redrawn[0][0]) > 5
    many = tiny(primary="margin_residues/op-1")
    many = dataclasses.replace(many, problems=2000)
    with pytest.raises(ValueError, match=r"mr: found only \d+ of 12 test .* \(2\d+ were redrawn"):
        list(many.intervene(make_world(many, length=LENGTH)))


def _texts(made):
    return made.texts if isinstance(made, Items) else [made.text]


def test_a_primary_that_no_problem_has_is_refused(make_world):
    experiment = reasoning(primary="margin_new/op-1")
    with pytest.raises(ValueError, match="mr: no test problem has the outcome 'margin_new/op-1'"):
        list(experiment.intervene(make_world(experiment, length=LENGTH)))


def test_outcomes(blocks_and_tests, make_world, make_scorer, tokenizer):
    """Half of the problems solved, one of these with a wrong step; numbers a nat likelier."""
    _, tests = blocks_and_tests(make_world)
    wrong_step = tests[0].text.replace("Define ", "Take ", 1)

    class Solves:
        def generate(self, prompts, sampling):
            assert sampling.stop == ((tokenizer.eos_id,),) and len(prompts) == len(tests)
            told = []
            for number, (prompt, test) in enumerate(zip(prompts, tests, strict=True)):
                assert prompt[0] == tokenizer.eos_id
                assert tokenizer.decode(prompt[1:]) == test.fields["prompt"]
                whole = wrong_step if number == 0 else test.text
                told.append(tokenizer.encode(whole.partition("Solution:")[2]))
                if number % 2:
                    told[-1] = told[-1][:-4]
            return told

    scorer = make_scorer(tests, lambda tokens, i: -2.0 if _digit(tokenizer, tokens[i]) else -1.0)
    scorer.generate = Solves().generate
    # As in a plan, where training items have no answer.
    scorer.items = scorer.items.astype({"answer": float})
    table = reasoning().outcome(scorer)
    value = table.set_index(["outcome", "item"])["value"]
    for number, test in enumerate(tests):
        assert value["accuracy", test.id] == (number % 2 == 0)
        assert value["strict_accuracy", test.id] == (number % 2 == 0 and number > 0)
        assert value["result_log_likelihood", test.id] <= -2  # " 3." may be three tokens here
        assert value["copy_log_likelihood", test.id] <= -2
        assert value["margin_residues", test.id] == 0
    rows = table.groupby(["outcome", "condition"])["value"].mean()
    assert rows["accuracy_of_best_constant", "op-5"] == 2 / 14
    assert 0 < rows["accuracy_of_best_copy", "op-1"] < 1
    found = paired_estimates(table, table.assign(value=table["value"] - 0.25), reasoning().sign)
    assert {(e.outcome, e.condition) for e in found} >= {("accuracy", "op-5")}
    assert all(e.difference == pytest.approx(0.25) for e in found)
    silent = make_scorer(tests)  # cannot generate
    outcomes = set(reasoning(generate=False).outcome(silent)["outcome"])
    assert "margin_stated" in outcomes and not any("accuracy" in name for name in outcomes)


@pytest.mark.parametrize(
    ("answer", "right", "strict"),
    [
        ("Answer: 3", True, True),
        ("Answer: 03", True, False),
        ("Answer: ٣", False, False),
        ("Answer: " + "3" * 5000, False, False),
        ("Answer: 2. Answer: 3", False, False),
    ],
)
def test_the_answer_is_compared_as_text(answer, right, strict):
    question = "The number of each Ba's Ge equals 3. How many Ge does Ba have?"
    text = f" Define Ba's Ge as x; so x = 3.\n{answer}"
    assert reasoning()._judge(text, question, 3) == (right, strict)


def _digit(tokenizer, token):
    return tokenizer.decode([token]).strip().isdigit()


def test_its_figure_shows_chance_and_control(final_table):
    from ttoaa.statistics.bootstrap import Estimate

    rows = [
        Estimate("accuracy", f"op-{op}", 14, 0.5 / op, 0.4 / op, 0.6 / op, 0.14, 0.3, 0.2, 0.4)
        for op in (1, 2, 5)
    ]
    axes = Figure().add_subplot()
    reasoning().figure(final_table(rows), axes)
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["seed 0"].get_ydata().tolist() == pytest.approx([50, 25, 10])
    assert lines["chance"].get_ydata() == pytest.approx([100 / 7] * 2)
    rows = [Estimate("margin_stated", "op-1", 14, 0.5, 0.4, 0.6, 0.14, 0.3, 0.2, 0.4)]
    axes = Figure().add_subplot()
    reasoning(generate=False).figure(final_table(rows), axes)
    assert axes.lines[0].get_ydata()[0] == 0.5
    assert " ".join(axes.get_ylabel().split()) == "right result above other stated numbers (nats)"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"instructions": 6},
            "Reasoning.instructions must be an integer of at least 1 and at most 5",
        ),
        ({"test_operations": (2, 1)}, "Reasoning.test_operations must be .* in increasing order"),
        ({"primary": "accuracy/op-4"}, "mr: .*condition must be among"),
        ({"primary": "accuracy/op-1", "generate": False}, "'accuracy' needs generate = True"),
    ],
)
def test_bad_settings_are_named(changes, told):
    with pytest.raises(ValueError, match=told):
        reasoning(**changes)


def test_a_problem_longer_than_a_row_is_named(make_world):
    with pytest.raises(ValueError, match=r"mr: a problem has \d+ tokens, .* row of 64: lower"):
        list(reasoning().intervene(make_world(reasoning())))
