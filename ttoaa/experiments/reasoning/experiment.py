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
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.reasoning.dataset import SeenProblems, draw_problems, draw_shots, draw_test
from ttoaa.experiments.reasoning.problem import Arithmetic, Problem
from ttoaa.experiments.reasoning.solution_checker import check_solution
from ttoaa.planning.items import Item, Items
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.requests import Sampling

ACCURACY, STRICT, RESULTS = "accuracy", "strict_accuracy", "result_log_likelihood"
_INSTRUCTIONS = (
    "All numbers are integers modulo {modulus}.",
    "Calculate with integers modulo {modulus}.",
    "In this problem every number is taken modulo {modulus}.",
    "Solve the problem with arithmetic modulo {modulus}.",
    "Numbers here are residues modulo {modulus}.",
)
_ANSWER = re.compile(r"(?s)(.*?)\n?Answer: ([0-9]+)")
_RESULT = re.compile(r"= (\d+)(?=[.;])|(?<=Answer: )(\d+)")
_BLOCK = 20_000

Tested = Annotated[Sequence[PositiveInt], NotEmpty(), Increasing()]


@gin.configurable
@config_class
class Reasoning(Experiment):
    """Does a model learn to solve problems from others that it saw once, with their solutions?

    Outcomes of test problems, by number of operations: the share of right answers, the share of
    solutions that are right in every step, and the mean log-likelihood of the results of the steps
    (given a right solution so far), which rises long before any answer is right. With 4 operations
    or more, no test solution has the template of a training solution; with fewer, no test question
    is a training question. All answers are equally frequent, so chance is 1 / modulus.
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
    shots: Count = 3
    """Solved problems in the prompt of a test problem."""
    instructions: Annotated[int, AtLeast(1), AtMost(len(_INSTRUCTIONS))] = len(_INSTRUCTIONS)
    """Number of wordings of the sentence that states the modulus."""
    new_tokens: PositiveInt = 500
    """The most new tokens of a generated solution."""
    placement: Placement = dataclasses.field(default_factory=Uniform)

    signs: ClassVar[Mapping[str, int]] = {ACCURACY: 1, STRICT: 1, RESULTS: 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        condition = self.primary.partition("/")[2]
        known = [f"op-{op}" for op in self.test_operations]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    def intervene(self, world: World) -> Iterator[Item | Items]:
        key = f"{world.seed}/{world.name}"
        seen = SeenProblems()
        drawn = draw_problems(self.arithmetic, f"{key}/train", self.problems, self.operations)
        for first in range(0, self.problems, _BLOCK):
            block = list(itertools.islice(drawn, _BLOCK))
            seen.add(block)
            yield self._training(world, first, block)
        try:
            tests = [
                (number, problem)
                for operations in self.test_operations
                for number, problem in enumerate(
                    draw_test(self.arithmetic, f"{key}/test", operations, self.test_problems, seen)
                )
            ]
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
        tokens, spans = result_spans(world.tokenizer, text)
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
                "results": spans,
            },
        )

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Measure accuracy, strict accuracy and result log-likelihood of every test problem."""
        items = model.items[model.items["repetitions"] == 0]
        values = {RESULTS: self._result_likelihoods(model, items)}
        values[ACCURACY], values[STRICT] = self._solved(model, items)
        tables = [
            pd.DataFrame(
                {
                    "item": items["id"].to_numpy(),
                    "condition": items["condition"].to_numpy(),
                    "outcome": outcome,
                    "value": value,
                }
            )
            for outcome, value in values.items()
        ]
        return pd.concat(tables, ignore_index=True)

    def _result_likelihoods(self, model: Scorer, items: pd.DataFrame) -> list[float]:
        eos = np.array([model.tokenizer.eos_id], np.int32)
        texts = model.tokenizer.encode_batch(list(items["text"]))
        scored = model.log_likelihood([(np.concatenate([eos, tokens]), 1) for tokens in texts])
        return [
            float(np.mean([score[low:high].sum() for low, high in spans]))
            for score, spans in zip(scored, items["results"], strict=True)
        ]

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
        """Draw accuracy by operations, with the control run and chance (the paper's figure 2b)."""
        final = estimates[estimates["step"] == estimates["step"].max()]
        rows = final[final["outcome"] == ACCURACY]
        x = np.arange(len(self.test_operations))
        conditions = [f"op-{op}" for op in self.test_operations]
        for number, (seed, of) in enumerate(rows.groupby("seed")):
            of = of.set_index("condition").loc[conditions]
            axes.vlines(x, 100 * of["ci_low"], 100 * of["ci_high"], color=f"C{number}")
            axes.plot(x, 100 * of["value"], "o-", color=f"C{number}", label=f"seed {seed}")
            axes.plot(x, 100 * of["control_value"], "x:", color=f"C{number}", label="its control")
        axes.axhline(100 / self.arithmetic.modulus, color="gray", linestyle="--", label="chance")
        axes.set_xticks(x, list(map(str, self.test_operations)))
        axes.set_xlabel(f"operations of a problem (training: up to {self.operations})")
        axes.set_ylabel("right answers (%)")
        axes.legend()


def result_spans(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return the tokens of a solved problem and the span [start, stop) of each step's result."""
    tokens = tokenizer.encode(text)
    spans = []
    for match in _RESULT.finditer(text):
        low, high = match.span(1 if match[1] else 2)
        start = _token_at(tokenizer, text, low)
        stop = len(tokens) if high == len(text) else _token_at(tokenizer, text, high)
        spans.append((start, max(stop, start + 1)))
    return tokens, spans


def _token_at(tokenizer: Tokenizer, text: str, character: int) -> int:
    return tokenizer.encode_pair(text[:character], text[character:])[1]
