"""A problem and its solution as text."""

import string
from collections.abc import Callable, Mapping, Sequence

from ttoaa.reasoning.draws import Draws
from ttoaa.reasoning.graph import Graph, Sentence
from ttoaa.reasoning.structure import Instance, Parameter

Names = Mapping[tuple[int, int], str]
"""The name of item j of layer i."""


def named(parameter: Parameter, names: Names, categories: Sequence[str]) -> str:
    """X's Y; for an abstract parameter Y is the category."""
    i, j, k = parameter[:3]
    return f"{names[i, j]}'s {names[i + 1, k] if len(parameter) == 3 else categories[k]}"


def stated(parameter: Instance, sentence: Sentence, name: Callable[[Parameter], str]) -> str:
    """The sentence of the problem that gives an instance parameter."""
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


def asked(query: Parameter, names: Names, categories: Sequence[str]) -> str:
    i, j, k = query[:3]
    of = names[i + 1, k] if len(query) == 3 else categories[k]
    return f"How many {of} does {names[i, j]} have?"


class Solver:
    """Writes the solution step by step; every number is reduced by the modulus."""

    def __init__(self, draws: Draws, modulus: int) -> None:
        self._modulus = modulus
        self._letters = draws.sample(string.ascii_letters, len(string.ascii_letters))
        self._letter: dict[Parameter, str] = {}
        self._value: dict[str, int] = {}

    def solve(self, graph: Graph, name: Callable[[Parameter], str]) -> tuple[str, int]:
        """(text, the answer)."""
        steps = []
        for parameter in graph.needed:
            letter = self._new()
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
        if len(terms) == 1:
            return self._fold(letter, terms[0], "*")
        shown: list[str] = []
        sums = []
        for term in terms:
            sums.append(term[0] if len(term) == 1 else self._new())
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
        inner = self._new()
        shown = self._fold(inner, letters, "-" if sentence.difference else "+", last="")
        return [*shown, self._step(letter, [str(constant), inner], sign, "so ")]

    def _fold(self, letter: str, terms: list[str], sign: str, last: str = "so ") -> list[str]:
        """Left to right, two at a time, with helper letters; a single term is copied."""
        if len(terms) == 1:
            self._value[letter] = self._value[terms[0]]
            return [f"{last}{letter} = {terms[0]} = {self._value[letter]}"]
        shown, left = [], terms[0]
        for right in terms[1:-1]:
            helper = self._new()
            shown.append(self._step(helper, [left, right], sign))
            left = helper
        return [*shown, self._step(letter, [left, terms[-1]], sign, last)]

    def _step(self, letter: str, terms: list[str], sign: str, before: str = "") -> str:
        a, b = (self._value[t] if t in self._value else int(t) for t in terms)
        value = a + b if sign == "+" else a - b if sign == "-" else a * b
        self._value[letter] = value % self._modulus
        shown = f" {sign} ".join(terms)
        return f"{before}{letter} = {shown} = {a} {sign} {b} = {self._value[letter]}"

    def _new(self) -> str:
        if not self._letters:
            raise ValueError("a solution needs more than 52 letters: ask for fewer operations")
        return self._letters.pop()
