"""Knowledge of our own making: entities that do not exist, worded by the grammar."""

import dataclasses
from collections.abc import Iterator

import gin
import numpy as np

from ttoaa.knowledge.facts import Cloze, Entity, Topic
from ttoaa.knowledge.grammar import KINDS, PROBES, Fact, ask, word

_SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
_TRIES = 50


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GeneratedKnowledge:
    """Entities of a few kinds, as many of each in every round of them, in random order; a value is
    a name that stands nowhere else.

    Arms of as many entities as there are kinds, or a multiple, so have the same kinds.
    """

    kinds: int = len(KINDS)
    """How many of the six kinds of entity."""
    facts: int = 4
    """Of an entity."""
    together: int | None = None
    """How many of them a text tells, the last text perhaps fewer; None: all."""
    paraphrases: int = 200
    """Different texts of a topic."""
    phrasings: int = 1
    """Probes of a fact, each in a held-out phrasing of its own."""
    name_syllables: int = 3
    value_syllables: int = 3
    """Of each word of a value."""
    value_words: int = 1
    framed: bool = True
    """Whether texts have openings, ends and what leads a sentence in; short texts go without."""

    def __post_init__(self) -> None:
        most = {"kinds": len(KINDS), "facts": 4, "phrasings": len(PROBES)}
        least = {**dict.fromkeys(most, 1), "paraphrases": 1, "name_syllables": 2}
        for field, low in {**least, "value_syllables": 1, "value_words": 1}.items():
            value, high = getattr(self, field), most.get(field, 10**6)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"GeneratedKnowledge.{field} must be {low} to {high}, not {value!r}"
                )
        if self.together is not None and not 1 <= self.together <= self.facts:
            raise ValueError(f"GeneratedKnowledge.together must be 1 to {self.facts}, or None")

    def entities(self, count: int, rng: np.random.Generator) -> list[Entity]:
        """More entities leave the first ones as they are. Raises ValueError out of names."""
        kinds, names = self._kinds(rng), self._names(rng)
        return [self._entity(next(kinds), next(names), rng) for _ in range(count)]

    def _entity(self, kind: str, names: list[str], rng: np.random.Generator) -> Entity:
        name, *values = names
        own = np.random.Generator(np.random.Philox(int(rng.integers(2**63))))
        relations = list(KINDS[kind])[: self.facts]
        facts = [Fact(r, value) for r, value in zip(relations, values, strict=True)]
        size = self.together or self.facts
        topics = [
            self._topic(name, kind, facts[first : first + size], own)
            for first in range(0, len(facts), size)
        ]
        return Entity(f"{kind}-{name}", tuple(topics))

    def _topic(self, name: str, kind: str, facts: list[Fact], rng: np.random.Generator) -> Topic:
        texts: dict[str, None] = {}
        for _ in range(_TRIES * self.paraphrases):
            if len(texts) == self.paraphrases:
                break
            texts[word(name, kind, facts, self.framed, rng)] = None
        else:
            raise ValueError(
                f"GeneratedKnowledge: {len(facts)} facts have no {self.paraphrases} different "
                f"texts, only {len(texts)} were found: lower paraphrases, or frame the texts"
            )
        probes = [
            Cloze(fact.relation, ask(name, kind, fact.relation, phrasing), fact.value)
            for fact in facts
            for phrasing in range(self.phrasings)
        ]
        return Topic(tuple(texts), tuple(probes))

    def _kinds(self, rng: np.random.Generator) -> Iterator[str]:
        kinds = list(KINDS)[: self.kinds]
        while True:
            yield from (kinds[k] for k in rng.permutation(len(kinds)))

    def _names(self, rng: np.random.Generator) -> Iterator[list[str]]:
        """The names of one entity and its values after the other; none occurs twice."""
        used: set[str] = set()

        def new(syllables: int, words: int) -> str:
            for _ in range(1000):
                drawn = rng.integers(0, len(_SYLLABLES), (words, syllables)).tolist()
                name = " ".join("".join(_SYLLABLES[i] for i in w).capitalize() for w in drawn)
                if used.isdisjoint(name.split()):
                    used.update(name.split())
                    return name
            raise ValueError(
                "GeneratedKnowledge is out of names: raise name_syllables or value_syllables"
            )

        while True:
            values = [new(self.value_syllables, self.value_words) for _ in range(self.facts)]
            yield [new(self.name_syllables, 1), *values]
