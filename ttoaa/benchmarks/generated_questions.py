"""Where questions come from, and how they become groups of items.

A generated benchmark is here; benchmarks from files are in `ttoaa.benchmarks`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.benchmarks.question import PartOf, Question, Source
from ttoaa.benchmarks.readers import ParquetQuestions, RecordQuestions, RequestQuestions
from ttoaa.benchmarks.tasks import TaskQuestions

__all__ = [
    "GeneratedQuestions",
    "ParquetQuestions",
    "PartOf",
    "Question",
    "RecordQuestions",
    "RequestQuestions",
    "Source",
    "TaskQuestions",
    "check_distinct",
    "item_fields",
    "item_question",
    "randomise",
]

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


def check_distinct(questions: Sequence[Question]) -> None:
    """A question that is there twice could be in training and in the holdout."""
    seen: dict[object, str] = {}
    for question in questions:
        for key in (question.id, frozenset(question.texts)):
            if key in seen:
                raise ValueError(f"question {question.id} is there twice, also as {seen[key]}")
            seen[key] = question.id


def randomise(
    questions: Sequence[Question], sizes: Sequence[int], rng: np.random.Generator
) -> list[list[Question]]:
    """Random disjoint groups of the given sizes, each with the benchmark mix of the whole.

    The questions of each benchmark are shuffled and spread evenly over [0, 1); every group is a
    stretch of that line, so that its share of a benchmark is exact to about one question.
    """
    benchmarks = np.array([question.benchmark for question in questions])
    place = np.empty(len(questions))
    for benchmark in np.unique(benchmarks):
        members = rng.permutation(np.flatnonzero(benchmarks == benchmark))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(place)[: sum(sizes)]
    return [[questions[i] for i in part] for part in np.split(order, np.cumsum(sizes)[:-1])]


def item_fields(question: Question) -> dict[str, Any]:
    """What its item keeps for `item_question`. No unconditional context, no field."""
    fields = {
        "benchmark": question.benchmark,
        "contexts": list(question.contexts),
        "continuations": list(question.continuations),
        "label": question.label,
    }
    if question.unconditional is not None:
        fields["unconditional"] = question.unconditional
    return fields


def item_question(item: Any, unconditional: bool) -> Question:
    """The question of a row of an item table; with its unconditional context where that is asked
    for: each costs a request more for every choice."""
    return Question(
        item.id,
        item.benchmark,
        tuple(item.contexts),
        tuple(item.continuations),
        int(item.label),
        item.unconditional if unconditional else None,
    )
