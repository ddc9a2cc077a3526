"""Findings of the plan checks, and the thresholds and severities that a config sets."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import gin

from ttoaa.config_fields import (
    AtLeast,
    AtMost,
    Count,
    OneOf,
    PositiveInt,
    PositiveShare,
    config_class,
)

SEVERITIES = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding: an error forbids the run, a warning needs a look before the run."""

    severity: str
    check: str
    message: str
    experiments: tuple[str, ...] = ()
    items: int = 0
    examples: Sequence[dict[str, Any]] = ()

    def line(self) -> str:
        """Format the finding for checks.txt."""
        return f"{self.severity:8} {self.check:10} {self.message}"


Ngram = Annotated[int, AtLeast(1), AtMost(1000)]


@gin.configurable
@config_class
class Checks:
    """Thresholds and severities of the plan checks."""

    holdout: Annotated[str, OneOf(SEVERITIES)] = "warning"
    """The severity of a held-out item that is also inserted. 'error' refuses the plan, and makes a
    near-duplicate a warning."""
    shingle: Ngram = 8
    """n of the n-grams, in tokens, by which texts of experiments are compared."""
    similar: PositiveShare = 0.8
    """Report an item if at least this share of its n-grams is in another experiment's texts."""
    similar_up_to: Count = 1 << 26
    """Compare n-grams for a new plan only up to this many tokens of items (0: never); --check
    always does."""
    ngram: Ngram = 13
    """n of the n-grams, in tokens, that are searched for in the corpus."""
    ngrams: PositiveInt = 1 << 20
    """Search for at most about this many; if items have more, for every second, third, …."""
    covered: PositiveShare = 0.8
    """Report an item if at least this share of its n-grams is in the corpus."""
    crowded: PositiveShare = 0.5
    """Report a tenth of training if experiments cover at least this share of it."""
    examples: PositiveInt = 5
    """Examples listed for each finding."""
