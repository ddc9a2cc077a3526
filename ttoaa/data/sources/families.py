"""Families of near-duplicate passages, generated: the boilerplate that a small corpus lacks."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, NamedTuple

import gin
import numpy as np

from ttoaa.config_fields import AtLeast, Count, Distinct, Name, NotEmpty, PositiveInt, config_class
from ttoaa.data.sources.base import Source, all_documents, keyed_fraction


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ADJECTIVES = _words("""
    amber blue broad calm cold copper deep early empty faint golden green heavy hidden high
    hollow late little lonely narrow northern old pale quiet round silver slow southern steep
    stony tall warm wide wooden young
""")
_NOUNS = _words("""
    anchor apple barrel basket bell boat bottle bridge candle castle cellar chain clock coat
    engine fence ferry field garden gate hammer harbour horse island kettle ladder lamp
    lantern ledger letter market mill mirror needle orchard paper pillar plough river road
    rope saddle sail shovel spoon stable table tower tunnel wagon wall well window
""")
_PEOPLE = _words("""
    baker captain carpenter clerk farmer fisher gardener guard judge keeper mason miller
    painter pilot porter sailor shepherd smith tailor teacher trader weaver
""")
_VERBS = _words("""
    bought brought built buried carried cleaned counted found guarded hid kept lost measured
    mended moved opened painted raised repaired sold stored took traded watched weighed
""")
_PLACES = _words("""
    Alder Birch Cedar Dunmore Elmstead Farrow Glenby Harwick Ivory Juniper Kelder Linden Marsh
    Norby Oakham Penrose Quarry Redwater Stonefield Thornby Underhill Vale Westby Yarrow
""")
_NUMBERS = (11, 990)


class Passage(NamedTuple):
    """The passage of a family, of which `size` near-duplicates are in the corpus."""

    size: int
    number: int
    text: str


@gin.configurable
@config_class
class Families:
    """Passages, each with exact copies and with near-duplicates.

    A near-duplicate changes the case of one to three words, exchanges up to three, or counts
    all numbers up; at least one change is in the first half. Which passage has how many is random.
    `WithFamilies` puts them into a corpus, and the experiment `Verbatim` removes the exact copies.
    """

    sizes: Annotated[Sequence[Count], NotEmpty(), Distinct()] = (0, 4, 16, 64)
    """Near-duplicates of a passage; there are `families` passages of each size."""
    families: PositiveInt = 8
    exact: PositiveInt = 8
    """Exact copies of each passage."""
    characters: Annotated[int, AtLeast(40)] = 200
    """Length of a passage, about."""
    key: Name = "families"
    """Another key makes other passages."""

    def copies(self) -> list[tuple[str, str]]:
        """Return (name, text) of all exact copies and near-duplicates, shuffled.

        A name is '<size>-<number of the passage>/<number of the copy>', exact copies first.
        """
        copies = [
            (f"{passage.size}-{passage.number}/{copy}", text)
            for passage in self.passages()
            for copy, text in enumerate(self._copies(passage))
        ]
        return sorted(copies, key=lambda copy: keyed_fraction("order", f"{self.key} {copy[0]}"))

    def passages(self) -> list[Passage]:
        """Return the passage of every family."""
        sizes = [(size, number) for size in self.sizes for number in range(self.families)]
        texts = [self._text("passage", i) for i in range(len(sizes))]
        return [Passage(*size, text) for size, text in zip(sizes, texts, strict=True)]

    def unseen(self, count: int) -> list[str]:
        """Return passages of the same generator that are not in the corpus."""
        return [self._text("unseen", i) for i in range(count)]

    def _copies(self, passage: Passage) -> Iterator[str]:
        yield from [passage.text] * self.exact
        for k in range(passage.size):
            rng = self._rng("copy", passage.size, passage.number, k)
            yield _CHANGES[k % len(_CHANGES)](passage.text, rng, k)

    def _text(self, *key: object) -> str:
        rng, text = self._rng(*key), ""
        while len(text) < self.characters:
            text += f"{' ' if text else ''}{_sentence(rng)}"
        return text[: self.characters].rpartition(" ")[0].rstrip(".,") + "."

    def _rng(self, *key: object) -> np.random.Generator:
        name = "\x1f".join(map(str, (self.key, *key)))
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))


@gin.configurable
@config_class
class Passages:
    """Passages of one generator as documents, no two from the same draw; needs no file."""

    count: PositiveInt = 2_000
    characters: Annotated[int, AtLeast(40)] = 400
    """Length of a passage, about."""
    key: Name = "passages"
    """Another key makes other passages."""

    @property
    def description(self) -> str:
        return f"{self.count:,} generated passages"

    def units(self) -> Sequence[str]:
        return (self.key,)

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        made = Families(characters=self.characters, key=unit).unseen(self.count)
        yield from ((f"{unit}:{number}", text) for number, text in enumerate(made, 1))


@gin.configurable
@config_class
class WithFamilies:
    """A source with the copies of `families` put between the lines of its documents, far apart.

    One process reads it. Raises ValueError where the source is too short for all copies.
    """

    source: Source
    families: Families
    every: PositiveInt = 4_000
    """Characters of the source from one copy to the next: more than a row of training has."""

    @property
    def description(self) -> str:
        of = self.families
        return (
            f"{self.source.description}, with {of.families} generated passages of each of "
            f"{tuple(of.sizes)} near-duplicates and {of.exact} exact copies"
        )

    def units(self) -> Sequence[str]:
        return ("with families",)

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        del unit
        copies = self.families.copies()
        left, characters = iter(copies), self.every // 2
        placed = 0
        for name, text in all_documents(self.source):
            parts = []
            for line in str(text).splitlines(keepends=True):
                parts.append(line)
                characters += len(line)
                if characters >= self.every and line.endswith("\n"):
                    characters %= self.every
                    if copy := next(left, None):
                        parts.append(f"{copy[1]}\n")
                        placed += 1
            yield name, "".join(parts)
        if placed < len(copies):
            raise ValueError(
                f"the source has room for {placed:,} of {len(copies):,} copies of families: lower "
                "WithFamilies.every or Families.sizes"
            )


def _sentence(rng: np.random.Generator) -> str:
    def word(words: Sequence[str]) -> str:
        return words[int(rng.integers(len(words)))]

    number = int(rng.integers(*_NUMBERS))
    return (
        f"The {word(_PEOPLE)} of {word(_PLACES)} {word(_VERBS)} {number} {word(_ADJECTIVES)} "
        f"{word(_NOUNS)}s near the {word(_ADJECTIVES)} {word(_NOUNS)}, and the {word(_PEOPLE)} "
        f"{word(_VERBS)} the {word(_NOUNS)}."
    )


def _change_case(text: str, rng: np.random.Generator, number: int) -> str:
    del number

    def flip(word: str) -> str:
        return word.upper() if word.upper() != word else word.lower()

    return _replace(text, rng, flip)


def _change_words(text: str, rng: np.random.Generator, number: int) -> str:
    del number

    def other(word: str) -> str:
        bare = word.strip(".,")
        words = [noun for noun in _NOUNS if noun != bare]
        return word.replace(bare, words[int(rng.integers(len(words)))])

    return _replace(text, rng, other)


def _count_up(text: str, rng: np.random.Generator, number: int) -> str:
    del rng
    words = [str(int(w) + number + 1) if w.isdecimal() else w for w in text.split(" ")]
    return " ".join(words)


_CHANGES = (_change_case, _change_words, _count_up)


def _replace(text: str, rng: np.random.Generator, change: Callable[[str], str]) -> str:
    """Change one to three words that are no numbers, one of them in the first half."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if word.strip(".,").isalpha()]
    first = int(rng.choice([i for i in places if i < len(words) // 2]))
    more = rng.choice([i for i in places if i != first], int(rng.integers(3)), replace=False)
    for place in (first, *more.tolist()):
        words[place] = change(words[place])
    return " ".join(words)
