"""Parse the text of a problem: its statements, its query, and the sums of abstract parameters.

A problem does not state the category of an item, nor where "X's Y" divides if a name contains "'s
". The parser infers both from the statements and accepts any names. If several readings are equally
good, it returns all of them.
"""

import dataclasses
import functools
import graphlib
import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from ttoaa.experiments.reasoning.names import FULL, SHORT

Name = tuple[str, str]
"""(X, Y) of "X's Y"."""
Operand = TypeVar("Operand", str, Name)
NUMBER = "(?:0|[1-9][0-9]{0,8})"
_SENTENCES = re.compile(r"(?<=[.?])\s+(?=The number of each |How many )")
_STATED = re.compile(rf"The number of each (.+?) equals ((?:{NUMBER}|each |the ).*)\.")
_ASKED = re.compile(r"How many (.+) does (.+) have\?")
_VALUE = re.compile(
    rf"(?:({NUMBER})(?: (more than|times as much as) (?=the |each )|$))?"
    r"(?:the (sum|difference) of )?(?:each (.+))?"
)
_HIERARCHIES = (
    *(hierarchy.categories for hierarchy in (*FULL, SHORT)),
    ("Ecosystems", "Creatures", "Organs", "Cells"),  # as in the published problems
)
_CATEGORIES = {category for hierarchy in _HIERARCHIES for category in hierarchy}
_LEVELS = {
    name: (number, level)
    for number, hierarchy in enumerate((*FULL, SHORT))
    for level, lists in enumerate(hierarchy.names)
    for names in lists
    for name in names
}
"""Known name -> (index in `_HIERARCHIES`, level)."""
_DEPTH = 4
_NAMINGS = 64
_LETTERS_OF_A_NAME = 5
"""Cost of one more name, in letters, when labels are divided into names (see `_divide`)."""


@dataclasses.dataclass(frozen=True)
class Statement(Generic[Operand]):
    """The parsed value of an instance parameter; an operand is text "X's Y" or a name."""

    operands: tuple[Operand, ...]
    constant: int | None
    times: bool
    difference: bool


@dataclasses.dataclass(frozen=True)
class ParsedQuestion:
    """One reading of a problem: its statements and its query by name, and its layers."""

    stated: Mapping[Name, Statement[Name]]
    query: Name
    layers: Mapping[str, int]
    """item that contains something -> its layer."""
    categories: Mapping[str, int]
    """category -> its layer."""

    @classmethod
    def parse(cls, text: str) -> "ParsedQuestion":
        """Return the first reading of a problem; see `readings`."""
        return next(readings(text))

    @functools.cached_property
    def parameters(self) -> dict[str, Name]:
        """Return every parameter that a solution may define, by its text "X's Y"."""
        items = _items(self.stated, self.layers)
        stated = {x for x, _ in items}
        mentioned = [name for said in self.stated.values() for name in said.operands]
        items |= {(x, 0) for x, _ in (*mentioned, self.query) if x not in stated}
        abstract = {
            (x, category)
            for x, layer in items
            for category, below in self.categories.items()
            if layer < below
        }
        return {f"{x}'s {y}": (x, y) for x, y in (*sorted(abstract), *self.stated)}

    def terms(self, name: Name) -> list[list[Name]]:
        """Return an abstract parameter as a sum (outer list) of products (inner lists).

        Empty if the item contains nothing of the layers in between: the value is 0.
        """
        item, category = name
        layer, target = self.layers.get(item, _DEPTH), self.categories[category]
        if layer >= target:
            return []
        below = [edge for edge in self.stated if edge[0] == item]
        return [[edge] if layer + 1 == target else [edge, (edge[1], category)] for edge in below]

    def needs(self, name: Name) -> list[Name]:
        """Return what a parameter is computed from, without duplicates."""
        if name in self.stated:
            return list(self.stated[name].operands)
        return list(dict.fromkeys(part for term in self.terms(name) for part in term))

    def value(self, name: Name, modulus: int) -> int:
        """Return the value of a parameter; ValueError if the text does not define it."""
        if name not in self.parameters.values():
            raise ValueError(f"{describe(name)} is not defined")
        graph = {needed: self.needs(needed) for needed in self.needed(name)}
        values: dict[Name, int] = {}
        try:
            order = [*graphlib.TopologicalSorter(graph).static_order()]
        except graphlib.CycleError as error:
            raise ValueError(
                f"{describe(name)} depends on a parameter that needs itself"
            ) from error
        for known in order:
            values[known] = self.evaluate(known, values) % modulus
        return values[name]

    def evaluate(self, name: Name, values: Mapping[Name, int]) -> int:
        """Return the value of a parameter, not reduced, from the values of what it needs."""
        if name not in self.stated:
            return sum(math.prod(values[part] for part in term) for term in self.terms(name))
        said = self.stated[name]
        operands = [values[operand] for operand in said.operands]
        if not operands:
            return said.constant or 0
        total = operands[0] - operands[1] if said.difference else sum(operands)
        if said.constant is not None:
            total = said.constant * total if said.times else said.constant + total
        return total

    def needed(self, name: Name | None = None) -> set[Name]:
        """Return all parameters that `name` (the query) depends on, itself included."""
        found: set[Name] = set()
        rest = [name or self.query]
        while rest:
            name = rest.pop()
            if name not in found:
                found.add(name)
                rest += self.needs(name)
        return found


def describe(name: Name) -> str:
    return f"{name[0]}'s {name[1]}"


def readings(text: str) -> Iterator[ParsedQuestion]:
    """Yield the equally good readings of a problem, at least one.

    Raises ValueError if a sentence does not belong to a problem, or if no reading fits.
    """
    stated, query = _sentences(text)
    labels = {label: _splits(label) for label in stated}
    labels |= {operand: _splits(operand) for said in stated.values() for operand in said.operands}
    labels[describe(query)] = [query]
    found = None
    for length, named in _divide(labels, stated):
        if found not in (None, length):
            return
        edges = {
            named[label]: Statement(
                tuple(named[operand] for operand in said.operands),
                said.constant,
                said.times,
                said.difference,
            )
            for label, said in stated.items()
        }
        abstract = {name for name in named.values() if name not in edges}
        for layers, categories in _arrange(list(edges), abstract):
            found = length
            yield ParsedQuestion(edges, query, layers, categories)
    if found is None:
        raise ValueError(f"no arrangement of items in layers fits the problem: {text!r}")


def _sentences(text: str) -> tuple[dict[str, Statement[str]], Name]:
    *sentences, last = _SENTENCES.split(text.strip())
    query = _ASKED.fullmatch(last)
    if not query:
        raise ValueError(f"{last!r} is not a question")
    stated: dict[str, Statement[str]] = {}
    for sentence in sentences:
        match = _STATED.fullmatch(sentence)
        if not match:
            raise ValueError(f"{sentence!r} states no number")
        if match[1] in stated:
            raise ValueError(f"{match[1]} is stated twice")
        stated[match[1]] = _parse_statement(match[2])
    return stated, (query[2], query[1])


def _parse_statement(text: str) -> Statement[str]:
    match = _VALUE.fullmatch(text)
    constant, relation, joined, each = match.groups() if match else (None,) * 4
    operands = tuple(re.split(r"(?:,| and) each ", each)) if each else ()
    if not (operands or constant) or bool(joined) != (len(operands) > 1):
        raise ValueError(f"{text!r} is not a number")
    if joined == "difference" and len(operands) != 2:
        raise ValueError(f"{text!r} is a difference of {len(operands)} numbers, not of 2")
    return Statement(
        operands=operands,
        constant=int(constant) if constant else None,
        times=relation == "times as much as",
        difference=joined == "difference",
    )


def _splits(label: str) -> list[Name]:
    found = [(label[: m.start()], label[m.end() :]) for m in re.finditer("'s ", label)]
    if not found:
        raise ValueError(f"{label!r} is not of the form X's Y")
    return found


def _divide(
    labels: Mapping[str, Sequence[Name]], stated: Collection[str]
) -> list[tuple[int, dict[str, Name]]]:
    """Return ways to divide every label "X's Y" into names, with their length, shortest first.

    The length is that of all names together: those of a problem occur in several labels. Known
    categories are free.
    """
    beam: list[tuple[int, dict[str, Name], frozenset[str]]] = [(0, {}, frozenset())]
    for label, splits in sorted(labels.items(), key=lambda labelled: len(labelled[1])):
        longer = []
        for _, named, names in beam:
            for x, y in splits:
                known = label not in stated and y in _CATEGORIES
                both = names | {x} if known else names | {x, y}
                length = sum(len(name) + _LETTERS_OF_A_NAME for name in both)
                longer.append((length, {**named, label: (x, y)}, both))
        beam = sorted(longer, key=lambda candidate: candidate[0])[:_NAMINGS]
    return [(length, named) for length, named, _ in beam]


def _items(edges: Iterable[Name], layers: Mapping[str, int]) -> set[tuple[str, int]]:
    """Return (name, layer) of all items that are stated to contain something or to be contained."""
    return {item for x, y in edges for item in ((x, layers[x]), (y, layers[x] + 1))}


def _arrange(
    edges: Sequence[Name], abstract: Iterable[Name]
) -> list[tuple[dict[str, int], dict[str, int]]]:
    """Return the (layers, categories) that fit, with as few words as possible in two layers."""
    owners = list(dict.fromkeys(x for x, _ in edges))
    for count in range(min(len(owners), 2) + 1):
        found: dict[int, list[tuple[dict[str, int], dict[str, int]]]] = {}
        for repeated in itertools.combinations(owners, count):
            for at in itertools.product(range(_DEPTH - 1), repeat=count):
                layers = _layers(edges, dict(zip(repeated, at, strict=True)))
                if layers is None:
                    continue
                items = _items(edges, layers)
                for categories in _categories(items, abstract):
                    found.setdefault(len(items), []).append((layers, categories))
        if found:
            return found[min(found)]
    return []


def _layers(edges: Sequence[Name], given: Mapping[str, int]) -> dict[str, int] | None:
    """Return the layer of every item that contains something; None if there is no such order.

    An item that nothing contains is in layer 0. A word in `given` may also name another item, so it
    only needs one item in the layer above.
    """
    parents: dict[str, set[str]] = {x: set() for x, _ in edges}
    for x, y in edges:
        if y in parents:
            parents[y].add(x)
    layers = dict(given)
    try:
        inferred = {x: of for x, of in parents.items() if x not in given}
        order = list(graphlib.TopologicalSorter(inferred).static_order())
    except graphlib.CycleError:
        return None
    for x in order:
        if x not in given:
            above = {layers[parent] + 1 for parent in parents[x]} or {0}
            if len(above) > 1 or max(above) > _DEPTH - 2:
                return None
            layers[x] = above.pop()
    for x, layer in given.items():
        if layer and layer - 1 not in {layers[parent] for parent in parents[x]}:
            return None
    return layers


def _categories(items: set[tuple[str, int]], abstract: Iterable[Name]) -> Iterator[dict[str, int]]:
    """Yield every assignment of layers to categories: by known names, else by what fits."""
    depth = max((layer for _, layer in items), default=0) + 1
    lowest: dict[str, int] = {}
    for x, category in abstract:
        layer = min((layer for item, layer in items if item == x), default=0)
        lowest[category] = max(layer + 1, lowest.get(category, 1))
    known = [
        {category: layer for layer, category in enumerate(window)}
        for number, hierarchy in enumerate(_HIERARCHIES)
        for first, window in _windows(hierarchy, depth)
        if all(_LEVELS.get(x, (number, first + at)) == (number, first + at) for x, at in items)
    ]
    free = [
        dict(zip(lowest, layers, strict=True))
        for layers in itertools.permutations(range(1, depth), len(lowest))
    ]
    for candidates in (known, free):
        fitting = [
            categories
            for categories in candidates
            if all(categories.get(category, 0) >= least for category, least in lowest.items())
        ]
        if fitting:
            yield from fitting
            return


def _windows(hierarchy: Sequence[str], depth: int) -> Iterator[tuple[int, Sequence[str]]]:
    for first in range(len(hierarchy) - depth + 1):
        yield first, hierarchy[first : first + depth]
