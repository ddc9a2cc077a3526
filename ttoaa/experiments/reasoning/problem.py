"""Whole problems: their text, solution and template, drawn from a structure and a graph."""

import dataclasses
import hashlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import gin

from ttoaa.config_fields import AtLeast, AtMost, config_class
from ttoaa.experiments.reasoning.graph import Graph, Sentence, SentenceSize, draw_graph
from ttoaa.experiments.reasoning.names import Names, ShortNames
from ttoaa.experiments.reasoning.structure import (
    Draws,
    Instance,
    Parameter,
    draw_size,
)

ItemNames = Mapping[tuple[int, int], str]
"""(i, j) -> the name of item j of layer i."""


def parameter_name(parameter: Parameter, names: ItemNames, categories: Sequence[str]) -> str:
    """Return "X's Y"; for an abstract parameter Y is the category."""
    i, j, k = parameter[:3]
    return f"{names[i, j]}'s {names[i + 1, k] if len(parameter) == 3 else categories[k]}"


def statement(parameter: Instance, sentence: Sentence, name: Callable[[Parameter], str]) -> str:
    """Return the sentence of the problem that states an instance parameter."""
    each = [f"each {name(operand)}" for operand in sentence.operands]
    if len(each) == 2:
        what = f"the {'difference' if sentence.difference else 'sum'} of {each[0]} and {each[1]}"
    elif len(each) > 2:
        what = f"the sum of {', '.join(each[:-1])} and {each[-1]}"
    else:
        what = "".join(each)
    value = str(sentence.constant)
    if sentence.constant is not None and what:
        value += " more than " if sentence.relation == "more" else " times as much as "
    elif sentence.constant is None:
        value = ""
    return f"The number of each {name(parameter)} equals {value}{what}."


def query_text(query: Parameter, names: ItemNames, categories: Sequence[str]) -> str:
    """Return the question at the end of the problem."""
    i, j, k = query[:3]
    of = names[i + 1, k] if len(query) == 3 else categories[k]
    return f"How many {of} does {names[i, j]} have?"


class Solver:
    """Write the solution step by step; every number is reduced by the modulus."""

    def __init__(self, draws: Draws, modulus: int) -> None:
        self._modulus = modulus
        self._letters = draws.sample(string.ascii_letters, len(string.ascii_letters))
        self._letter: dict[Parameter, str] = {}
        self._value: dict[str, int] = {}

    def solve(self, graph: Graph, name: Callable[[Parameter], str]) -> tuple[str, int]:
        """Return (text, answer)."""
        steps = []
        for parameter in graph.needed:
            letter = self._new_letter()
            self._letter[parameter] = letter
            shown = (
                self._abstract(letter, graph, parameter)
                if len(parameter) == 4
                else (self._instance(letter, graph.sentences[parameter]))
            )
            steps.append(f"Define {name(parameter)} as {letter}; {'; '.join(shown)}.")
        return " ".join(steps), self._value[self._letter[graph.query]]

    def _abstract(self, letter: str, graph: Graph, parameter: Parameter) -> list[str]:
        assert len(parameter) == 4
        terms = [[self._letter[p] for p in term] for term in graph.structure.abstract[parameter]]
        if not terms:
            self._value[letter] = 0
            return [f"so {letter} = 0"]
        if len(terms) == 1:
            return self._fold(letter, terms[0], "*")
        shown: list[str] = []
        sums = []
        for term in terms:
            sums.append(term[0] if len(term) == 1 else self._new_letter())
            if len(term) > 1:
                shown.append(self._step(sums[-1], term, "*"))
        return [*shown, *self._fold(letter, sums, "+")]

    def _instance(self, letter: str, sentence: Sentence) -> list[str]:
        letters = [self._letter[operand] for operand in sentence.operands]
        constant = sentence.constant
        if constant is None:
            return self._fold(letter, letters, "-" if sentence.difference else "+")
        if not letters:
            self._value[letter] = constant
            return [f"so {letter} = {constant}"]
        sign = "+" if sentence.relation == "more" else "*"
        if len(letters) == 1:
            return [self._step(letter, [str(constant), letters[0]], sign, "so ")]
        inner = self._new_letter()
        shown = self._fold(inner, letters, "-" if sentence.difference else "+", last="")
        return [*shown, self._step(letter, [str(constant), inner], sign, "so ")]

    def _fold(self, letter: str, terms: list[str], sign: str, last: str = "so ") -> list[str]:
        """Combine terms from the left, two at a time, with helper letters; copy a single term."""
        if len(terms) == 1:
            self._value[letter] = self._value[terms[0]]
            return [f"{last}{letter} = {terms[0]} = {self._value[letter]}"]
        shown, left = [], terms[0]
        for right in terms[1:-1]:
            helper = self._new_letter()
            shown.append(self._step(helper, [left, right], sign))
            left = helper
        return [*shown, self._step(letter, [left, terms[-1]], sign, last)]

    def _step(self, letter: str, terms: list[str], sign: str, before: str = "") -> str:
        a, b = (self._value[t] if t in self._value else int(t) for t in terms)
        value = a + b if sign == "+" else a - b if sign == "-" else a * b
        self._value[letter] = value % self._modulus
        shown = f" {sign} ".join(terms)
        return f"{before}{letter} = {shown} = {a} {sign} {b} = {self._value[letter]}"

    def _new_letter(self) -> str:
        if not self._letters:
            raise ValueError("a solution needs more than 52 letters: ask for fewer operations")
        return self._letters.pop()


_TRIES = 1000


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem as text, with its solution."""

    question: str
    """All statements in random order, then the query."""
    solution: str
    answer: int
    operations: int
    template: str
    """The sha256 (16 hex digits) of the solution without names, numbers and choice of letters."""


@gin.configurable
@config_class
class Arithmetic:
    """Problems of iGSM (Ye et al., 2024, "Physics of Language Models: Part 2.1").

    A sentence states each instance parameter; abstract parameters follow from the structure. The
    answer is a residue modulo `modulus`.
    """

    modulus: Annotated[int, AtLeast(2)] = 23
    edges: Annotated[int, AtLeast(4), AtMost(48)] = 20
    """The most instance parameters (ip)."""
    operands: Annotated[int, AtLeast(2)] = 4
    """Maximum number of operands of a sentence; a constant counts as one."""
    names: Names | ShortNames = dataclasses.field(default_factory=Names)

    def draw(self, key: int | str, operations: int) -> Problem:
        """Draw the problem of this key, of exactly `operations` operations.

        Raises ValueError after 1,000 failed draws: `edges` does not allow so many operations.
        """
        draws = Draws(key)
        for _ in range(_TRIES):
            if problem := self._draw(draws, operations):
                return problem
        raise ValueError(
            f"no problem of {operations} operations with at most {self.edges} edges was found: "
            "ask for fewer operations or raise Arithmetic.edges"
        )

    def _draw(self, draws: Draws, operations: int) -> Problem | None:
        size = draw_size(draws, operations, self.edges)
        limits = SentenceSize(self.modulus, self.operands)
        graph = draw_graph(draws, size, operations, limits)
        if graph is None or graph.operations() != operations:
            return None
        structure = graph.structure
        hierarchy = draws.choice(self.names.get())
        depth = len(structure.widths)
        first = draws.between(0, len(hierarchy.categories) - depth)
        categories = hierarchy.categories[first : first + depth]
        items = {
            (i, j): item
            for i, width in enumerate(structure.widths)
            for j, item in enumerate(draws.sample(draws.choice(hierarchy.names[first + i]), width))
        }

        def name(parameter: Parameter) -> str:
            return parameter_name(parameter, items, categories)

        sentences = [statement(edge, graph.sentences[edge], name) for edge in structure.edges]
        sentences = draws.sample(sentences, len(sentences))
        solution, answer = Solver(draws, self.modulus).solve(graph, name)
        return Problem(
            question=" ".join([*sentences, query_text(graph.query, items, categories)]),
            solution=solution,
            answer=answer,
            operations=operations,
            template=template(solution, categories),
        )


def draw_operations(draws: Draws, most: int) -> int:
    """Draw a number of operations: the lower of two uniform draws of 1 to `most`."""
    return min(draws.between(1, most), draws.between(1, most))


_NAME = re.compile(r"(?<=Define )(.+?)'s (.+?)(?= as )")
_LETTER = re.compile(r"\b[A-Za-z]\b")
_NUMBER = re.compile(r"\b\d+\b")


def template(solution: str, categories: tuple[str, ...]) -> str:
    """Return a hash that is equal for solutions that differ only in names, numbers and letters."""
    text = _NAME.sub(lambda m: "abstract" if m[2] in categories else "instance", solution)
    order: dict[str, str] = {}
    text = _LETTER.sub(lambda m: order.setdefault(m[0], f"v{len(order)}"), text)
    text = _NUMBER.sub("0", text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
