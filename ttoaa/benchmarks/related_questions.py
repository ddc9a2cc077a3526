"""A family of generated benchmarks that share subjects or answers to a known degree."""

from typing import Annotated

import gin
import numpy as np

from ttoaa.benchmarks.generated_questions import (
    SYLLABLES,
    draw_options,
    make_question,
    spell_names,
)
from ttoaa.benchmarks.question import Question
from ttoaa.config_fields import AtLeast, Name, Names, PositiveInt, Share, config_class
from ttoaa.statistics.bootstrap import keyed_rng

_TEMPLATE = "The {relation} of {subject} is"
_COMMON = ""
"""The owner of the names that all benchmarks of a family share."""


@gin.configurable
@config_class
class RelatedQuestions:
    """One benchmark of a family: facts about invented things, with one relation.

    The family has common facts, each a subject and its answer. A benchmark's first questions take
    their subjects from them, and its first questions their right answers; all other names occur in
    no other benchmark. Two benchmarks with equally many questions have the smaller of their shares
    in common. The options of a question come from one pool, in which each name is right equally
    often, so the frequency of names in training does not help to choose.

    The questions depend on `key` and not on the seed, like those of a real benchmark.
    """

    relation: Name
    relations: Names
    """Those of the whole family, in the same order for each of its benchmarks."""
    common_subjects: Share = 0.0
    """Share of the questions about a common subject."""
    common_answers: Share = 0.0
    """Share of the questions with the right answer of the common fact of the same number."""
    options: Annotated[int, AtLeast(2)] = 4
    answers: PositiveInt = 16
    """Number of names in each pool."""
    key: int = 0
    """Another key gives another family."""

    def __post_init__(self) -> None:
        if self.relation not in self.relations:
            raise ValueError(
                f"RelatedQuestions.relation must be among {list(self.relations)}, "
                f"not {self.relation!r}"
            )
        if self.options > self.answers:
            raise ValueError(
                f"RelatedQuestions.options must be at most answers, {self.answers}, "
                f"not {self.options}"
            )

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        """Generate `count` questions; ValueError if there are too few names."""
        del rng  # the seed decides nothing
        subjects = self._owners(self.common_subjects, count)
        answers = self._owners(self.common_answers, count)
        names = {owner: self._names("subjects", owner, count, 3) for owner in set(subjects)}
        pools = {owner: self._names("answers", owner, self.answers, 2) for owner in set(answers)}
        golds = {owner: self._balanced("golds", owner, self.answers, count) for owner in pools}
        labels = self._balanced("labels", self.relation, self.options, count)
        wrong = keyed_rng("related questions", self.key, "wrong", self.relation)
        made = []
        for k, (subject, answer) in enumerate(zip(subjects, answers, strict=True)):
            context = _TEMPLATE.format(relation=self.relation, subject=names[subject][k])
            gold, label = golds[answer][k], labels[k]
            chosen = draw_options(pools[answer], gold, label, self.options, wrong)
            made.append(make_question(k, self.relation, context, chosen, label))
        return made

    def _owners(self, share: float, count: int) -> list[str]:
        """Return, for each question, the relation that its name belongs to, or _COMMON."""
        common = round(share * count)
        return [_COMMON] * common + [self.relation] * (count - common)

    def _names(self, kind: str, owner: str, count: int, syllables: int) -> list[str]:
        """Return the first `count` names of an owner, which no other owner of the kind has."""
        owners = [_COMMON, *self.relations]
        numbers = keyed_rng("related questions", self.key, kind).permutation(
            len(SYLLABLES) ** syllables
        )[owners.index(owner) :: len(owners)]
        if count > len(numbers):
            raise ValueError(
                f"RelatedQuestions can make {len(numbers)} different {kind} for each of "
                f"{len(self.relations)} relations, not {count}: lower groups or answers"
            )
        return spell_names(numbers[:count], syllables)

    def _balanced(self, kind: str, owner: str, number: int, count: int) -> np.ndarray:
        """Return int64[count], each block of `number` a random order of 0, 1, …, number - 1."""
        rng = keyed_rng("related questions", self.key, kind, owner)
        blocks = [rng.permutation(number) for _ in range(-(-count // number))]
        return np.concatenate(blocks)[:count]
