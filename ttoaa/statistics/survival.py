"""How long until: estimates from times some of which are only known to be longer (censored)."""

import math

import numpy as np
import scipy  # its submodules load when they are first used


def kaplan_meier(time_N: np.ndarray, seen_N: np.ndarray) -> tuple[np.ndarray, ...]:
    """(times float64[m], survival after each, and the sum of Greenwood's formula up to each).

    `seen_N` says whether the event came at its time, or the time is only a lower bound. Times are
    those of events, ascending (Kaplan and Meier 1958); who is censored at a time is at risk then.
    """
    time_N, seen_N = np.asarray(time_N, float), np.asarray(seen_N, bool)
    times = np.unique(time_N[seen_N])
    events = np.array([np.sum(seen_N & (time_N == t)) for t in times], float)
    at_risk = np.array([np.sum(time_N >= t) for t in times], float)
    with np.errstate(divide="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
    return times, np.cumprod(1 - events / at_risk), greenwood


def median_time(time_N: np.ndarray, seen_N: np.ndarray) -> tuple[float, float, float]:
    """The median by Kaplan-Meier, and its 95% interval (Brookmeyer and Crowley 1982, on log-log).

    The first time at which survival is 1/2 or less; nan where it never is, and a bound that no time
    reaches is nan: the median may lie beyond what was observed. (A survival of 0 has no upper
    bound: there is no telling from the last who is left.)
    """
    times, survival, greenwood = kaplan_meier(time_N, seen_N)
    inside = (survival > 0) & (survival < 1)
    log_s = np.log(np.where(inside, survival, 0.5))
    margin = scipy.stats.norm.ppf(0.975) * np.sqrt(np.where(inside, greenwood, 0)) / np.abs(log_s)
    # A wide margin on log(-log S) pulls survival towards 0 below and towards 1 above.
    lower = np.where(inside, np.exp(log_s * np.exp(margin)), survival)
    upper = np.where(inside, np.exp(log_s * np.exp(-margin)), 1.0)
    return _first(times, survival), _first(times, lower), _first(times, upper)


def _first(times: np.ndarray, curve: np.ndarray) -> float:
    reached = np.flatnonzero(curve <= 0.5 + 1e-12)
    return float(times[reached[0]]) if len(reached) else math.nan
