"""Generated benchmarks: questions about invented facts."""

from typing import Annotated

import gin
import numpy as np

from ttoaa.benchmarks.question import Question
from ttoaa.config_fields import AtLeast, AtMost, Names, PositiveInt, config_class

_CONSONANTS = "bdfglmnprstvkz"
_SYLLABLES = tuple(consonant + vowel for consonant in _CONSONANTS for vowel in "aeiou")


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
    syllables: Names = _SYLLABLES

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
