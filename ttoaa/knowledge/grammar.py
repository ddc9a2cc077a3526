"""A grammar of short texts about one entity: which words, in which order, in which frame.

A text says every fact once. What varies: the order of the facts, the sentence of each (a pattern
for all relations, or one of the relation's own verbs), the noun, how the entity is referred to,
what leads a sentence in, what joins two, and the opening and the end of the text. The phrasings of
probes are none of the patterns.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Relation:
    """Between an entity {s} (of whom something is {p}) and a value {v}."""

    nouns: tuple[str, ...]
    """The first is the one that probes use."""
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
"""kind of entity to its relations; the first word of each is a consonant's, for 'a'."""

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
    """One value: `relation` of the entity is `value`."""

    relation: str
    value: str


def word(
    name: str, kind: str, facts: Sequence[Fact], framed: bool, rng: np.random.Generator
) -> str:
    """One text that says all facts, drawn from the grammar; without frame sentences alone."""
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
        text += join + _capital(lead + sentence, starts)
    return f"{text}.{end}"


def _capital(sentence: str, starts: bool) -> str:
    return sentence[0].upper() + sentence[1:] if starts else sentence


def ask(name: str, kind: str, relation: str, phrasing: int) -> str:
    """The context of a probe, in one of the held-out phrasings."""
    return PROBES[phrasing].format(s=name, n=KINDS[kind][relation].nouns[0])
