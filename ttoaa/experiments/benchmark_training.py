"""Training on one benchmark: does it change the score on another one? (Paper, figure 4a.)"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import gin
import pandas as pd

from ttoaa.config_fields import PositiveInt, config_class
from ttoaa.experiments.base import World
from ttoaa.experiments.contamination import Contamination
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions
from ttoaa.planning.items import Item

ABOVE_WRONG = "log_likelihood_above_wrong_options"
_FILLED = 0.95
"""Share of `tokens` that must be inserted, so that two benchmarks differ by less than 5%."""


@gin.configurable
@config_class
class BenchmarkTraining(Contamination):
    """Score on a benchmark of which a given number of tokens occurs in training.

    One experiment for each benchmark makes a matrix of benchmarks (`ttoaa dependence`). The outcome
    `log_likelihood_above_wrong_options` is the log-likelihood of the right option less the mean of
    the wrong ones, in nats. Learning the form of answers or the names that occur changes it by
    nothing on average where each option is right as often as the others, whatever its length. It is
    not compared with the holdout, because another benchmark changes inserted and held-out questions
    alike.
    """

    tokens: PositiveInt | None = None
    """Insert questions, with all of their repetitions, up to this many tokens; None: all."""

    prior = PriorFinding(
        work="Bordt et al. 2025",
        finding="Training on a benchmark raises the score on it, and on related ones.",
        effect="16 to 36 points on the benchmark, at most 8.7 points on another one",
        source="arXiv 2509.23383, figure 4a",
    )
    labels = dataclasses.replace(
        Contamination.labels,
        question="How much does training on a benchmark change the score on it?",
    )
    signs: ClassVar[Mapping[str, int]] = {**Contamination.signs, ABOVE_WRONG: 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.groups) != 2:
            raise ValueError(
                f"{self.name}: groups must be a holdout and one group, not {len(self.groups)}"
            )

    def intervene(self, world: World) -> Iterator[Item]:
        left = self.tokens
        for item in super().intervene(world):
            if left is not None:
                assert item.tokens is not None
                cost = item.repetitions * len(item.tokens)
                if cost > left:
                    continue
                left -= cost
            yield item
        if self.tokens and left and left > (1 - _FILLED) * self.tokens:
            raise ValueError(
                f"{self.name}: whole questions fill {self.tokens - left} of {self.tokens} tokens: "
                "raise the number of questions in groups, or lower tokens (in bursts --share) or "
                "the repetitions"
            )

    def expected_insertions(self, world: World) -> Insertions:
        """Return `tokens`, if they are set: questions fill them to less than 5%."""
        if self.tokens is None:
            return super().expected_insertions(world)
        return Insertions(None, self.tokens)

    def burst(self, size: BurstSize) -> "BenchmarkTraining":
        """Return questions of as many tokens as every experiment inserts, with all repetitions."""
        condition = self.primary.partition("/")[2]
        return dataclasses.replace(
            self,
            primary=f"{ABOVE_WRONG}/{condition}",
            expected_sign=1,
            tokens=size.tokens,
            by_benchmark=False,
        )

    def _values(self, scored: pd.DataFrame) -> dict[str, pd.Series]:
        found = super()._values(scored)
        likelihood = scored.set_index("item")["log_likelihood"]
        gold = scored["gold"].to_numpy(bool)
        wrong = likelihood[~gold].groupby("item").mean()
        return {**found, ABOVE_WRONG: likelihood[gold] - wrong}
