"""Generated benchmarks: questions about invented facts."""

from collections.abc import Sequence
from typing import Annotated

import gin
import numpy as np

from ttoaa.benchmarks.question import Question
from ttoaa.config_fields import AtLeast, AtMost, Names, PositiveInt, config_class

_CONSONANTS = "bdfglmnprstvkz"
SYLLABLES = tuple(consonant + vowel for consonant in _CONSONANTS for vowel in "aeiou")


@gin.configurable
@config_class
class GeneratedQuestions:
    """Short facts about invented things, one benchmark for each relation.

    Only memory can find the right option: the options of a benchmark come from one small pool of
    names with the same length, each right equally often, and every question has another subject.
    Training on some questions raises the probability of their answers for all questions; because
    the options are drawn at random, a holdout stays at chance.
    """

    relations: Names = ("capital", "founder", "language", "river")
    template: str = "The {relation} of {subject} is"
    options: Annotated[int, AtLeast(2)] = 4
    answers: PositiveInt = 16
    """Number of names in the pool of each benchmark."""
    subject_syllables: Annotated[int, AtLeast(1), AtMost(10)] = 3
    answer_syllables: Annotated[int, AtLeast(1), AtMost(10)] = 2
    syllables: Names = SYLLABLES

    def __post_init__(self) -> None:
        if self.options > self.answers:
            raise ValueError(
                f"GeneratedQuestions.options must be at most answers, {self.answers}, "
                f"not {self.options}"
            )
        if "{relation}" not in self.template or "{subject}" not in self.template:
            raise ValueError("GeneratedQuestions.template must contain {relation} and {subject}")

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        """Generate `count` questions; ValueError if there are too few names."""
        subjects = self._names(count, self.subject_syllables, rng)
        names = self._names(self.answers * len(self.relations), self.answer_syllables, rng)
        made = []
        for number, relation in enumerate(self.relations):
            mine = subjects[number :: len(self.relations)]
            pool = names[number :: len(self.relations)]
            golds = rng.permutation(np.arange(len(mine)) % self.answers)
            labels = rng.permutation(np.arange(len(mine)) % self.options)
            for k, (subject, gold, label) in enumerate(zip(mine, golds, labels, strict=True)):
                context = self.template.format(relation=relation, subject=subject)
                drawn = draw_options(pool, gold, label, self.options, rng)
                made.append(make_question(k, relation, context, drawn, label))
        return made

    def _names(self, count: int, length: int, rng: np.random.Generator) -> list[str]:
        possible = len(self.syllables) ** length
        if count > possible:
            raise ValueError(
                f"{count} names of {length} syllables are needed, but only {possible} can be "
                "made: raise subject_syllables or answer_syllables"
            )
        numbers = rng.choice(possible, count, replace=False)
        return spell_names(numbers, length, self.syllables)


def spell_names(
    numbers: np.ndarray, length: int, syllables: Sequence[str] = SYLLABLES
) -> list[str]:
    """Return the name of each number below len(syllables) ** length."""
    digits = np.stack(np.unravel_index(numbers, (len(syllables),) * length), 1)
    return ["".join(syllables[i] for i in row) for row in digits]


def draw_options(
    pool: Sequence[str], gold: int, label: int, options: int, rng: np.random.Generator
) -> list[str]:
    """Return different names of the pool, with number `gold` at place `label`."""
    chosen = rng.choice(np.delete(np.arange(len(pool)), gold), options - 1, replace=False)
    return [pool[i] for i in np.insert(chosen, label, gold)]


def make_question(
    number: int, relation: str, context: str, names: Sequence[str], label: int
) -> Question:
    """Return the question number `number` of a relation, whose options are these names."""
    continuations = tuple(f" {name}" for name in names)
    contexts = (context,) * len(names)
    return Question(f"{relation}-{number}", relation, contexts, continuations, int(label))
