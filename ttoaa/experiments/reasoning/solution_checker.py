"""Check a solution against the text of its problem, step by step (docs/reasoning.md).

It shares nothing with the generator, so it also checks the generator.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ttoaa.experiments.reasoning.problem_parser import (
    NUMBER,
    Name,
    ParsedQuestion,
    describe,
    readings,
)


class _Joined(NamedTuple):
    sign: str
    terms: tuple["Expression", ...]
    """Sorted, except for differences."""


Expression = str | Name | _Joined
"""A number as text, a parameter, or a sum, difference or product."""
_STEP = re.compile(r"(.+? as [A-Za-z]; [^.]*\.)(?:\s+|$)")
_DEFINE = re.compile(r"Define (.+?) as ([A-Za-z]); (.+)\.")
_TERM = rf"([A-Za-z]|{NUMBER})"
_EQUATION = re.compile(
    rf"([A-Za-z]) = (?:{_TERM}(?: ([-+*]) {_TERM})? = )?"
    rf"(?:({NUMBER}) ([-+*]) ({NUMBER}) = )?({NUMBER})"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a check."""

    faults: tuple[str, ...]
    """Empty if every step is right and the last one answers the query."""
    unneeded: int
    """Number of parameters that are defined but not needed; not a fault."""

    @property
    def right(self) -> bool:
        return not self.faults


def check_solution(question: str, solution: str, modulus: int) -> Verdict:
    """Check every step of a solution up to the first fault; docs/reasoning.md has the rules.

    If the problem has several readings, the solution is right if it is right under one of them;
    otherwise the faults are those of the first. Raises ValueError if the question cannot be parsed.
    """
    first: Verdict | None = None
    for reading in readings(question):
        verdict = _check(reading, solution, modulus)
        if verdict.right:
            return verdict
        first = first or verdict
    assert first is not None
    return first


def _check(question: ParsedQuestion, solution: str, modulus: int) -> Verdict:
    checker = _Checker(question, modulus)
    for sentence in filter(None, _STEP.split(solution.strip())):
        if fault := checker.step(sentence):
            return Verdict((fault,), checker.unneeded())
    ended = checker.last == question.query
    faults = () if ended else (f"it does not end with {describe(question.query)}",)
    return Verdict(faults, checker.unneeded())


class _Checker:
    """The parameters that a solution has defined so far."""

    def __init__(self, question: ParsedQuestion, modulus: int) -> None:
        self._question, self._modulus = question, modulus
        self._values: dict[Name, int] = {}
        self._used: set[str] = set()  # all letters, including helpers'
        self._known: dict[str, tuple[Expression, int]] = {}  # letters of parameters
        self.last: Name | None = None

    def unneeded(self) -> int:
        """Return the number of parameters that are defined but not needed."""
        return len(set(self._values) - self._question.needed())

    def step(self, sentence: str) -> str | None:
        """Check one step: return its fault, if any."""
        match = _DEFINE.fullmatch(sentence)
        if not match:
            return f"{sentence!r} defines nothing"
        label, letter, name = match[1], match[2], self._question.parameters.get(match[1])
        if name is None:
            return f"{label} is not defined"
        if name in self._values:
            return f"{label} is defined twice"
        *helpers, last = match[3].split("; ")
        if not last.startswith("so "):
            return f'{label}: the last equation does not begin with "so"'
        known, idle = dict(self._known), set[str]()
        for text in helpers:
            if fault := self._equation(text, known, idle):
                return f"{label}: {fault}"
            if not isinstance(known[text[0]][0], _Joined):
                return f"{label}: the helper {text!r} does not combine two terms"
        if fault := self._equation(last.removeprefix("so "), known, idle):
            return f"{label}: {fault}"
        if idle != {letter}:
            return f"{label}: {letter} is not the last computed letter, or a helper is unused"
        expression, value = known[letter]
        if fault := self._compare(name, expression, value):
            return fault
        self._known[letter] = name, value
        self._values[name] = value
        self.last = name
        return None

    def _equation(
        self, text: str, known: dict[str, tuple[Expression, int]], idle: set[str]
    ) -> str | None:
        """Check one equation; add its letter to `known` and to `idle`, the letters not used yet."""
        match = _EQUATION.fullmatch(text)
        if not match:
            return f"{text!r} is not an equation"
        letter, left, sign, right, *shown, result = match.groups()
        if letter in self._used:
            return f"the letter {letter} is already used"
        terms = [term for term in (left, right) if term]
        if unknown := [term for term in terms if term.isalpha() and term not in known]:
            return f"the letter {unknown[0]} is not defined"
        if len(terms) == 1 and left not in self._known:
            return f"{text!r} copies something other than a parameter"
        parts = [known.get(term, (term, term)) for term in terms or [result]]
        values = [int(value) for _, value in parts]
        if shown != ([str(values[0]), sign, str(values[1])] if sign else [None] * 3):
            return f"{text!r} does not use the values of its letters"
        a, b = values[0], values[-1]
        true = {"+": a + b, "-": a - b, "*": a * b, None: a}[sign] % self._modulus
        if result != str(true):
            return f"{text!r} is wrong: {true}"
        known[letter] = _join(sign, [expression for expression, _ in parts]), true
        idle.difference_update(terms)
        idle.add(letter)
        self._used.add(letter)
        return None

    def _compare(self, name: Name, expression: Expression, value: int) -> str | None:
        """Compare the expression of a step with the formula of its parameter."""
        formula = self._formula(name)
        if differ := set(_leaves(formula)) ^ set(_leaves(expression)):
            what = f"its expression uses the wrong parameters, see {describe(min(differ))}"
            return f"{describe(name)}: {what}"
        true = self._question.evaluate(name, self._values) % self._modulus
        if value != true:
            return f"{describe(name)} is {true}, not {value}"
        return None if expression == formula else f"{describe(name)}: it is not computed as stated"

    def _formula(self, name: Name) -> Expression:
        said = self._question.stated.get(name)
        if said is None:
            return _join("+", [_join("*", term) for term in self._question.terms(name)])
        if not said.operands:
            return str((said.constant or 0) % self._modulus)
        total = _join("-" if said.difference else "+", said.operands)
        if said.constant is None:
            return total
        return _join("*" if said.times else "+", [str(said.constant), total])


def _join(sign: str | None, terms: Sequence[Expression]) -> Expression:
    """Return an expression; sums and products that differ only in order compare equal."""
    if not terms:
        return "0"
    if len(terms) == 1:
        return terms[0]
    assert sign is not None
    if sign == "-":
        return _Joined(sign, tuple(terms))
    flat: list[Expression] = []
    for term in terms:
        flat += term.terms if isinstance(term, _Joined) and term.sign == sign else [term]
    return _Joined(sign, tuple(sorted(flat, key=repr)))


def _leaves(expression: Expression) -> Iterator[Name]:
    if isinstance(expression, _Joined):
        for term in expression.terms:
            yield from _leaves(term)
    elif isinstance(expression, tuple):
        yield expression
