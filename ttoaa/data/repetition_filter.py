"""OLMo's repetition filter: rows that repeat a short pattern are masked from the loss."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import gin
import numpy as np

from ttoaa.config_fields import AtLeast, PositiveInt, config_class

if TYPE_CHECKING:  # Grain takes a second to import
    from ttoaa.data.loader import Batch, Transform

_FEWEST = 3
"""The smallest number of repetitions that OLMo's code detects."""


@gin.configurable
@config_class
class RepetitionFilter:
    """A loader transform that adds trained bool[b]: False for rows that repeat themselves.

    These are rows in which some pattern of min_period to max_period tokens occurs at least
    max_count times in succession, not counting an incomplete last repetition. A masked row stays in
    the batch without a loss; `Training.loss_divisor` decides whether its tokens count in the mean.
    Same rule as find_periodic_sequences in olmo/data/util.py of allenai/OLMo, which cannot detect
    fewer than 3 repetitions: a max_count of 2 masks the same rows as 3. The defaults are OLMo-2's.
    """

    min_period: PositiveInt = 1
    max_period: PositiveInt = 13
    max_count: Annotated[int, AtLeast(2)] = 32
    when: Literal["after_edits", "before_edits"] = "after_edits"
    """'after_edits': filter the rows as they are trained on. 'before_edits': filter the corpus' own
    rows, as the paper's public code does; an item placed in a masked row is then not trained on."""
    edits: Literal["named", "refused"] = dataclasses.field(default="named", repr=False)
    """Whether a plan with edits in masked rows reports them ('named') or is an error ('refused').
    Has no effect on a run."""

    def __post_init__(self) -> None:
        if self.max_period < self.min_period:
            raise ValueError("RepetitionFilter.max_period must not be less than min_period")

    def among(self, edits: Sequence["Transform"]) -> list["Transform"]:
        """Return the loader's transforms: the edits, with this one before or after them."""
        return [self, *edits] if self.when == "before_edits" else [*edits, self]

    def __call__(self, step: int, batch: "Batch") -> "Batch":
        return {**batch, "trained": ~self.repeats(batch["tokens"])}

    def repeats(self, tokens_BxL: np.ndarray) -> np.ndarray:
        """Return bool[B]: which rows of int[B, L] are masked."""
        found = np.zeros(len(tokens_BxL), bool)
        count = max(self.max_count, _FEWEST)
        for period in range(self.min_period, self.max_period + 1):
            # A pattern occurs n times where n - 1 periods of tokens equal those one period before.
            same = tokens_BxL[:, period:] == tokens_BxL[:, :-period]
            found |= _has_run(same, period * (count - 1))
        return found


def _has_run(true_BxN: np.ndarray, length: int) -> np.ndarray:
    """Return bool[B]: whether a row has `length` consecutive True."""
    found = np.zeros(len(true_BxN), bool)
    if length > true_BxN.shape[1]:
        return found
    rows, runs, reached = np.arange(len(true_BxN)), true_BxN, 1
    while reached < length:  # runs[i]: `reached` of them from i on
        step = min(reached, length - reached)
        runs = runs[:, step:] & runs[:, :-step]
        reached += step
        alive = runs.any(axis=1)
        rows, runs = rows[alive], runs[alive]
    found[rows[runs.any(axis=1)]] = True
    return found
