"""The schedule of the paper's predecessor (Chang et al. 2024), and its two measures.

There, every fact is injected ten times, once every 100 steps, as ten paraphrases or ten times in
the same words, or only once. *Effectivity* is the relative gain in log-probability by an injection,
*retainability* the share of the gain of all injections that is left some time later.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gin
import numpy as np

from ttoaa.config_fields import Name, PositiveInt, Share, config_class
from ttoaa.experiments.acquisition.policy import Setting, State


@gin.configurable
@config_class
class Injections:
    """Insert every topic at fixed intervals of training, and ignore the probes.

    The texts of an injection are spread over the steps of its interval. The probes are measured at
    the interval's start, before any of them was seen, and at the start of all later intervals.
    """

    name: Name = "injections"
    begin: Share = 0.2
    """Fraction of training before the first injection."""
    count: PositiveInt = 10
    gap: PositiveInt = 4
    """Intervals from one injection to the next: the window in which the peak is looked for."""
    texts: PositiveInt = 1
    """Texts of each topic in an injection."""
    paraphrased: bool = True
    """Whether every injection uses other paraphrases; False: always the same."""
    lags: Sequence[PositiveInt] = (1, 4, 12)
    """Intervals after the peak at which retainability is reported."""

    shared: ClassVar[bool] = False

    def slots(self, setting: Setting) -> int:
        """Return the texts of an injection; ValueError if training is too short for all."""
        last = self._first(setting) + (self.count - 1) * self.gap
        if last >= setting.intervals:
            raise ValueError(
                f"{self.name}: the last injection would be in interval {last + 1} of "
                f"{setting.intervals}: lower Injections.count, gap or begin"
            )
        return self.texts * setting.topics

    def start(self, setting: Setting) -> State:
        return {}

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        number, between = divmod(interval - self._first(setting), self.gap)
        if between or not 0 <= number < self.count:
            return [], {}
        first = number * self.texts if self.paraphrased else 0
        K = setting.topics
        return setting.next_texts([first] * K, [self.texts] * K), {}

    def aim(self, topics: int, state: Mapping[str, Any]) -> None:
        return None

    def _first(self, setting: Setting) -> int:
        return round(self.begin * setting.intervals)


def effectivity(log_p_IxK: np.ndarray, injected: Sequence[int], gap: int) -> np.ndarray:
    """Return float64[K]: (peak - before) / |before|, the mean over the injections of a topic.

    `before` is the log-probability at the start of the injection's interval, the peak the highest
    one at the start of the next `gap` intervals. As the highest of noisy values it is above
    `before` even if nothing is learned: compare with the same topics in the control run. An
    injection after which nothing was measured does not count; NaN if there is no other.
    """
    gains = [
        (log_p_IxK[k + 1 : k + 1 + gap].max(0) - log_p_IxK[k]) / np.abs(log_p_IxK[k])
        for k in injected
        if k + 1 < len(log_p_IxK)
    ]
    return np.mean(gains, axis=0) if gains else np.full(log_p_IxK.shape[1], np.nan)


def gains_at_lag(
    log_p_IxK: np.ndarray, control_IxK: np.ndarray, injected: Sequence[int], gap: int, lag: int
) -> np.ndarray | None:
    """Return float64[3, K]: a topic's gain by all injections, what is left of it, and the drift.

    Gains are relative to the log-probability before the first injection. The peak is that of the
    `gap` intervals after the last injection; what is left is measured `lag` intervals after the
    peak. The drift is the change of the same topic in the control run between the same intervals.
    Retainability is the sum of what is left over the sum of gains. None if not every topic was
    measured at that lag.
    """
    first, last = injected[0], injected[-1]
    if last + gap + lag >= len(log_p_IxK):
        return None
    peak_K = last + 1 + np.argmax(log_p_IxK[last + 1 : last + 1 + gap], axis=0)
    topics = np.arange(log_p_IxK.shape[1])
    later_K = peak_K + lag
    return np.stack(
        [
            log_p_IxK[peak_K, topics] - log_p_IxK[first],
            log_p_IxK[later_K, topics] - log_p_IxK[first],
            control_IxK[later_K, topics] - control_IxK[first],
        ]
    )
