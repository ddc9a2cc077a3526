"""Multiple-choice questions as cloze texts: a generated benchmark, and benchmarks from files.

A choice is a context and a continuation; a model chooses by the likelihood of the continuations.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import Protocol

import gin
import numpy as np
import pandas as pd


@dataclasses.dataclass(frozen=True)
class Question:
    """One choice for each context and continuation; the full text of choice k is their sum."""

    id: str
    benchmark: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    label: int


class Source(Protocol):
    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        """At least `count` questions; ValueError where there are fewer."""
        ...


_CONSONANTS = "bdfglmnprstvkz"
_SYLLABLES = tuple(consonant + vowel for consonant in _CONSONANTS for vowel in "aeiou")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class GeneratedQuestions:
    """Short facts about things that do not exist, one benchmark for each relation.

    Nothing but memory tells the right option. The options of a benchmark are drawn from one small
    pool in which every name is right equally often, and names of a pool have the same length.
    Every question is about a subject of its own. Training on some questions makes their answers
    likelier for all; since pools are shared at random, that leaves a holdout at chance.
    """

    relations: Sequence[str] = ("capital", "founder", "language", "river")
    template: str = "The {relation} of {subject} is"
    options: int = 4
    answers: int = 16
    """Size of the pool of each benchmark."""
    subject_syllables: int = 3
    answer_syllables: int = 2
    syllables: Sequence[str] = _SYLLABLES

    def __post_init__(self) -> None:
        if not 2 <= self.options <= self.answers:
            raise ValueError(
                f"GeneratedQuestions needs 2 <= options <= answers, not options={self.options}, "
                f"answers={self.answers}"
            )
        if "{relation}" not in self.template or "{subject}" not in self.template:
            raise ValueError("GeneratedQuestions.template must contain {relation} and {subject}")
        if not self.relations or len(set(self.relations)) < len(self.relations):
            raise ValueError("GeneratedQuestions.relations must be distinct, and at least one")

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        subjects = self._names(count, self.subject_syllables, rng)
        names = self._names(self.answers * len(self.relations), self.answer_syllables, rng)
        made = []
        for number, relation in enumerate(self.relations):
            mine = subjects[number :: len(self.relations)]
            pool = names[number :: len(self.relations)]
            golds = rng.permutation(np.arange(len(mine)) % self.answers)
            labels = rng.permutation(np.arange(len(mine)) % self.options)
            for k, (subject, gold, label) in enumerate(zip(mine, golds, labels, strict=True)):
                others = np.delete(np.arange(self.answers), gold)
                chosen = rng.choice(others, self.options - 1, replace=False)
                context = self.template.format(relation=relation, subject=subject)
                continuations = tuple(f" {pool[i]}" for i in np.insert(chosen, label, gold))
                contexts = (context,) * self.options
                made.append(
                    Question(f"{relation}-{k}", relation, contexts, continuations, int(label))
                )
        return made

    def _names(self, count: int, length: int, rng: np.random.Generator) -> list[str]:
        possible = len(self.syllables) ** length
        if count > possible:
            raise ValueError(
                f"{count} names of {length} syllables are needed, but only {possible} can be "
                "made: raise subject_syllables or answer_syllables"
            )
        numbers = rng.choice(possible, count, replace=False)
        digits = np.stack(np.unravel_index(numbers, (len(self.syllables),) * length), 1)
        return ["".join(self.syllables[i] for i in row) for row in digits]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ParquetQuestions:
    """Benchmark questions in OLMES cloze format, as released with Bordt et al. (2025).

    Parquet columns: options (the full text of every choice), label, benchmark, question-id. Where
    all choices share an "Answer:" or "Solution:" line the continuation is what follows it; else
    (HellaSwag) it starts at the last word boundary that they share. For benchmarks of `cloze`
    (WinoGrande) the choices fill a blank, and what follows the blank is scored.
    """

    paths: Sequence[str]
    max_characters: int | None = None
    """Only questions all of whose choices are at most this long; None takes all."""
    cloze: Sequence[str] = ("winogrande",)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        table = pd.concat([_read(path) for path in self.paths], ignore_index=True)
        if self.max_characters is not None:
            longest = table["options"].map(lambda options: max(map(len, options)))
            table = table[longest <= self.max_characters]
        if len(table) < count:
            raise ValueError(
                f"{count} questions are needed, but ParquetQuestions has only {len(table)}: lower "
                "the groups, give more paths, or raise max_characters"
            )
        columns = (table[name] for name in _COLUMNS)
        return [self._question(*values) for values in zip(*columns, strict=True)]

    def _question(
        self, options: Sequence[str], label: int, benchmark: str, number: object
    ) -> Question:
        name = f"{benchmark}-{number}"
        if len(options) < 2 or not 0 <= label < len(options):
            raise ValueError(f"question {name} has {len(options)} options and label {label}")
        starts = (
            _after_blank(options) if benchmark in self.cloze else [_shared(options)] * len(options)
        )
        contexts = tuple(text[:i] for text, i in zip(options, starts, strict=True))
        continuations = tuple(text[i:] for text, i in zip(options, starts, strict=True))
        if not all(continuations):
            raise ValueError(f"question {name} has an option without text of its own")
        return Question(name, benchmark, contexts, continuations, int(label))


_COLUMNS = ("options", "label", "benchmark", "question-id")


def _read(path: str) -> pd.DataFrame:
    if not pathlib.Path(path).is_file():
        raise ValueError(f"ParquetQuestions: there is no file {path}")
    table = pd.read_parquet(path)
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ValueError(f"ParquetQuestions: {path} has no column {missing[0]!r}")
    return table[list(_COLUMNS)]


def _shared(options: Sequence[str]) -> int:
    """Where the continuations start, counted in characters."""
    prefix = _common_prefix(options)
    for tag in ("\nAnswer:", "\nSolution:"):
        if tag in prefix:
            return prefix.rindex(tag) + len(tag)
    return max(0, prefix.rfind(" "))


def _after_blank(options: Sequence[str]) -> list[int]:
    """Where the text after the blank starts in each choice, at a word boundary."""
    start = _common_prefix(options).rfind(" ") + 1
    suffix = _common_prefix([text[start:][::-1] for text in options])[::-1]
    boundary = re.search(r"\W", suffix)
    length = len(suffix) - boundary.start() if boundary else 0
    return [len(text) - length for text in options]


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    differs = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(differs, len(low))]
