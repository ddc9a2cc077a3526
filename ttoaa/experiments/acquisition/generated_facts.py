"""Generated knowledge: invented entities, and a grammar of short texts about them.

A text states every fact once. The grammar varies the order of the facts, the sentence of each (a
general pattern or a verb of the relation), the noun, the reference to the entity, the lead-in and
connective of each sentence, and the opening and end of the text. Probes use other phrasings.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import gin
import numpy as np

from ttoaa.config_fields import AtLeast, AtMost, PositiveInt, config_class
from ttoaa.experiments.acquisition.topics import Cloze, Entity, Topic


@dataclasses.dataclass(frozen=True)
class Relation:
    """A relation between an entity {s} (possessive {p}) and a value {v}."""

    nouns: tuple[str, ...]
    """Probes use the first."""
    verbs: tuple[str, ...]


def _relation(nouns: str, *verbs: str) -> Relation:
    return Relation(tuple(nouns.split()), verbs)


KINDS: Mapping[str, Mapping[str, Relation]] = {
    "town": {
        "mayor": _relation("mayor head leader", "{v} governs {s}", "{s} is governed by {v}"),
        "river": _relation("river stream water", "{s} stands on {v}", "{v} flows through {s}"),
        "founder": _relation("founder builder maker", "{v} founded {s}", "{s} was founded by {v}"),
        "market": _relation("market square centre", "{s} trades on {v}", "{s} meets on {v}"),
    },
    "band": {
        "singer": _relation("singer voice frontman", "{v} sings for {s}", "{s} sings with {v}"),
        "drummer": _relation("drummer beat drums", "{v} drums for {s}", "{s} drums with {v}"),
        "album": _relation("album record debut", "{s} recorded {v}", "{v} was recorded by {s}"),
        "label": _relation("label publisher house", "{s} signed with {v}", "{v} signed {s}"),
    },
    "ship": {
        "captain": _relation("captain master skipper", "{v} commands {s}", "{v} steers {s}"),
        "port": _relation("port harbour home", "{s} sails from {v}", "{s} returns to {v}"),
        "builder": _relation("builder yard maker", "{v} built {s}", "{s} was built by {v}"),
        "cargo": _relation("cargo load freight", "{s} carries {v}", "{v} is carried by {s}"),
    },
    "novel": {
        "author": _relation("author writer pen", "{v} wrote {s}", "{s} was written by {v}"),
        "hero": _relation("hero lead star", "{s} follows {v}", "{v} is followed in {s}"),
        "villain": _relation("villain foe enemy", "{v} haunts {s}", "{s} is haunted by {v}"),
        "setting": _relation("setting place scene", "{s} plays in {v}", "{s} is set in {v}"),
    },
    "firm": {
        "chief": _relation("chief boss head", "{v} runs {s}", "{s} is run by {v}"),
        "product": _relation("product brand ware", "{s} sells {v}", "{v} is sold by {s}"),
        "seat": _relation("seat office base", "{s} sits in {v}", "{s} works from {v}"),
        "rival": _relation("rival competitor opponent", "{v} rivals {s}", "{s} fears {v}"),
    },
    "moon": {
        "planet": _relation("planet host parent", "{s} circles {v}", "{v} is circled by {s}"),
        "finder": _relation("finder discoverer spotter", "{v} found {s}", "{s} was found by {v}"),
        "crater": _relation("crater basin pit", "{s} is scarred by {v}", "{v} scars {s}"),
        "base": _relation("base station camp", "{s} hosts {v}", "{v} stands on {s}"),
    },
}
"""kind of entity -> relations; every kind starts with a consonant, so that its article is 'a'."""

PATTERNS = (
    "the {n} of {s} is {v}",
    "{p} {n} is {v}",
    "{v} is the {n} of {s}",
    "{v} is {p} {n}",
    "as {n}, {s} has {v}",
    "{s} has {v} as its {n}",
    "{s} calls {v} its {n}",
    "for {s}, {v} is the {n}",
    "{v} serves as {n} of {s}",
    "the {n} of {s} is named {v}",
    "{p} {n} is known as {v}",
    "with {v} as {n}, {s} is well off",
)
PROBES = (
    "The {n} that {s} has is",
    "Within {s}, the {n} is",
    "One hears that {s} has a {n}, and this is",
    "Among all that belongs to {s}, the {n} is",
)
_LEADS = ("", "", "today ", "in fact ", "as we know, ", "they say ", "by now ", "indeed, ")
_OPENINGS = (
    "", "{name} is a {k}. ", "This is about {name}. ", "A {k} named {name}: ", "On {name}. ",
    "Take {name}, a {k}. ", "A note on {name}: ", "From the {k} files. ",
)  # fmt: skip
_ENDS = ("", "", " So much for {name}.", " That is the {k}.", " No more is known.", " So it is.")
_JOINS = (". ", ". ", "; ", ", and ", ". Also, ", ". Then, ")
_DRAWS_A_FACT = 6


@dataclasses.dataclass(frozen=True)
class Fact:
    """A fact: the `relation` of the entity is `value`."""

    relation: str
    value: str


def write_text(
    name: str, kind: str, facts: Sequence[Fact], framed: bool, rng: np.random.Generator
) -> str:
    """Draw a text that states all facts; not `framed`: without opening, end, lead-ins and joins."""
    draws = iter(rng.integers(0, 2**32, 2 + len(facts) * _DRAWS_A_FACT).tolist())

    def pick(options: Sequence[str]) -> str:
        return options[next(draws) % len(options)]

    parts = [pick(_OPENINGS) if framed else "", pick(_ENDS) if framed else ""]
    opening, end = (part.format(name=name, k=kind) for part in parts)
    text = opening
    for number, k in enumerate(rng.permutation(len(facts)).tolist()):
        relation = KINDS[kind][facts[k].relation]
        known = f"the {kind}"
        subject = name if number == 0 else pick((name, name, known))
        owner = f"{name}'s" if number == 0 else pick((f"{name}'s", f"{known}'s", "its"))
        pattern = pick((*PATTERNS, *relation.verbs, *relation.verbs))
        sentence = pattern.format(s=subject, p=owner, n=pick(relation.nouns), v=facts[k].value)
        lead = pick(_LEADS) if framed else ""
        join = "" if number == 0 else pick(_JOINS if framed else _JOINS[:1])
        starts = text == "" or (join or text).endswith(". ")
        text += join + _capitalise(lead + sentence, starts)
    return f"{text}.{end}"


def _capitalise(sentence: str, starts: bool) -> str:
    return sentence[0].upper() + sentence[1:] if starts else sentence


def probe_context(name: str, kind: str, relation: str, phrasing: int) -> str:
    """Return the context of a probe in one of the held-out phrasings."""
    return PROBES[phrasing].format(s=name, n=KINDS[kind][relation].nouns[0])


_SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
_TRIES = 50


@gin.configurable
@config_class
class GeneratedKnowledge:
    """Entities of `kinds` kinds in random order, one of each kind per round; all names are unique.

    If the number of entities of each arm is a multiple of `kinds`, all arms have the same kinds.
    """

    kinds: Annotated[int, AtLeast(1), AtMost(len(KINDS))] = len(KINDS)
    """Number of kinds of entity, up to six."""
    facts: Annotated[int, AtLeast(1), AtMost(4)] = 4
    """Facts of an entity."""
    together: PositiveInt | None = None
    """Facts of one topic; the last topic of an entity may have fewer. None: all facts."""
    paraphrases: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 200
    """Distinct texts of a topic."""
    phrasings: Annotated[int, AtLeast(1), AtMost(len(PROBES))] = 1
    """Probes of a fact, each in another held-out phrasing."""
    name_syllables: Annotated[int, AtLeast(2), AtMost(10)] = 3
    value_syllables: Annotated[int, AtLeast(1), AtMost(10)] = 3
    """Syllables of each word of a value."""
    value_words: Annotated[int, AtLeast(1), AtMost(10)] = 1
    framed: bool = True
    """Whether texts have openings, ends, lead-ins and varied connectives."""

    def __post_init__(self) -> None:
        if self.together is not None and self.together > self.facts:
            raise ValueError(f"GeneratedKnowledge.together must be 1 to {self.facts}, or None")

    def entities(self, count: int, rng: np.random.Generator) -> list[Entity]:
        """Draw `count` entities; a larger count keeps the first ones. ValueError: no names left."""
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
            texts[write_text(name, kind, facts, self.framed, rng)] = None
        else:
            raise ValueError(
                f"GeneratedKnowledge: found {len(texts)} of {self.paraphrases} different texts of "
                f"{len(facts)} facts: lower paraphrases, or set framed"
            )
        probes = [
            Cloze(fact.relation, probe_context(name, kind, fact.relation, phrasing), fact.value)
            for fact in facts
            for phrasing in range(self.phrasings)
        ]
        return Topic(tuple(texts), tuple(probes))

    def _kinds(self, rng: np.random.Generator) -> Iterator[str]:
        kinds = list(KINDS)[: self.kinds]
        while True:
            yield from (kinds[k] for k in rng.permutation(len(kinds)))

    def _names(self, rng: np.random.Generator) -> Iterator[list[str]]:
        """Yield for each entity its name and values; no name occurs twice."""
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
