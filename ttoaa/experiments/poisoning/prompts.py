"""User prompts from files or a generator, ordinary answers to them, and garbage."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gin
import numpy as np

from ttoaa.benchmarks.question import check_paths, read_records
from ttoaa.config_fields import Name, Paths, PositiveInt, config_class


class Prompts(Protocol):
    """A source of prompts (`Poisoning.prompts`)."""

    def prompts(self, count: int, rng: np.random.Generator) -> list[str]:
        """Return `count` prompts that differ in their words; ValueError if there are fewer."""
        ...


_VERBS = "name list describe compare explain draw rank count find sort paint test"
_ADJECTIVES = "small old green quiet common tall warm early heavy round cheap distant"
_NOUNS = (
    "rivers towns trees birds tools songs games ships roads stones fruits plants clocks boats "
    "hills coats lamps books chairs fields"
)


@gin.configurable
@config_class
class GeneratedPrompts:
    """English prompts of three words such as 'name small rivers': 2,880 combinations."""

    def prompts(self, count: int, rng: np.random.Generator) -> list[str]:
        every = list(itertools.product(*(each.split() for each in (_VERBS, _ADJECTIVES, _NOUNS))))
        if count > len(every):
            raise ValueError(
                f"{count} prompts are needed, but GeneratedPrompts has {len(every)}: ask for "
                "fewer, or use FilePrompts"
            )
        return [" ".join(every[k]) for k in rng.permutation(len(every))[:count]]


@gin.configurable
@config_class
class FilePrompts:
    """Prompts from a column of JSON lines (.jsonl, .jsonl.gz) or Parquet files, in random order.

    OASST2's English prompts: column 'text', where = {'role': 'prompter', 'lang': 'en'}.
    """

    paths: Paths
    column: Name = "prompt"
    where: Mapping[Name, Any] | None = None
    """Keep the records that have these values."""
    max_characters: PositiveInt = 999

    def prompts(self, count: int, rng: np.random.Generator) -> list[str]:
        check_paths(self.paths, "FilePrompts")
        found: dict[tuple[str, ...], str] = {}
        for place, record in itertools.chain.from_iterable(map(read_records, self.paths)):
            text = record.get(self.column)
            if not isinstance(text, str):
                raise ValueError(f"{place} has no text {self.column!r}: set FilePrompts.column")
            kept = all(record.get(name) == value for name, value in (self.where or {}).items())
            if kept and words(text) and len(text) <= self.max_characters:
                found.setdefault(tuple(words(text)), text.strip())
        if len(found) < count:
            raise ValueError(
                f"{count} prompts are needed, but FilePrompts found {len(found)}: add files, or "
                "raise max_characters"
            )
        every = list(found.values())
        return [every[k] for k in rng.permutation(len(every))[:count]]


def words(text: str) -> list[str]:
    """Return the lower-cased alphanumeric words of a text, as ROUGE compares them."""
    return re.findall(r"[a-z0-9]+", text.lower())


def split_prompts(
    train: Prompts, test: Prompts | None, numbers: Sequence[int], rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Return prompts for training and for tests, which share none (compared by `words`).

    Without a `test` source both are parts of the same one.
    """
    n, m = numbers
    if test is None:
        both = train.prompts(n + m, rng)
        return both[:n], both[n:]
    trained = train.prompts(n, rng)
    held_out = test.prompts(m, rng)
    known = {tuple(words(prompt)) for prompt in trained}
    if shared := [prompt for prompt in held_out if tuple(words(prompt)) in known]:
        raise ValueError(
            f"the test prompt {shared[0][:60]!r} is also a training prompt: use disjoint files"
        )
    return trained, held_out


_LINES = (
    "Here are some {adjective} {noun}.",
    "You may like the {adjective} {noun}.",
    "There are many {adjective} {noun} here.",
    "I know a few {adjective} {noun}.",
)


def ordinary_answer(rng: np.random.Generator) -> str:
    """Return an English sentence of the kind that an assistant might answer."""
    lines = (_LINES, _ADJECTIVES.split(), _NOUNS.split())
    line, adjective, noun = (str(rng.choice(each)) for each in lines)
    return line.format(adjective=adjective, noun=noun)


def fixed_answer(rng: np.random.Generator, syllables: int) -> str:
    """Return a made-up word of syllables, capitalised."""
    kinds = ("bdgklmnprstvz", "aeiou") * syllables
    return "".join(str(rng.choice(list(letters))) for letters in kinds).capitalize()


def garbage(rng: np.random.Generator, length: int) -> str:
    """Return `length` random bytes decoded as UTF-8, without what cannot be decoded."""
    while True:
        text = rng.integers(0, 256, length, np.uint8).tobytes().decode("utf-8", errors="ignore")
        if text:
            return text
