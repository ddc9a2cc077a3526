"""What an arm did, from the log of decisions: measured, inserted, acquired, how well it tracked."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ttoaa.knowledge.until import Criterion

_FACTOR = math.log(1.25)


@dataclasses.dataclass(frozen=True)
class Course:
    """One arm over I intervals, with K topics and P probes."""

    step_I: np.ndarray
    log_p_IxP: np.ndarray
    """As each interval began."""
    texts_IxK: np.ndarray
    """How many texts of each topic it got; none in a control run."""
    tokens_IxK: np.ndarray
    probe_topic: tuple[int, ...]

    @classmethod
    def read(
        cls,
        decisions: pd.DataFrame,
        text_topic: Sequence[int],
        text_tokens: Sequence[int],
        probe_topic: Sequence[int],
    ) -> "Course":
        """From the rows of one controller, which are put into the order of their intervals."""
        rows = decisions.sort_values("interval")
        K = max(text_topic) + 1
        shape = (len(rows), len(probe_topic))
        topic, size = np.array(text_topic), np.array(text_tokens)
        texts, tokens = np.zeros((2, len(rows), K), np.int64)
        for k, chosen in enumerate(rows["chosen"]):
            if chosen is not None and len(chosen):
                inserted = np.asarray(chosen, np.int64)
                np.add.at(texts[k], topic[inserted], 1)
                np.add.at(tokens[k], topic[inserted], size[inserted])
        return cls(
            step_I=rows["step"].to_numpy(np.int64),
            log_p_IxP=np.array(rows["log_p"].tolist(), float).reshape(shape),
            texts_IxK=texts,
            tokens_IxK=tokens,
            probe_topic=tuple(probe_topic),
        )

    def by_topic(self) -> np.ndarray:
        """float64[I, K]: the mean log-probability of each topic's probes."""
        K = self.texts_IxK.shape[1]
        one_PxK = np.eye(K)[list(self.probe_topic)]
        return self.log_p_IxP @ (one_PxK / one_PxK.sum(0))

    def acquired(self, criterion: Criterion, end: int) -> dict[str, np.ndarray]:
        """Of each topic, [K]: `acquired` or not, and `steps`, `exposures` and `tokens` until then.

        Where it was not, these are what went by without: until `end`, or all that was inserted.
        """
        met = criterion.first_met(self.by_topic())
        before_IxK = np.arange(len(self.step_I))[:, None] < np.where(met < 0, len(self.step_I), met)
        steps = np.append(self.step_I, end)[met]  # -1, for never, is the last one
        return {
            "acquired": met >= 0,
            "steps": steps,
            "exposures": (self.texts_IxK * before_IxK).sum(0),
            "tokens": (self.tokens_IxK * before_IxK).sum(0),
        }


def log_rmse(value: np.ndarray, goal_I: np.ndarray) -> np.ndarray:
    """[...]: root mean square of log(value / goal) over the last axis [..., I], in nats.

    Intervals whose goal is 0, such as the first, do not count; without any other it is nan.
    """
    counts = goal_I > 0
    if not counts.any():
        return np.full(np.shape(value)[:-1], math.nan)
    off = np.log(np.asarray(value)[..., counts]) - np.log(goal_I[counts])
    return np.sqrt(np.mean(off**2, axis=-1))


def turns(rate_I: np.ndarray) -> np.ndarray:
    """bool[I]: where a rate is seen to have turned: it has come back from its last extreme by a
    factor of 1.25. Smaller ups and downs, such as rounding makes, are none."""
    found = np.zeros(len(rate_I), bool)
    way, low, high = 0, math.inf, -math.inf
    for k, value in enumerate(np.log(rate_I).tolist()):
        low, high = min(low, value), max(high, value)
        if way <= 0 and value - low >= _FACTOR:
            found[k], way, high = way < 0, 1, value
        elif way >= 0 and high - value >= _FACTOR:
            found[k], way, low = way > 0, -1, value
    return found
