"""Judges a solution step by step against the text of its problem, and says what is wrong."""

import dataclasses
import re

from ttoaa.reasoning.reading import Name, Question

_DEFINE = re.compile(r"Define (.+?)'s (.+?) as ([A-Za-z]); (.+)")
_EQUATION = re.compile(
    r"(?:so )?([A-Za-z]) = (?:(\w+)(?: ([-+*]) (\w+))? = )?(?:(\d+) ([-+*]) (\d+) = )?(\d+)"
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    faults: tuple[str, ...]
    """Nothing where every step is right and the last answers the question."""
    unneeded: int
    """Parameters that were defined and not needed: no fault."""

    @property
    def right(self) -> bool:
        return not self.faults


def check(question: str, solution: str, modulus: int) -> Verdict:
    """Every step must define a new letter of a parameter that is computed from defined ones alone,

    of exactly what the text says it depends on, with right numbers, and the last be what is asked
    (Ye et al., 2024, judge so too). Raises ValueError where the question itself cannot be read.
    """
    read = Question.read(question)
    checker = _Checker(read, modulus)
    for sentence in filter(None, re.split(r"\.(?:\s+|$)", solution.strip())):
        if fault := checker.step(sentence):
            return Verdict((fault,), checker.unneeded())
    ended = checker.last == read.asked
    faults = () if ended else (f"it does not end with {_shown(read.asked)}",)
    return Verdict(faults, checker.unneeded())


class _Checker:
    def __init__(self, question: Question, modulus: int) -> None:
        self._question, self._modulus = question, modulus
        self._of: dict[str, Name | None] = {}  # a helper letter is of no parameter
        self._value: dict[str, int] = {}
        self.last: Name | None = None

    def unneeded(self) -> int:
        return len({name for name in self._of.values() if name} - self._question.needed())

    def step(self, sentence: str) -> str | None:
        """What is wrong with it."""
        match = _DEFINE.fullmatch(sentence)
        if not match:
            return f"{sentence!r} defines nothing"
        name, letter = (match[1], match[2]), match[3]
        if name in self._of.values():
            return f"{_shown(name)} is defined twice"
        try:
            true = self._question.value(name, self._modulus)
        except ValueError as error:
            return str(error)
        used: list[Name] = []
        for equation in match[4].split("; "):
            fault = self._equation(equation, used)
            if fault:
                return f"{_shown(name)}: {fault}"
        if next(reversed(self._of)) != letter:
            return f"{_shown(name)}: {letter} is not what is computed last"
        missing = set(self._question.needs(name)) ^ set(used)
        if missing:
            return f"{_shown(name)}: it depends on other than {_shown(min(missing))} says"
        if self._value[letter] != true:
            return f"{_shown(name)} is {true}, not {self._value[letter]}"
        self._of[letter] = self.last = name
        return None

    def _equation(self, text: str, used: list[Name]) -> str | None:
        match = _EQUATION.fullmatch(text)
        if not match:
            return f"{text!r} is no equation"
        letter, left, sign, right, a, again, b, result = match.groups()
        if letter in self._of:
            return f"the letter {letter} is used already"
        terms = [term for term in (left, right) if term is not None]
        for term in terms:
            if not term.isdigit() and term not in self._value:
                return f"the letter {term} is not defined"
            if self._of.get(term):
                used.append(self._of[term])  # type: ignore[arg-type]
        values = [self._value[t] if t in self._value else int(t) for t in terms]
        if sign:
            if sign != again or [str(value) for value in values] != [a, b]:
                return f"{text!r} puts in other numbers than its letters have"
            true = {"+": sum(values), "-": values[0] - values[1], "*": values[0] * values[1]}[sign]
        elif again:
            return f"{text!r} computes what it does not say"
        else:
            true = values[0] if values else int(result)
        if true % self._modulus != int(result) or not int(result) < self._modulus:
            return f"{text!r} is wrong: {true % self._modulus}"
        self._of[letter], self._value[letter] = None, int(result)
        return None


def _shown(name: Name) -> str:
    return f"{name[0]}'s {name[1]}"
