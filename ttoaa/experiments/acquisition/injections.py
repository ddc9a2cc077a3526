"""The schedule of the paper's predecessor (Chang et al. 2024), and its two measures.

There, every fact is injected ten times, once every 100 steps, as ten paraphrases or ten times in
the same words, or only once. *Effectivity* is the relative gain in log-probability by an injection,
*retainability* the share of the gain of all injections that is left some time later.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

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


class Lag(NamedTuple):
    """The intervals between which retainability is measured, for K topics."""

    first: int
    """The interval of the first injection."""
    peak_K: np.ndarray
    """int: the highest of the `gap` intervals after the last injection."""
    later_K: np.ndarray
    """int: `lag` intervals after the peak."""

    @classmethod
    def of(cls, log_p_IxK: np.ndarray, injected: Sequence[int], gap: int, lag: int) -> "Lag | None":
        """Return None if not every topic was measured at that lag."""
        last = injected[-1]
        if last + gap + lag >= len(log_p_IxK):
            return None
        peak_K = last + 1 + np.argmax(log_p_IxK[last + 1 : last + 1 + gap], axis=0)
        return cls(injected[0], peak_K, peak_K + lag)

    def changes(self, log_p_IxK: np.ndarray) -> np.ndarray:
        """Return float64[2, K]: the change from the first injection to the peak, and to later.

        Retainability is the sum over topics of the second over that of the first.
        """
        each = np.arange(log_p_IxK.shape[1])
        before_K = log_p_IxK[self.first]
        return np.stack([log_p_IxK[k, each] - before_K for k in (self.peak_K, self.later_K)])
