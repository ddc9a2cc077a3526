"""Survival analysis: times to an event, some of them censored."""

import math

import numpy as np
import scipy  # its submodules load when they are first used

from ttoaa.statistics.bootstrap import FEWEST


def kaplan_meier(time_N: np.ndarray, seen_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return (times float64[m], survival after each, cumulative sum of Greenwood's formula).

    `seen_N` is False where the time is censored, only a lower bound. Times are those of events,
    ascending (Kaplan and Meier 1958); items censored at a time are at risk then.
    """
    time_N, seen_N = np.asarray(time_N, float), np.asarray(seen_N, bool)
    times = np.unique(time_N[seen_N])
    events = np.array([np.sum(seen_N & (time_N == t)) for t in times], float)
    at_risk = np.array([np.sum(time_N >= t) for t in times], float)
    with np.errstate(divide="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
    return times, np.cumprod(1 - events / at_risk), greenwood


def median_time(time_N: np.ndarray, seen_N: np.ndarray) -> tuple[float, float, float]:
    """Return the Kaplan-Meier median and its 95% interval (Brookmeyer and Crowley 1982, log-log).

    The median is the first time at which survival is 1/2 or less. It or a bound is nan if no
    observed time reaches it. A survival of 0 has no upper bound. Fewer than six items have no
    interval.
    """
    times, survival, greenwood = kaplan_meier(time_N, seen_N)
    inside = (survival > 0) & (survival < 1)
    log_s = np.log(np.where(inside, survival, 0.5))
    margin = scipy.stats.norm.ppf(0.975) * np.sqrt(np.where(inside, greenwood, 0)) / np.abs(log_s)
    # A wide margin on log(-log S) pulls the bounds of survival towards 0 and 1.
    lower = np.where(inside, np.exp(log_s * np.exp(margin)), survival)
    upper = np.where(inside, np.exp(log_s * np.exp(-margin)), 1.0)
    value, *bounds = (_first_below_half(times, curve) for curve in (survival, lower, upper))
    low, high = bounds if len(time_N) >= FEWEST else (math.nan, math.nan)
    return value, low, high


def _first_below_half(times: np.ndarray, curve: np.ndarray) -> float:
    reached = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(times[reached[0]]) if len(reached) else math.nan
