"""Findings of the plan checks, and the thresholds and severities that a config sets."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin

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


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Checks:
    """Thresholds and severities of the plan checks."""

    holdout: str = "warning"
    """The severity of a held-out item that is also inserted. 'error' refuses the plan, and makes a
    near-duplicate a warning."""
    shingle: int = 8
    """n of the n-grams, in tokens, by which texts of experiments are compared."""
    similar: float = 0.8
    """Report an item if at least this share of its n-grams is in another experiment's texts."""
    similar_up_to: int = 1 << 26
    """Compare n-grams for a new plan only up to this many tokens of items; --check always does."""
    ngram: int = 13
    """n of the n-grams, in tokens, that are searched for in the corpus."""
    ngrams: int = 1 << 20
    """Search for at most about this many; if items have more, for every second, third, …."""
    covered: float = 0.8
    """Report an item if at least this share of its n-grams is in the corpus."""
    crowded: float = 0.5
    """Report a tenth of training if experiments cover at least this share of it."""
    examples: int = 5
    """Examples listed for each finding."""

    def __post_init__(self) -> None:
        if self.holdout not in SEVERITIES:
            raise ValueError(f"Checks.holdout must be one of {SEVERITIES}, not {self.holdout!r}")
        for name in ("shingle", "ngram", "ngrams", "examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"Checks.{name} must be at least 1, not {getattr(self, name)}")
        for name in ("similar", "covered", "crowded"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"Checks.{name} must be a share above 0, up to 1")
