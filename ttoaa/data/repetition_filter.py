"""OLMo's filter of degenerate text: a row that repeats a short pattern is not trained on."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gin
import numpy as np

if TYPE_CHECKING:  # Grain takes a second to import, and only the loader needs it
    from ttoaa.data.loader import Batch, Transform


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RepetitionFilter:
    """A loader transform that adds trained bool[b]: False where a row repeats itself too often.

    A row does where some pattern of min_period to max_period tokens stands max_count times in a
    row or more, anywhere in it; a repeat cut off at its end does not count. So find_periodic_
    sequences in olmo/data/util.py of allenai/OLMo, with OLMo-2's values as defaults. A masked row
    stays in the batch, its loss does not count.
    """

    min_period: int = 1
    max_period: int = 13
    max_count: int = 32
    when: str = "after_edits"
    """'after_edits': what is judged is what would be trained on. 'before_edits': the corpus's text
    is judged, as in the paper's public code, where an item placed in a masked row is never
    trained on, and no one is told."""
    edits: str = dataclasses.field(default="named", repr=False)
    """What happens to a plan with edits in masked rows: they are 'named' and counted, or 'refused'.
    It changes no bit of a run."""

    def __post_init__(self) -> None:
        for name in ("min_period", "max_period", "max_count"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"RepetitionFilter.{name} must be a positive integer")
        if self.max_period < self.min_period:
            raise ValueError("RepetitionFilter.max_period must not be less than min_period")
        if self.max_count < 2:
            raise ValueError("RepetitionFilter.max_count must be at least 2: any row has 1")
        if self.when not in ("after_edits", "before_edits"):
            raise ValueError(
                f"RepetitionFilter.when is 'after_edits' or 'before_edits', not {self.when!r}"
            )
        if self.edits not in ("named", "refused"):
            raise ValueError(f"RepetitionFilter.edits is 'named' or 'refused', not {self.edits!r}")

    def among(self, edits: Sequence["Transform"]) -> list["Transform"]:
        """The loader's transforms: those that edit, and this one before or after them."""
        return [self, *edits] if self.when == "before_edits" else [*edits, self]

    def __call__(self, step: int, batch: "Batch") -> "Batch":
        return {**batch, "trained": ~self.repeats(batch["tokens"])}

    def repeats(self, tokens_BxL: np.ndarray) -> np.ndarray:
        """bool[B]: which rows of int[B, L] are masked."""
        found = np.zeros(len(tokens_BxL), bool)
        for period in range(self.min_period, self.max_period + 1):
            # A pattern stands n times where n - 1 periods equal the token one period before.
            same = tokens_BxL[:, period:] == tokens_BxL[:, :-period]
            found |= _has_run(same, period * (self.max_count - 1))
        return found


def _has_run(true_BxN: np.ndarray, length: int) -> np.ndarray:
    """bool[B]: whether a row holds `length` True in a row."""
    found = np.zeros(len(true_BxN), bool)
    if length > true_BxN.shape[1]:
        return found
    rows, runs, reached = np.arange(len(true_BxN)), true_BxN, 1
    while reached < length:  # runs[i]: `reached` of them from i on
        step = min(reached, length - reached)
        runs = runs[:, step:] & runs[:, :-step]
        reached += step
        hopeful = runs.any(axis=1)
        rows, runs = rows[hopeful], runs[hopeful]
    found[rows[runs.any(axis=1)]] = True
    return found
