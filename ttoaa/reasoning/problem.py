"""Draws whole problems: their size, their text, their solution, their template."""

import dataclasses
import hashlib
import re

import gin

from ttoaa.reasoning.draws import Draws
from ttoaa.reasoning.graph import draw_graph
from ttoaa.reasoning.names import Names, ShortNames
from ttoaa.reasoning.structure import Parameter, draw_size, draw_structure
from ttoaa.reasoning.wording import Solver, asked, named, stated

_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Problem:
    question: str
    """All sentences in random order, what is asked last."""
    solution: str
    answer: int
    operations: int
    template: str
    """The solution without names, numbers and the choice of letters: sha256, 16 hex digits."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Problems of iGSM (Ye et al., 2024, "Physics of Language Models: Part 2.1").

    An instance parameter is stated in a sentence, an abstract one follows from the structure; the
    answer is a residue by the modulus.
    """

    modulus: int = 23
    edges: int = 20
    """Instance parameters at most (ip)."""
    names: Names | ShortNames = dataclasses.field(default_factory=Names)

    def __post_init__(self) -> None:
        if not isinstance(self.modulus, int) or self.modulus < 2:
            raise ValueError(f"Arithmetic.modulus must be at least 2, not {self.modulus!r}")
        if not isinstance(self.edges, int) or not 4 <= self.edges <= 48:
            raise ValueError(f"Arithmetic.edges must be 4 to 48, not {self.edges!r}")

    def draw(self, key: int | str, operations: int) -> Problem:
        """The problem of that key, of exactly that many operations.

        Raises ValueError where none was found in 1,000 draws: more operations than edges allow.
        """
        draws = Draws(key)
        for _ in range(_DRAWS):
            if problem := self._draw(draws, operations):
                return problem
        raise ValueError(
            f"no problem of {operations} operations with at most {self.edges} edges was found: "
            "ask for fewer operations or raise Arithmetic.edges"
        )

    def _draw(self, draws: Draws, operations: int) -> Problem | None:
        structure = draw_structure(draws, draw_size(draws, operations, self.edges))
        graph = draw_graph(draws, structure, operations, self.modulus)
        if graph is None or graph.operations() != operations:
            return None
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
            return named(parameter, items, categories)

        sentences = [stated(edge, graph.sentences[edge], name) for edge in structure.edges]
        sentences = draws.sample(sentences, len(sentences))
        solution, answer = Solver(draws, self.modulus).solve(graph, name)
        return Problem(
            question=" ".join([*sentences, asked(graph.query, items, categories)]),
            solution=solution,
            answer=answer,
            operations=operations,
            template=template(solution, categories),
        )


def light(draws: Draws, most: int) -> int:
    """The lower of two uniform draws of 1 to `most`: how many operations a problem has."""
    return min(draws.between(1, most), draws.between(1, most))


_NAME = re.compile(r"(?<=Define )(.+?)'s (.+?)(?= as )")
_LETTER = re.compile(r"\b[A-Za-z]\b")
_NUMBER = re.compile(r"\b\d+\b")


def template(solution: str, categories: tuple[str, ...]) -> str:
    """Equal for solutions that differ in names, numbers and letters alone."""
    text = _NAME.sub(lambda m: "abstract" if m[2] in categories else "instance", solution)
    order: dict[str, str] = {}
    text = _LETTER.sub(lambda m: order.setdefault(m[0], f"v{len(order)}"), text)
    text = _NUMBER.sub("0", text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
