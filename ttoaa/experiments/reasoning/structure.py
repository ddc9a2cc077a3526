"""The structure of a problem: layers of items, their parameters, and what these depend on.

Items of layer i contain items of layer i + 1. An edge (i, j) → (i+1, k) is an instance parameter,
"each X's Y". An abstract parameter (i, j, c) counts the things of layer c in item (i, j): the sum
of its edges if c = i + 1, otherwise the sum over its children of edge times the child's parameter.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A keyed random stream, the same on every Python version: it uses `Random.random` only."""

    def __init__(self, key: int | str) -> None:
        self.uniform: Callable[[], float] = random.Random(key).random

    def between(self, low: int, high: int) -> int:
        """Return an integer from low to high, both inclusive."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, values: Sequence[T]) -> T:
        return values[int(self.uniform() * len(values))]

    def weighted(self, values: Sequence[T], weights: Sequence[float]) -> T:
        left = self.uniform() * sum(weights)
        for value, weight in zip(values, weights, strict=True):
            left -= weight
            if left < 0:
                return value
        return values[-1]

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """Return `count` different values in random order."""
        rest, drawn = list(values), []
        for _ in range(count):
            drawn.append(rest.pop(int(self.uniform() * len(rest))))
        return drawn


Instance = tuple[int, int, int]
"""(i, j, k): the edge from item j of layer i to item k of layer i + 1."""
Abstract = tuple[int, int, int, str]
"""(i, j, c, "all"): the number of things of layer c in item j of layer i."""
Parameter = Instance | Abstract

_DEPTHS = (2, 3, 4)
_CENTRES = (0.2, 0.5, 0.8)


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of a structure to draw."""

    depth: int
    narrow: int
    """The fewest items of a layer."""
    wide: int
    """The most items of a layer."""
    edges: int


@dataclasses.dataclass(frozen=True)
class Structure:
    widths: tuple[int, ...]
    edges: tuple[Instance, ...]
    abstract: Mapping[Abstract, tuple[tuple[Parameter, ...], ...]]
    """abstract parameter -> its terms, (edge,) or (edge, the child's parameter); no terms: 0."""

    def cost(self, parameter: Abstract) -> int:
        """Return the number of operations that compute `parameter` from what it needs."""
        terms = self.abstract[parameter]
        return max(1, sum(map(len, terms)) - 1)

    def needs(self, parameter: Parameter) -> list[Parameter]:
        """Return what an abstract parameter is computed from; nothing for an instance parameter."""
        if len(parameter) == 3:
            return []
        return [part for term in self.abstract[parameter] for part in term]


def draw_size(draws: Draws, operations: int, most_edges: int) -> Size:
    """Draw a size: harder problems are deeper and wider (the "light" distribution of iGSM)."""
    share = min(1.0, (operations - 1) / (most_edges - 1))
    weights = [math.exp(-((share - centre) ** 2)) for centre in _CENTRES]
    while True:
        depth = draws.weighted(_DEPTHS, weights)
        narrow, wide = sorted(draws.weighted(_DEPTHS, weights) for _ in range(2))
        least = (depth - 1) * narrow
        if least <= most_edges:  # always true with 12 edges or more
            break
    edges = min(draws.between(least, most_edges) for _ in range(2))
    return Size(depth, narrow, wide, min(edges, (depth - 1) * wide**2))


def draw_structure(draws: Draws, size: Size) -> Structure:
    """Draw layers and edges: every item has a parent, the remaining edges are random."""
    widths = _widths(draws, size)
    edges = [
        (i - 1, draws.between(0, widths[i - 1] - 1), k)
        for i in range(1, size.depth)
        for k in range(widths[i])
    ]
    used = set(edges)
    unused = [
        (i, j, k)
        for i in range(size.depth - 1)
        for j in range(widths[i])
        for k in range(widths[i + 1])
        if (i, j, k) not in used
    ]
    edges += draws.sample(unused, min(size.edges - len(edges), len(unused)))
    edges.sort()
    return Structure(tuple(widths), tuple(edges), _abstract_parameters(edges, widths))


def _widths(draws: Draws, size: Size) -> list[int]:
    widths = [size.narrow] * size.depth
    chance = draws.uniform()
    while True:
        possible = sum(a * b for a, b in itertools.pairwise(widths))
        growable = [i for i, width in enumerate(widths) if width < size.wide]
        if possible >= size.edges:
            # Every item below the first layer needs an edge; a new one must still get it.
            growable = [i for i in growable if i == 0 or sum(widths[1:]) < size.edges]
            if sum(widths[1:]) == size.edges or draws.uniform() >= chance:
                return widths
        if not growable:
            return widths
        widths[draws.choice(growable)] += 1


def _abstract_parameters(
    edges: Sequence[Instance], widths: Sequence[int]
) -> dict[Abstract, tuple[tuple[Parameter, ...], ...]]:
    """Return the terms of every abstract parameter; an item that contains nothing has no terms."""
    depth = len(widths)
    children: dict[tuple[int, int], list[Instance]] = {
        (i, j): [] for i in range(depth - 1) for j in range(widths[i])
    }
    for edge in edges:
        children[edge[:2]].append(edge)
    return {
        (i, j, i + distance, "all"): tuple(
            (edge,) if distance == 1 else (edge, (i + 1, edge[2], i + distance, "all"))
            for edge in below
        )
        for distance in range(1, depth)
        for (i, j), below in children.items()
        if i + distance < depth
    }
