"""Parse a problem's text and check a solution against it, step by step.

It shares only the names of things with the generator, so it also checks the generator.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from ttoaa.experiments.reasoning.names import FULL, SHORT, Hierarchy

Name = tuple[str, str]
"""(X, Y) of "X's Y"."""
_STATED = re.compile(r"The number of each (.+?)'s (.+?) equals (.+)")
_ASKED = re.compile(r"How many (.+) does (.+) have\?")
_EACH = re.compile(r"each (.+?)'s (.+?)(?=$|, each | and each )")
_CONSTANT = re.compile(r"(\d+)(?: (more than|times as much as) )?")


@dataclasses.dataclass(frozen=True)
class Statement:
    """The parsed value of an instance parameter."""

    operands: tuple[Name, ...]
    constant: int | None
    times: bool
    difference: bool


@dataclasses.dataclass(frozen=True)
class ParsedQuestion:
    """The statements of a problem and its query, by name."""

    stated: dict[Name, Statement]
    query: Name

    @classmethod
    def parse(cls, text: str) -> "ParsedQuestion":
        """Parse a problem; ValueError names a sentence that does not belong to one."""
        *sentences, last = re.split(r"(?<=\.) ", text.strip())
        query = _ASKED.fullmatch(last)
        if not query:
            raise ValueError(f"{last!r} is not a question")
        found = {}
        for sentence in sentences:
            match = _STATED.fullmatch(sentence.removesuffix("."))
            if not match:
                raise ValueError(f"{sentence!r} states no number")
            found[match[1], match[2]] = _parse_statement(match[3])
        return cls(found, (query[2], query[1]))

    @functools.cached_property
    def level(self) -> dict[str, tuple[int, int]]:
        """name or category -> (hierarchy, level)."""
        return name_levels(KNOWN_NAMES)

    def terms(self, name: Name) -> list[list[Name]]:
        """Return an abstract parameter as a sum (outer list) of products (inner lists).

        Empty if the item contains nothing of the category.
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
        """Return what a parameter is computed from, without duplicates."""
        if name in self.stated:
            return list(self.stated[name].operands)
        return list(dict.fromkeys(part for term in self.terms(name) for part in term))

    def value(self, name: Name, modulus: int) -> int:
        """Return the value of a parameter; ValueError if the text does not define it."""
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
        """Return all parameters that the answer depends on, itself included."""
        found: set[Name] = set()
        rest = [self.query]
        while rest:
            name = rest.pop()
            if name not in found:
                found.add(name)
                rest += self.needs(name)
        return found


def _parse_statement(text: str) -> Statement:
    constant = _CONSTANT.match(text)
    rest = text[constant.end() :] if constant else text
    operands = tuple((m[1], m[2]) for m in _EACH.finditer(rest))
    if not operands and not constant:
        raise ValueError(f"{text!r} is not a number")
    return Statement(
        operands=operands,
        constant=int(constant[1]) if constant else None,
        times=constant is not None and constant[2] == "times as much as",
        difference=rest.startswith("the difference of "),
    )


KNOWN_NAMES = (*FULL, SHORT)
_CATEGORIES = {category for hierarchy in KNOWN_NAMES for category in hierarchy.categories}


@functools.cache
def name_levels(hierarchies: Sequence[Hierarchy]) -> dict[str, tuple[int, int]]:
    """Return name or category -> (index of its hierarchy, level)."""
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
    """The result of a check."""

    faults: tuple[str, ...]
    """Empty if every step is right and the last one answers the query."""
    unneeded: int
    """Number of parameters that are defined but not needed; not a fault."""

    @property
    def right(self) -> bool:
        return not self.faults


def check_solution(question: str, solution: str, modulus: int) -> Verdict:
    """Check every step of a solution (as Ye et al., 2024), up to the first fault.

    A step must define a new letter for a parameter, compute it from exactly the parameters that the
    text names, all defined before, and with right numbers; the last step must define the query.
    Raises ValueError if the question cannot be parsed.
    """
    parsed = ParsedQuestion.parse(question)
    checker = _Checker(parsed, modulus)
    for sentence in filter(None, re.split(r"\.(?:\s+|$)", solution.strip())):
        if fault := checker.step(sentence):
            return Verdict((fault,), checker.unneeded())
    ended = checker.last == parsed.query
    faults = () if ended else (f"it does not end with {_describe(parsed.query)}",)
    return Verdict(faults, checker.unneeded())


class _Checker:
    """The letters that a solution has defined so far."""

    def __init__(self, question: ParsedQuestion, modulus: int) -> None:
        self._question, self._modulus = question, modulus
        self._parameter: dict[str, Name | None] = {}  # letter -> parameter; None: helper letter
        self._value: dict[str, int] = {}
        self.last: Name | None = None

    def unneeded(self) -> int:
        """Return the number of parameters that are defined but not needed."""
        return len({name for name in self._parameter.values() if name} - self._question.needed())

    def step(self, sentence: str) -> str | None:
        """Check one step: return its fault, if any."""
        match = _DEFINE.fullmatch(sentence)
        if not match:
            return f"{sentence!r} defines nothing"
        name, letter = (match[1], match[2]), match[3]
        if name in self._parameter.values():
            return f"{_describe(name)} is defined twice"
        try:
            true = self._question.value(name, self._modulus)
        except ValueError as error:
            return str(error)
        used: list[Name] = []
        for equation in match[4].split("; "):
            fault = self._equation(equation, used)
            if fault:
                return f"{_describe(name)}: {fault}"
        if next(reversed(self._parameter)) != letter:
            return f"{_describe(name)}: {letter} is not what is computed last"
        if differ := set(self._question.needs(name)) ^ set(used):
            what = f"it uses other parameters than it depends on, see {_describe(min(differ))}"
            return f"{_describe(name)}: {what}"
        if self._value[letter] != true:
            return f"{_describe(name)} is {true}, not {self._value[letter]}"
        self._parameter[letter] = self.last = name
        return None

    def _equation(self, text: str, used: list[Name]) -> str | None:
        """Check one equation; append the parameters it uses to `used`."""
        match = _EQUATION.fullmatch(text)
        if not match:
            return f"{text!r} is not an equation"
        letter, left, sign, right, a, again, b, result = match.groups()
        if letter in self._parameter:
            return f"the letter {letter} is already used"
        terms = [term for term in (left, right) if term is not None]
        for term in terms:
            if not term.isdigit() and term not in self._value:
                return f"the letter {term} is not defined"
            if parameter := self._parameter.get(term):
                used.append(parameter)
        values = [self._value[t] if t in self._value else int(t) for t in terms]
        if sign:
            if sign != again or [str(value) for value in values] != [a, b]:
                return f"{text!r} does not use the values of its letters"
            true = {"+": sum(values), "-": values[0] - values[1], "*": values[0] * values[1]}[sign]
        elif again:
            return f"{text!r} computes a different expression than it states"
        else:
            true = values[0] if values else int(result)
        if true % self._modulus != int(result) or not int(result) < self._modulus:
            return f"{text!r} is wrong: {true % self._modulus}"
        self._parameter[letter], self._value[letter] = None, int(result)
        return None


def _describe(name: Name) -> str:
    return f"{name[0]}'s {name[1]}"
