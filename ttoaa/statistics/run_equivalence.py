"""Is a run equivalent to the control run? Margins fixed before training, and three verdicts.

The seed is the unit: each seed gives one difference per quantity, the mean over the last part of
training. The interval is the 90% t interval of the two one-sided tests (`statistics.equivalence`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import gin
import numpy as np

from ttoaa.config_fields import Above, Positive, Share, config_class, similar
from ttoaa.statistics.equivalence import paired_equivalence

EQUIVALENT = "equivalent within the margin"
DIFFERS = "differs"
UNRESOLVED = "not enough power"
_NORMAL_95 = 1.96

QUANTITIES: Mapping[str, str] = {
    "loss": "nats per token",
    "corpus_loss": "nats per token",
    "validation_loss": "nats per token",
    "grad_norm": "log ratio",
    "norm/embedding": "log ratio",
    "norm/attention": "log ratio",
    "norm/mlp": "log ratio",
    "norm/norms": "log ratio",
    "norm/head": "log ratio",
    "held_out_log_likelihood": "nats per question",
    "held_out_accuracy": "share of questions",
}
"""What is compared, with the unit of its difference. A log ratio is log(run / control)."""


@gin.configurable
@config_class
class RunComparison:
    """Rules by which runs are compared with the control run. Training fixes them."""

    margins: Mapping[str, Positive] = dataclasses.field(default_factory=dict)
    """Equivalence margins by quantity, in its unit. The margin of other quantities is half the
    width of the 95% band of the differences between `reinitialised` and control."""
    last: Annotated[Share, Above(0)] = 0.2
    """Share of training, at its end, over which quantities are averaged."""

    def __post_init__(self) -> None:
        for name in self.margins:
            if name not in QUANTITIES:
                raise ValueError(
                    f"RunComparison.margins has {name!r}, which is not compared"
                    f"{similar(name, QUANTITIES)}; the quantities are {', '.join(QUANTITIES)}"
                )


@dataclasses.dataclass(frozen=True)
class Compared:
    """Mean difference over seeds; the 90% interval is nan for a single seed."""

    difference: float
    low: float
    high: float
    verdict: str | None
    """None without a margin."""


def band_half_width(differences_S: Sequence[float] | np.ndarray) -> float:
    """Return half the width of the 95% band of differences whose expectation is zero.

    By the root mean square over seeds, without a correction for few of them, which would widen the
    margin: fewer seeds must not make equivalence easier to show.
    """
    return _NORMAL_95 * float(np.sqrt(np.mean(np.square(differences_S))))


def compare_seeds(differences_S: Sequence[float] | np.ndarray, margin: float | None) -> Compared:
    """Judge the differences (run - control) of S seeds against a margin.

    Equivalent: the interval lies inside the margin. Differs: it lies outside, on one side. Each has
    an error rate of at most 5%. Otherwise the seeds are too few, or the spread is too large, to
    tell; this includes a single seed.
    """
    d_S = np.asarray(differences_S, float)
    difference = float(d_S.mean())
    low = high = math.nan
    if len(d_S) > 1:
        tested = paired_equivalence(d_S, margin or 1.0)
        spread = np.ptp(d_S) > 0
        low, high = (tested.low, tested.high) if spread else (difference, difference)
    if margin is None:
        return Compared(difference, low, high, None)
    if -margin < low and high < margin:
        verdict = EQUIVALENT
    elif low > margin or high < -margin:
        verdict = DIFFERS
    else:
        verdict = UNRESOLVED
    return Compared(difference, low, high, verdict)
