"""Reads a problem's text back: what every parameter equals, by the text alone.

Nothing here comes from the generator but the names of things, so that it checks it.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence

from ttoaa.reasoning.names import FULL, SHORT, Hierarchy

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
