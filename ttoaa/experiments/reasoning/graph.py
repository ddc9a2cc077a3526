"""The dependency graph of a problem: its query, the parameters the query needs, and distractors."""

import dataclasses
import math
from typing import NamedTuple

from ttoaa.experiments.reasoning.structure import (
    Abstract,
    Draws,
    Instance,
    Parameter,
    Size,
    Structure,
    draw_structure,
)

_TRIES = 100


@dataclasses.dataclass(frozen=True)
class Sentence:
    """The value of an instance parameter: a `constant` and a sum or difference of `operands`.

    One of the two may be absent; `relation` joins them: "more" adds the constant, "times"
    multiplies by it.
    """

    operands: tuple[Parameter, ...]
    constant: int | None
    relation: str = "more"
    difference: bool = False


class SentenceSize(NamedTuple):
    modulus: int
    """Constants are below this number."""
    operands: int
    """Maximum number of operands of a sentence; a constant counts as one."""


@dataclasses.dataclass(frozen=True)
class Graph:
    """A problem without its wording."""

    structure: Structure
    needed: tuple[Parameter, ...]
    """In the order of solution; the last is the query."""
    sentences: dict[Instance, Sentence]
    """One for every edge, needed or not."""

    @property
    def query(self) -> Parameter:
        return self.needed[-1]

    def operations(self) -> int:
        """Return the number of operations of the whole solution."""
        return sum(cost(self.structure, self.sentences, p) for p in self.needed)


def cost(structure: Structure, sentences: dict[Instance, Sentence], parameter: Parameter) -> int:
    """Return the number of operations that compute `parameter` from its operands."""
    if len(parameter) == 4:
        return structure.cost(parameter)
    sentence = sentences[parameter]
    return max(1, len(sentence.operands) + (sentence.constant is not None) - 1)


def draw_graph(draws: Draws, size: Size, operations: int, limits: SentenceSize) -> Graph | None:
    """Draw a graph; None if this draw failed and the caller should draw another size."""
    abstract = max(draws.between(1, operations) for _ in range(2))
    most = draws.between(abstract, operations)
    for _ in range(_TRIES):
        structure = draw_structure(draws, size)
        chosen = _choose_parameters(draws, structure, abstract, most)
        if ordered := _order_parameters(draws, structure, chosen):
            needed, depends = ordered
            sentences = _draw_sentences(draws, structure, needed, depends, operations, limits)
            if sentences is None:
                return None
            _add_distractors(draws, structure, needed, sentences, limits)
            return Graph(structure, needed, sentences)
    return None


def _choose_parameters(
    draws: Draws, structure: Structure, budget: int, most: int
) -> set[Parameter]:
    """Choose the parameters of the solution, of at most `most` operations together.

    Up to `budget` operations go to abstract parameters and their needs, deepest first.
    """
    chosen: set[Parameter] = set()
    spent = 0
    while budget > 0:
        fitting: tuple[int, set[Parameter]] | None = None
        for distance in range(1, len(structure.widths)):
            unused = [a for a in structure.abstract if a[2] - a[0] == distance and a not in chosen]
            if not unused:
                continue
            new = _closure(structure, draws.choice(unused), chosen)
            price = sum(structure.cost(p) if len(p) == 4 else 1 for p in new)
            if price > budget:
                break
            fitting = price, new
        if fitting is None:
            break
        budget, spent = budget - fitting[0], spent + fitting[0]
        chosen |= fitting[1]
    unused_edges = [edge for edge in structure.edges if edge not in chosen]
    count = min(most - spent, len(unused_edges))
    return chosen | set(draws.sample(unused_edges, max(0, count)))


def _closure(structure: Structure, wanted: Abstract, chosen: set[Parameter]) -> set[Parameter]:
    """Return `wanted` and everything it needs that is not chosen yet."""
    found: set[Parameter] = set()
    rest: list[Parameter] = [wanted]
    while rest:
        parameter = rest.pop()
        if parameter not in chosen and parameter not in found:
            found.add(parameter)
            rest += structure.needs(parameter)
    return found


def _order_parameters(
    draws: Draws, structure: Structure, chosen: set[Parameter]
) -> tuple[tuple[Parameter, ...], dict[Instance, Parameter]] | None:
    """Draw an order of solution in which every parameter is needed, from the query backwards.

    Also returns the parameter that each instance parameter must depend on. None if the draw failed.
    """
    unplaced = sorted(chosen, key=str)
    waiting = dict.fromkeys(unplaced, 0)  # users that are not placed yet
    for parameter in unplaced:
        for need in structure.needs(parameter):
            waiting[need] += 1
    demanded: set[Parameter] = set()
    depends: dict[Instance, Parameter] = {}
    placed: list[Parameter] = []
    eager, preference = draws.uniform(), _half_normal(draws)
    while unplaced:
        open_ = [p for p in unplaced if not waiting[p]]
        ready = [p for p in open_ if p in demanded] if placed else open_
        if not ready:
            return None
        parameter = draws.choice(ready)
        unplaced.remove(parameter)
        placed.append(parameter)
        if len(parameter) == 4:
            for need in structure.needs(parameter):
                waiting[need] -= 1
                demanded.add(need)
        elif unplaced:
            open_ = [p for p in unplaced if not waiting[p]]
            forced = not any(p in demanded for p in open_)
            if forced or draws.uniform() < eager:
                among = open_ if forced else unplaced
                weights = [
                    math.exp(preference * ((len(p) == 4) + (p not in demanded))) for p in among
                ]
                depends[parameter] = draws.weighted(among, weights)
                demanded.add(depends[parameter])
    return tuple(reversed(placed)), depends


def _half_normal(draws: Draws) -> float:
    """Draw |N(0, 1)| (Box-Muller)."""
    return abs(
        math.sqrt(-2 * math.log(1 - draws.uniform())) * math.cos(2 * math.pi * draws.uniform())
    )


def _draw_sentences(
    draws: Draws,
    structure: Structure,
    needed: tuple[Parameter, ...],
    depends: dict[Instance, Parameter],
    operations: int,
    limits: SentenceSize,
) -> dict[Instance, Sentence] | None:
    """Draw sentences of the needed instance parameters; None if the operations do not fit."""
    spare = operations - sum(structure.cost(p) if len(p) == 4 else 1 for p in needed)
    room = {
        p: max(min(place + 1, limits.operands) - 2, 0)
        for place, p in enumerate(needed)
        if len(p) == 3
    }
    extra = dict.fromkeys(room, 0)
    while spare:
        open_ = [p for p in room if extra[p] < room[p]]
        if not open_:
            return None
        extra[draws.choice(open_)] += 1
        spare -= 1
    sentences: dict[Instance, Sentence] = {}
    for place, parameter in enumerate(needed):
        if len(parameter) == 4:
            continue
        most = min(place + 1, limits.operands)
        count = extra[parameter] + 2 if extra[parameter] else draws.between(1, 2)
        first = [depends[parameter]] if parameter in depends else []
        sentences[parameter] = _sentence(draws, first, needed[:place], min(count, most), limits)
    return sentences


def _sentence(
    draws: Draws,
    first: list[Parameter],
    earlier: tuple[Parameter, ...] | list[Parameter],
    count: int,
    limits: SentenceSize,
) -> Sentence:
    """Draw a sentence of `count` operands: `first`, maybe a constant, then random ones."""
    others = [p for p in earlier if p not in first]
    rest = count - len(first)
    constant = rest > 0 and (rest > len(others) or draws.uniform() < 0.5)
    operands = (*first, *draws.sample(others, rest - constant))
    relation = "more"
    if constant and operands and draws.uniform() < 0.5:
        relation = "times"
    least = 1 if relation == "times" else 0
    return Sentence(
        operands=operands,
        constant=draws.between(least, limits.modulus - 1) if constant else None,
        relation=relation,
        difference=len(operands) == 2 and draws.uniform() < 0.5,
    )


def _add_distractors(
    draws: Draws,
    structure: Structure,
    needed: tuple[Parameter, ...],
    sentences: dict[Instance, Sentence],
    limits: SentenceSize,
) -> None:
    """Add a sentence for every unneeded edge.

    Half of them depend only on each other, the rest on any parameter that is computable so far.
    """
    known: dict[Parameter, None] = dict.fromkeys(needed)
    independent: list[Parameter] = []
    for edge in draws.sample(
        unneeded := [e for e in structure.edges if e not in known], len(unneeded)
    ):
        for abstract in structure.abstract:  # children come before what contains them
            if all(p in known for p in structure.needs(abstract)):
                known.setdefault(abstract)
        alone = draws.uniform() < 0.5
        earlier = independent if alone else list(known)
        count = 1
        while count < limits.operands and draws.uniform() < 0.5:
            count += 1
        sentences[edge] = _sentence(draws, [], earlier, min(count, len(earlier) + 1), limits)
        known[edge] = None
        if alone:
            independent.append(edge)
