"""One source of questions for several experiments, none of which gets another's."""

import dataclasses

import gin
import numpy as np

from ttoaa.benchmarks.question import Question, Source, enough
from ttoaa.scoring.statistics import keyed_rng


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
