"""What a multiple-choice question is: a context and a continuation for each choice.

A model chooses by the likelihood of the continuations (see `ttoaa.scoring.multiple_choice`).

One source of questions for several experiments, none of which gets another's.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import gin
import numpy as np

from ttoaa.statistics.bootstrap import keyed_rng


@dataclasses.dataclass(frozen=True)
class Question:
    """One choice for each context and continuation; the full text of choice k is their sum."""

    id: str
    benchmark: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    label: int
    unconditional: str | None = None
    """A context that tells nothing of the question: what a continuation is worth without it."""

    def __post_init__(self) -> None:
        n = len(self.continuations)
        if len(self.contexts) != n:
            raise ValueError(
                f"question {self.id} has {len(self.contexts)} contexts, {n} continuations"
            )
        if not 0 <= self.label < n:
            raise ValueError(f"question {self.id} has {n} options and label {self.label}")
        if not all(text.strip() for text in self.continuations):
            raise ValueError(f"question {self.id} has an option without text of its own")

    @property
    def texts(self) -> list[str]:
        """The full text of every choice."""
        return [a + b for a, b in zip(self.contexts, self.continuations, strict=True)]


class Source(Protocol):
    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        """At least `count` questions; ValueError where there are fewer."""
        ...


def with_shots(question: Question, shots: Sequence[Question]) -> Question:
    """The question after solved ones of its benchmark, an empty line between them.

    Of MMLU a benchmark is a subject. Raises ValueError where `shots` has none of the benchmark,
    or the question itself.
    """
    mine = [shot.texts[shot.label] for shot in shots if shot.benchmark == question.benchmark]
    if shots and not mine:
        raise ValueError(f"no shot is of {question.benchmark}: give solved questions of it")
    if question.texts[question.label] in mine:
        raise ValueError(f"question {question.id} is itself among the shots: take others")
    prefix = "".join(f"{text}\n\n" for text in mine)
    return dataclasses.replace(
        question, contexts=tuple(prefix + context for context in question.contexts)
    )


def enough(
    questions: Iterable[Question], count: int, max_characters: int | None, kind: str
) -> list[Question]:
    """Those all of whose choices are short enough; ValueError where that is fewer than `count`."""
    found = [
        question
        for question in questions
        if max_characters is None or max(map(len, question.texts)) <= max_characters
    ]
    if len(found) < count:
        raise ValueError(
            f"{count} questions are needed, but {kind} has only {len(found)}: ask for fewer (an "
            "experiment's groups), give more files, or raise max_characters"
        )
    return found


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PartOf:
    """Part number `part` of the `parts` into which the questions of `whole` are divided at random.

    Every experiment draws groups by itself, so two of them on the same files would train on each
    other's holdouts: give them different parts. Who gets which question follows from `key` alone,
    so all seeds of a study have the same parts; of each benchmark they get equally many, to one
    question. For sources that give all that they have, as those of files and tasks do.
    """

    whole: Source
    part: int = 0
    parts: int = 2
    key: int = 0
    """Another one makes other parts. Only where key, parts and the whole are the same in all
    experiments that share is no question in two of them; a record that is there twice may be."""

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) for n in (self.part, self.parts)) or self.parts < 1:
            raise ValueError("PartOf.part and PartOf.parts must be integers, parts at least 1")
        if not 0 <= self.part < self.parts:
            raise ValueError(f"PartOf.part must be 0 to {self.parts - 1}, not {self.part}")

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        own = keyed_rng("parts", self.key)
        every = self.whole.questions(count, own)
        by_benchmark: dict[str, list[int]] = {}
        for k, question in enumerate(every):
            by_benchmark.setdefault(question.benchmark, []).append(k)
        # Dealt like cards: the next benchmark begins where the last one ended.
        dealt = [k for places in by_benchmark.values() for k in own.permutation(places).tolist()]
        mine = [every[k] for k in sorted(dealt[self.part :: self.parts])]
        return enough(mine, count, None, f"part {self.part} of {self.parts}")
