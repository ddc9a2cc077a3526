"""What there is to know: entities, the facts told of them together, and questions for each."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cloze:
    """A beginning in words that no training text has, and the short target that ends it.

    What is scored is `context + ' ' + target`, and of it the probability of the target.
    """

    fact: str
    context: str
    target: str


@dataclasses.dataclass(frozen=True)
class Topic:
    """Facts that are always told together: what has one rate of exposure."""

    texts: tuple[str, ...]
    """Different wordings of the same facts."""
    probes: tuple[Cloze, ...]


@dataclasses.dataclass(frozen=True)
class Entity:
    """The unit that arms are made of: no two arms have facts of the same one."""

    name: str
    topics: tuple[Topic, ...]


class Knowledge(Protocol):
    """Where entities come from."""

    def entities(self, count: int, rng: np.random.Generator) -> Sequence[Entity]:
        """In random order; raises ValueError where there are fewer."""
        ...
