"""Reads a problem's text back: what every parameter equals, by the text alone.

Nothing here comes from the generator but the names of things, so that it checks it.

Judges a solution step by step against the text of its problem, and says what is wrong.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from ttoaa.experiments.reasoning.names import FULL, SHORT, Hierarchy

Name = tuple[str, str]
"""(X, Y) of X's Y."""
_STATED = re.compile(r"The number of each (.+?)'s (.+?) equals (.+)")
_ASKED = re.compile(r"How many (.+) does (.+) have\?")
_EACH = re.compile(r"each (.+?)'s (.+?)(?=$|, each | and each )")
_CONSTANT = re.compile(r"(\d+)(?: (more than|times as much as) )?")


@dataclasses.dataclass(frozen=True)
class Stated:
    operands: tuple[Name, ...]
    constant: int | None
    times: bool
    difference: bool


@dataclasses.dataclass(frozen=True)
class Question:
    stated: dict[Name, Stated]
    asked: Name

    @classmethod
    def read(cls, text: str) -> "Question":
        """Raises ValueError for a sentence that is none of a problem."""
        *sentences, last = re.split(r"(?<=\.) ", text.strip())
        asked = _ASKED.fullmatch(last)
        if not asked:
            raise ValueError(f"{last!r} asks nothing")
        found = {}
        for sentence in sentences:
            match = _STATED.fullmatch(sentence.removesuffix("."))
            if not match:
                raise ValueError(f"{sentence!r} states no number")
            found[match[1], match[2]] = _stated(match[3])
        return cls(found, (asked[2], asked[1]))

    @functools.cached_property
    def level(self) -> dict[str, tuple[int, int]]:
        """Of every name and category: its hierarchy and its level."""
        return levels(KNOWN)

    def terms(self, name: Name) -> list[list[Name]]:
        """Of an abstract parameter: what is multiplied within, and summed between, the lists.

        Empty where there is nothing of that kind.
        """
        item, category = name
        below = [edge for edge in self.stated if edge[0] == item]
        if category not in _CATEGORIES:
            return []
        if any(self.level[child][1] == self.level[category][1] for _, child in below):
            return [[edge] for edge in below]
        inner = [[edge, (edge[1], category)] for edge in below]
        return [pair for pair in inner if self.terms(pair[1])]

    def needs(self, name: Name) -> list[Name]:
        """What a parameter is computed from, each once."""
        if name in self.stated:
            return list(self.stated[name].operands)
        return list(dict.fromkeys(part for term in self.terms(name) for part in term))

    def value(self, name: Name, modulus: int) -> int:
        """Raises ValueError for what the text does not define."""
        if name not in self.stated:
            terms = self.terms(name)
            if not terms:
                raise ValueError(f"{name[0]}'s {name[1]} is not defined")
            products = ([self.value(part, modulus) for part in term] for term in terms)
            return sum(functools.reduce(int.__mul__, p) for p in products) % modulus
        said = self.stated[name]
        values = [self.value(operand, modulus) for operand in said.operands]
        if not values:
            return (said.constant or 0) % modulus
        total = values[0] - values[1] if said.difference else sum(values)
        if said.constant is not None:
            total = said.constant * total if said.times else said.constant + total
        return total % modulus

    def needed(self) -> set[Name]:
        """All that the answer depends on, itself included."""
        found: set[Name] = set()
        rest = [self.asked]
        while rest:
            name = rest.pop()
            if name not in found:
                found.add(name)
                rest += self.needs(name)
        return found


def _stated(text: str) -> Stated:
    constant = _CONSTANT.match(text)
    rest = text[constant.end() :] if constant else text
    operands = tuple((m[1], m[2]) for m in _EACH.finditer(rest))
    if not operands and not constant:
        raise ValueError(f"{text!r} is no number")
    return Stated(
        operands=operands,
        constant=int(constant[1]) if constant else None,
        times=constant is not None and constant[2] == "times as much as",
        difference=rest.startswith("the difference of "),
    )


KNOWN = (*FULL, SHORT)
_CATEGORIES = {category for hierarchy in KNOWN for category in hierarchy.categories}


@functools.cache
def levels(hierarchies: Sequence[Hierarchy]) -> dict[str, tuple[int, int]]:
    return {
        name: (number, level)
        for number, hierarchy in enumerate(hierarchies)
        for level, category in enumerate(hierarchy.categories)
        for name in (category, *(n for names in hierarchy.names[level] for n in names))
    }


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
