"""What a multiple-choice question is: a context and a continuation for each choice.

A model chooses by the likelihood of the continuations (see `ttoaa.scoring.choices`).
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np


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
