"""What a check has to say: one line for a person, the same as values for a program.

From when on the checks of a plan tell something, and how severe it is.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin

SEVERITIES = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """An error is a plan that must not be run, a warning one that a person must have looked at."""

    severity: str
    check: str
    message: str
    experiments: tuple[str, ...] = ()
    items: int = 0
    examples: Sequence[dict[str, Any]] = ()

    def line(self) -> str:
        return f"{self.severity:8} {self.check:10} {self.message}"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Checks:
    """What is told of texts that experiments share, with each other or with the corpus."""

    holdout: str = "warning"
    """What a held-out item is that is inserted after all: 'error' refuses the plan, and warns of
    one of which nearly the same is."""
    shingle: int = 8
    """Tokens of the n-grams by which texts of experiments are compared."""
    similar: float = 0.8
    """The share of an item's n-grams in another experiment's texts from which it is told."""
    similar_up_to: int = 1 << 26
    """Tokens of all items together up to which a new plan is compared so; --check always does."""
    ngram: int = 13
    """Tokens of the n-grams that are looked for in the corpus."""
    ngrams: int = 1 << 20
    """How many are, at most: where the items have more, every second, third, … of each."""
    covered: float = 0.8
    """The share of an item's n-grams in the corpus from which it is told."""
    crowded: float = 0.5
    """The share of a tenth of training that experiments take from which it is told."""
    examples: int = 5

    def __post_init__(self) -> None:
        if self.holdout not in SEVERITIES:
            raise ValueError(f"Checks.holdout is one of {SEVERITIES}, not {self.holdout!r}")
        for name in ("shingle", "ngram", "ngrams", "examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"Checks.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("similar", "covered", "crowded"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"Checks.{name} must be a share above 0, up to 1")
