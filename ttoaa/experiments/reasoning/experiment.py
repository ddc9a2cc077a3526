"""Mathematical reasoning: training on solved arithmetic problems, each seen once (paper, E.2)."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import (
    AtLeast,
    AtMost,
    Count,
    Increasing,
    NotEmpty,
    PositiveInt,
    config_class,
)
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.reasoning import margins
from ttoaa.experiments.reasoning.baselines import best_constant, best_copy
from ttoaa.experiments.reasoning.dataset import (
    NEW_TEMPLATES_FROM,
    SeenProblems,
    draw_problems,
    draw_shots,
    draw_test,
)
from ttoaa.experiments.reasoning.problem import Arithmetic, Problem
from ttoaa.experiments.reasoning.solution_checker import check_solution
from ttoaa.experiments.report_labels import PERCENT, Label, ReportLabels
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions, count_insertions
from ttoaa.planning.items import Item, Items
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.requests import Sampling
from ttoaa.statistics.power import Precision

ACCURACY, STRICT = "accuracy", "strict_accuracy"
CONSTANT, COPIED = "accuracy_of_best_constant", "accuracy_of_best_copy"
_GENERATED = (ACCURACY, STRICT, CONSTANT, COPIED)
_MARGINS = (
    margins.RESULT,
    margins.COPY,
    margins.RESIDUES,
    margins.STATED,
    margins.NEW,
    margins.PLACEBO,
)
_INSTRUCTIONS = (
    "All numbers are integers modulo {modulus}.",
    "Calculate with integers modulo {modulus}.",
    "In this problem every number is taken modulo {modulus}.",
    "Solve the problem with arithmetic modulo {modulus}.",
    "Numbers here are residues modulo {modulus}.",
)
_ANSWER = re.compile(r"(?s)(.*?)\n?Answer: ([0-9]+)")
_BLOCK = 20_000
_FEW = 300
"""Training problems from which the length of all is estimated."""

Tested = Annotated[Sequence[PositiveInt], NotEmpty(), Increasing()]


@gin.configurable
@config_class
class Reasoning(Experiment):
    """Does a model learn to solve problems from others that it saw once, with their solutions?

    Outcomes of test problems, by number of operations (docs/reasoning.md): how much likelier the
    result of the last step is than other numbers in its place (three margins, given a right
    solution up to it), the log-likelihood of its copy after "Answer:", and, with `generate`, the
    share of right answers and of solutions that are right in every step, next to the best constant
    answer and the best rule that copies a stated number. No test solution occurs in training, nor,
    from `new_templates_from` operations on, its template. All answers are equally frequent.
    """

    arithmetic: Arithmetic = dataclasses.field(default_factory=Arithmetic)
    problems: PositiveInt = 500_000
    """Training problems, each inserted once."""
    operations: PositiveInt = 10
    """The most operations of a training problem."""
    test_operations: Tested = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    """Numbers of operations tested; those above `operations` are out of distribution."""
    test_problems: PositiveInt = 100
    """Test problems for each number of operations."""
    new_templates_from: PositiveInt = NEW_TEMPLATES_FROM
    """The fewest operations of which test problems have templates that training does not have.
    Many training problems have all templates of few operations."""
    shots: Count = 3
    """Solved problems in the prompt of a test problem."""
    instructions: Annotated[int, AtLeast(1), AtMost(len(_INSTRUCTIONS))] = len(_INSTRUCTIONS)
    """Number of wordings of the sentence that states the modulus."""
    generate: bool = True
    """Generate solutions and measure accuracy, which takes a large part of the time of scoring."""
    new_tokens: PositiveInt = 500
    """The most new tokens of a generated solution."""
    placement: Placement = dataclasses.field(default_factory=Uniform)

    prior = PriorFinding(
        work="Ye et al. 2024",
        finding="A model trained on iGSM problems solves held-out problems.",
        effect="accuracy at one operation 39.2% to 99.6%",
        source="arXiv 2509.23383, table 5",
    )
    labels = ReportLabels(
        question="Does training on solved problems teach the model to solve new ones?",
        method="Problems with their solutions are inserted once each. Test problems, which are not "
        "in training, measure how much likelier the right result is than other numbers in its "
        "place.",
        caption="Outcome by the number of operations of a test problem, for each seed and its "
        "control run (dotted), with 95% intervals over problems.",
        outcomes={
            ACCURACY: Label("right answers", PERCENT),
            STRICT: Label("solutions that are right in every step", PERCENT),
            CONSTANT: Label("right answers of the best constant", PERCENT),
            COPIED: Label("right answers of the best rule that copies a number", PERCENT),
            margins.RESULT: Label("log-likelihood of the right result", "nats"),
            margins.COPY: Label("log-likelihood of its copy after 'Answer:'", "nats"),
            margins.RESIDUES: Label("right result above all other numbers", "nats"),
            margins.STATED: Label("right result above other stated numbers", "nats"),
            margins.NEW: Label("right result above other numbers that are not written", "nats"),
            margins.PLACEBO: Label("a wrong number above other wrong numbers", "nats"),
        },
        conditions={r"op-(\d+)": r"\1 operations"},
    )
    signs: ClassVar[Mapping[str, int]] = dict.fromkeys((*_GENERATED, *_MARGINS), 1)
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        outcome, _, condition = self.primary.partition("/")
        known = [f"op-{op}" for op in self.test_operations]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")
        if outcome in _GENERATED and not self.generate:
            raise ValueError(f"{self.name}: the primary {outcome!r} needs generate = True")

    @property
    def placebo(self) -> str:
        return f"{margins.PLACEBO}/{self.primary.partition('/')[2]}"

    def intervene(self, world: World) -> Iterator[Item | Items]:
        key = f"{world.seed}/{world.name}"
        seen = SeenProblems(new_templates_from=self.new_templates_from)
        drawn = draw_problems(self.arithmetic, f"{key}/train", self.problems, self.operations)
        for first in range(0, self.problems, _BLOCK):
            block = list(itertools.islice(drawn, _BLOCK))
            seen.add(block)
            yield self._training(world, first, block)
        try:
            tests = self._draw_tests(f"{key}/test", seen)
            seen.add(problem for _, problem in tests)
            shots = [
                draw_shots(
                    self.arithmetic,
                    f"{key}/shots/{problem.operations}/{number}",
                    self.shots,
                    self.operations,
                    problem,
                    seen,
                )
                for number, problem in tests
            ]
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        for (number, problem), examples in zip(tests, shots, strict=True):
            yield self._test(world, number, problem, examples)

    def _draw_tests(self, key: str, seen: SeenProblems) -> list[tuple[int, Problem]]:
        """Return (number, problem) of all test problems; print how many were redrawn.

        Raises ValueError if too few are found, or none of them has the primary outcome or placebo.
        """
        tests: list[tuple[int, Problem]] = []
        for operations in self.test_operations:
            drawn, redrawn = draw_test(self.arithmetic, key, operations, self.test_problems, seen)
            print(
                f"{self.name}: redrew {redrawn} test problems of op-{operations} whose solutions "
                f"training gives away; {len(drawn)} are left that it does not"
            )
            tests += enumerate(drawn)
        for declared in (self.primary, self.placebo):
            outcome, _, condition = declared.partition("/")
            problems = [p for _, p in tests if f"op-{p.operations}" == condition]
            having = [o for n, p in enumerate(problems) for o in self._result(p, n).comparisons()]
            if outcome in (margins.STATED, margins.NEW, margins.PLACEBO) and outcome not in having:
                raise ValueError(
                    f"no test problem has the outcome {declared!r}: take another primary, or raise "
                    "test_problems or Arithmetic.modulus"
                )
        return tests

    def _training(self, world: World, first: int, problems: Sequence[Problem]) -> Items:
        texts = [self._text(p, first + i) for i, p in enumerate(problems)]
        tokens = [self._document(world, t) for t in world.tokenizer.encode_batch(texts)]
        return Items(
            ids=[f"train-{first + i}" for i in range(len(texts))],
            condition="train",
            repetitions=1,
            tokens=np.concatenate(tokens),
            lengths=np.array([len(t) for t in tokens]),
            placement=self.placement,
            texts=texts,
        )

    def _document(self, world: World, tokens: np.ndarray) -> np.ndarray:
        what, advice = f"{self.name}: a problem", "lower operations or Arithmetic.edges"
        return world.document(tokens, what, advice)

    def _text(self, problem: Problem, number: int) -> str:
        prompt = self._prompt(problem, number)
        return f"{prompt} {problem.solution}\nAnswer: {problem.answer}"

    def _prompt(self, problem: Problem, number: int) -> str:
        modulus = _INSTRUCTIONS[number % self.instructions].format(modulus=self.arithmetic.modulus)
        return f"{modulus}\nProblem: {problem.question}\nSolution:"

    def _test(self, world: World, number: int, problem: Problem, shots: Sequence[Problem]) -> Item:
        """Return a test item; `shots` are drawn as in training but occur in no training or test."""
        text = self._text(problem, number)
        tokens = world.tokenizer.encode(text)
        prompt = [self._text(shot, number + k) for k, shot in enumerate(shots, start=1)]
        return Item(
            id=f"op-{problem.operations}-{number}",
            condition=f"op-{problem.operations}",
            repetitions=0,
            tokens=self._document(world, tokens),
            text=text,
            fields={
                "question": problem.question,
                "answer": problem.answer,
                "prompt": "\n\n".join([*prompt, self._prompt(problem, number)]),
            },
        )

    def _result(self, problem: Problem, number: int) -> margins.Result:
        text = self._text(problem, number)
        return margins.Result.parse(text, problem.question, problem.answer, self.arithmetic.modulus)

    def burst(self, size: BurstSize) -> "Reasoning":
        """Return fewer training problems, and the test problems of the primary outcome."""
        outcome, _, condition = self.primary.partition("/")
        return dataclasses.replace(
            self,
            problems=size.items("train", self.problems),
            test_operations=(int(condition.removeprefix("op-")),),
            generate=outcome in _GENERATED,
        )

    def expected_insertions(self, world: World) -> Insertions:
        """Draw few problems, which are as long as all of them on average."""
        few = dataclasses.replace(self, problems=min(self.problems, _FEW))
        drawn = draw_problems(self.arithmetic, "expected", few.problems, self.operations)
        items, factors = (
            [few._training(world, 0, list(drawn))],
            {"train": self.problems / few.problems},
        )
        vocab = world.tokenizer.vocab_size
        return count_insertions(self.name, items, world.geometry, vocab, factors)

    def precision(self, geometry: Geometry) -> Precision:
        outcome, sizes = self.primary.partition("/")[0], (self.test_problems,)
        if outcome in _GENERATED:
            return Precision.of_answers(sizes, "problems")
        return Precision(sizes, "problems at most")  # some problems lack a margin

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Measure the margins of every test problem and, with `generate`, the accuracies."""
        items = model.items[model.items["repetitions"] == 0]
        # Training items have no answer, which makes the column one of floats.
        items = items.astype({"answer": int})
        modulus = self.arithmetic.modulus
        results = [
            margins.Result.parse(text, question, answer, modulus)
            for text, question, answer in zip(
                items["text"], items["question"], items["answer"], strict=True
            )
        ]
        values = list(margins.score_results(model, results))
        if self.generate:
            scores = (*self._solved(model, items), *self._baselines(items))
            for of, judged in zip(values, zip(*scores, strict=True), strict=True):
                of.update(zip(_GENERATED, map(float, judged), strict=True))
        rows = [
            (item, condition, outcome, value)
            for item, condition, of in zip(items["id"], items["condition"], values, strict=True)
            for outcome, value in of.items()
        ]
        return pd.DataFrame(rows, columns=["item", "condition", "outcome", "value"])

    def _baselines(self, items: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return which problems the best constant and the best copying rule of each condition
        solve, float[n] each."""
        constant, copied = np.zeros((2, len(items)))
        for operations in self.test_operations:
            mine = (items["condition"] == f"op-{operations}").to_numpy()
            questions, answers = list(items["question"][mine]), list(items["answer"][mine])
            constant[mine] = best_constant(answers)
            copied[mine] = best_copy(questions, answers, operations)
        return constant, copied

    def _solved(self, model: Scorer, items: pd.DataFrame) -> tuple[list[float], list[float]]:
        eos = model.tokenizer.eos_id
        prompts = model.tokenizer.encode_batch(list(items["prompt"]))
        sampling = Sampling(max_new_tokens=self.new_tokens, stop=((eos,),))
        generated = model.generate([np.insert(prompt, 0, eos) for prompt in prompts], sampling)
        texts = [model.tokenizer.decode(new) for new in generated]
        judged = [
            self._judge(text, item.question, item.answer)
            for text, item in zip(texts, items.itertuples(), strict=True)
        ]
        return [float(right) for right, _ in judged], [float(strict) for _, strict in judged]

    def _judge(self, text: str, question: str, answer: int) -> tuple[bool, bool]:
        """Return (the first answer is right, every step before it is right too).

        A strictly right answer has no leading zeros (docs/reasoning.md).
        """
        found = _ANSWER.match(text)
        if found is None or (found[2].lstrip("0") or "0") != str(answer):
            return False, False
        checked = check_solution(question, found[1], self.arithmetic.modulus)
        return True, checked.right and found[2] == str(answer)

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw accuracy by operations, with the control run and chance (the paper's figure 2b).

        Without `generate`, draw the primary outcome.
        """
        final = estimates[estimates["step"] == estimates["step"].max()]
        outcome = ACCURACY if self.generate else self.primary.partition("/")[0]
        scale, level, name = (
            (100, 100 / self.arithmetic.modulus, "right answers (%)")
            if self.generate
            else (1, 0, f"{self.labels.outcome(outcome).title}\n(nats)")
        )
        rows = final[final["outcome"] == outcome]
        x = np.arange(len(self.test_operations))
        conditions = [f"op-{op}" for op in self.test_operations]
        for number, (seed, of) in enumerate(rows.groupby("seed")):
            of = of.set_index("condition").reindex(conditions)
            axes.vlines(x, scale * of["ci_low"], scale * of["ci_high"], color=f"C{number}")
            axes.plot(x, scale * of["value"], "o-", color=f"C{number}", label=f"seed {seed}")
            axes.plot(x, scale * of["control_value"], "x:", color=f"C{number}", label="its control")
        axes.axhline(level, color="gray", linestyle="--", label="chance")
        axes.set_xticks(x, list(map(str, self.test_operations)))
        axes.set_xlabel(f"operations of a problem (training: up to {self.operations})")
        axes.set_ylabel(name)
        axes.legend()
