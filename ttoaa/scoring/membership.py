"""Membership inference: how well a score tells members from matched non-members.

Scores are higher for likelier members; `attacks` makes them.

Exposure of a secret, in bits: how much of guessing it the model saves (Carlini et al. 2019).

A secret is one of a space of candidates R, made alike. Scores are log-likelihoods, higher for what
the model finds likelier. Exposure is log2 |R| - log2 rank: 0 for the least likely candidate,
log2 |R| for the likeliest, and log2 e = 1.44 in the mean where the model knows nothing.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import scipy  # its submodules load when they are first used

from ttoaa.statistics.bootstrap import Estimate, binomial_interval, bootstrap, estimate

AUC = "auc"
TPR = "tpr_at_1pct_fpr"


def auc(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Area under the ROC curve: P(member scores above non-member), a tie counting one half.

    Of scores members [M] and nonmembers [N].
    """
    return float(_auc(members, nonmembers)(*_once(members, nonmembers))[0])


def tpr_at_fpr(members: np.ndarray, nonmembers: np.ndarray, fpr: float = 0.01) -> float:
    """The largest true-positive rate of any threshold whose false-positive rate is <= `fpr`.

    Of scores members [M] and nonmembers [N]. Exact: no interpolation between thresholds, and scores
    tied with the first non-member beyond the budget are not called members. Fewer than 1/fpr
    non-members allow no false positive.
    """
    return float(_tpr(members, nonmembers, fpr)(*_once(members, nonmembers))[0])


def chance_tpr(nonmembers: int, fpr: float = 0.01) -> float:
    """What `tpr_at_fpr` is expected to be where members score like the n non-members.

    A member clears the threshold if it is among the top k + 1 of itself and the non-members, with
    k = floor(fpr * n) false positives allowed: (k + 1)/(n + 1), by exchangeability.
    """
    return (_allowed(nonmembers, fpr) + 1) / (nonmembers + 1)


def roc(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False- and true-positive rates at every threshold, from (0, 0) to (1, 1).

    Two float [T + 1] of scores members [M] and nonmembers [N] with T different values: the rates
    where all scores from the k-th largest value up are called members, k = 0 to T.
    """
    members, nonmembers = checked_scores(members), checked_scores(nonmembers)
    thresholds = np.unique(np.concatenate([members, nonmembers]))[::-1]
    rates = (
        1 - np.searchsorted(np.sort(scores), thresholds, "left") / len(scores)
        for scores in (nonmembers, members)
    )
    fpr, tpr = (np.concatenate([[0.0], rate]) for rate in rates)
    return fpr, tpr


def auc_interval(
    members: np.ndarray, nonmembers: np.ndarray, *key: object
) -> tuple[float, float, float]:
    """(AUC, low, high) of scores members [M] and nonmembers [N], by resampling both.

    `key` names the draws. Of an AUC of exactly 0 or 1 every resample is the same. Its bound is then
    Clopper and Pearson's over disjoint pairs of a member and a non-member, which are independent
    trials: as many as the smaller group has. Just short of 1, with few members, the interval is too
    short: in simulation it covers an AUC of 0.98 in 84% with 30 members, and in 92% with 200.
    """
    trials = min(len(members), len(nonmembers))
    return _interval(_auc(members, nonmembers), members, nonmembers, trials, ("auc", *key))


def tpr_interval(
    members: np.ndarray, nonmembers: np.ndarray, fpr: float = 0.01, *key: object
) -> tuple[float, float, float]:
    """(`tpr_at_fpr`, low, high) of scores members [M] and nonmembers [N], by resampling both.

    `key` names the draws. The non-members' resampling moves the threshold, so that its uncertainty
    is in the interval. A rate of exactly 0 or 1 has at least the interval of Clopper and Pearson
    over members.
    """
    statistic = _tpr(members, nonmembers, fpr)
    return _interval(statistic, members, nonmembers, len(members), ("tpr", fpr, *key))


def membership_estimates(
    run_members: np.ndarray,
    run_nonmembers: np.ndarray,
    control_members: np.ndarray,
    control_nonmembers: np.ndarray,
    condition: str,
    sign: Callable[[str], int] = lambda outcome: 1,
) -> list[Estimate]:
    """AUC and TPR at 1% FPR of the run, and their differences from the control run.

    Of scores of the same members [M], and of the same non-members [N], under both models. The two
    groups are resampled separately, each item with both its scores; the non-members' resampling
    moves the threshold too, so its uncertainty is in the interval. n counts members. A rate or AUC
    of exactly 0 or 1 may have no spread that a bootstrap could see: the run's own interval is then
    exact (see `auc_interval`, `tpr_interval`), the differences' only the bootstrap's.
    """
    sizes = (len(run_members), len(run_nonmembers))
    if sizes != (len(control_members), len(control_nonmembers)):
        raise ValueError(f"{condition}: run and control must score the same items")
    estimates = []
    for outcome, statistic in ((AUC, _auc), (TPR, _tpr)):
        of_run = statistic(run_members, run_nonmembers)
        of_control = statistic(control_members, control_nonmembers)
        pair = _with_difference(of_run, of_control, sign(outcome))
        results = bootstrap(sizes, pair, "membership", outcome, condition)
        (value, _), low_2, high_2 = results
        trials = min(sizes) if outcome == AUC else sizes[0]
        low_2[0], high_2[0] = _at_least_exact(value, low_2[0], high_2[0], trials)
        control_value = float(of_control(*_once(control_members, control_nonmembers))[0])
        estimates.append(estimate(outcome, condition, sizes[0], results, control_value))
    return estimates


_Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _interval(
    statistic: _Statistic,
    members: np.ndarray,
    nonmembers: np.ndarray,
    trials: int,
    key: tuple[object, ...],
) -> tuple[float, float, float]:
    def column(counts_RxM: np.ndarray, counts_RxN: np.ndarray) -> np.ndarray:
        return statistic(counts_RxM, counts_RxN)[:, None]

    results = bootstrap((len(members), len(nonmembers)), column, "membership", *key)
    value, low, high = (float(result_K[0]) for result_K in results)
    return value, *_at_least_exact(value, low, high, trials)


def _at_least_exact(value: float, low: float, high: float, trials: int) -> tuple[float, float]:
    """The bootstrap's interval; that of so many independent trials too where it sees no spread."""
    if value not in (0, 1):
        return low, high
    exact_low, exact_high = binomial_interval(round(value) * trials, trials)
    return float(np.fmin(low, exact_low)), float(np.fmax(high, exact_high))


def checked_scores(values: np.ndarray) -> np.ndarray:
    """As float [n]. Raises ValueError for scores that are none, nan, or not a vector."""
    scores = np.asarray(values, float)
    if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
        raise ValueError("scores must be a non-empty vector without nan")
    return scores


def _once(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((1, len(members))), np.ones((1, len(nonmembers)))


def _with_difference(of_run: _Statistic, of_control: _Statistic, sign: int) -> _Statistic:
    def pair(counts_RxM: np.ndarray, counts_RxN: np.ndarray) -> np.ndarray:
        value_R = of_run(counts_RxM, counts_RxN)
        difference_R = sign * (value_R - of_control(counts_RxM, counts_RxN))
        return np.stack([value_R, difference_R], axis=1)

    return pair


def _auc(members: np.ndarray, nonmembers: np.ndarray) -> _Statistic:
    """AUC of weighted scores: a function of counts_RxM and counts_RxN, without re-sorting."""
    members, nonmembers = checked_scores(members), checked_scores(nonmembers)
    order = np.argsort(nonmembers)
    below = np.searchsorted(nonmembers[order], members, "left")
    not_above = np.searchsorted(nonmembers[order], members, "right")

    def statistic(counts_RxM: np.ndarray, counts_RxN: np.ndarray) -> np.ndarray:
        cumulative = np.cumsum(np.pad(counts_RxN[:, order], ((0, 0), (1, 0))), axis=1)
        wins_RxM = (cumulative[:, below] + cumulative[:, not_above]) / 2
        return (counts_RxM * wins_RxM).sum(1) / (len(members) * len(nonmembers))

    return statistic


def _tpr(members: np.ndarray, nonmembers: np.ndarray, fpr: float = 0.01) -> _Statistic:
    """TPR at `fpr` of weighted scores: a function of counts_RxM and counts_RxN."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr must lie in [0, 1], not {fpr}")
    members, nonmembers = checked_scores(members), checked_scores(nonmembers)
    down = np.argsort(-nonmembers)
    member_order = np.argsort(-members)
    # For every non-member as the threshold, how many members score strictly above it.
    above_N = np.searchsorted(-members[member_order], -nonmembers[down], "left")
    above = np.append(above_N, len(members))
    allowed = _allowed(len(nonmembers), fpr)

    def statistic(counts_RxM: np.ndarray, counts_RxN: np.ndarray) -> np.ndarray:
        # The threshold is the first non-member, from the top, that would exceed the budget.
        beyond_R = (np.cumsum(counts_RxN[:, down], axis=1) <= allowed).sum(1)
        found_RxM = np.cumsum(np.pad(counts_RxM[:, member_order], ((0, 0), (1, 0))), axis=1)
        return found_RxM[np.arange(len(found_RxM)), above[beyond_R]] / len(members)

    return statistic


def _allowed(nonmembers: int, fpr: float) -> int:
    """False positives within the budget; 0.29 * 100 is 28.999… in binary."""
    return math.floor(fpr * nonmembers + 1e-9)


_FEWEST = 100


def exposure(secrets: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """float[S]: log2 |R| - log2 rank of each secret in R, itself and the given candidates.

    Assumes nothing where the candidates are all others there are. Where they are a random sample of
    them, it is an estimate for as far as the sample sees: a secret above all of it has
    log2(candidates + 1), and then read "at least". A candidate that ties with the secret counts as
    found before it, so that a model which cannot tell them apart exposes none.

    Raises ValueError for scores that are none, nan, or not a vector.
    """
    secrets, candidates = checked_scores(secrets), np.sort(checked_scores(candidates))
    rank = 1 + len(candidates) - np.searchsorted(candidates, secrets, "left")
    return np.log2(len(candidates) + 1) - np.log2(rank)


@dataclasses.dataclass(frozen=True)
class CandidateFit:
    """A skew-normal distribution of candidates' losses (minus their scores)."""

    shape: float
    location: float
    scale: float
    distance: float
    """Kolmogorov-Smirnov: largest gap between the sample's distribution and the fit."""
    n: int

    @property
    def fits(self) -> bool:
        """The gap is no larger than chance makes it, for a distribution that was not fitted.

        A fit comes closer to its own sample, so that this finds gross misfits alone (5% level).
        """
        return bool(scipy.stats.kstwo.sf(self.distance, self.n) > 0.05)

    def log2_tail(self, scores: np.ndarray) -> np.ndarray:
        """log2 of the share of candidates that are at least as likely; -inf beyond doubles."""
        losses = -np.asarray(scores, float)
        share = scipy.stats.skewnorm.cdf(losses, self.shape, self.location, self.scale)
        with np.errstate(divide="ignore"):
            return np.log2(share)


def fit_candidates(candidates: np.ndarray) -> CandidateFit:
    """The likeliest skew-normal for a random sample of candidates, 100 at least.

    Raises ValueError for fewer, for scores without spread, infinite or nan.
    """
    losses = -checked_scores(candidates)
    if len(losses) < _FEWEST or not np.isfinite(losses).all() or np.ptp(losses) == 0:
        raise ValueError(
            f"a fit needs {_FEWEST} candidates with finite scores that differ: `exposure` takes any"
        )
    # In standard units, where the fit's search begins; a loss in nats can be far from them.
    center, unit = losses.mean(), losses.std()
    shape, location, scale = scipy.stats.skewnorm.fit((losses - center) / unit)
    fitted = (float(shape), float(center + unit * location), float(unit * scale))
    distance = scipy.stats.kstest(losses, scipy.stats.skewnorm(*fitted).cdf).statistic
    return CandidateFit(*fitted, float(distance), len(losses))


def sampled_exposure(secrets: np.ndarray, fit: CandidateFit, log2_space: float) -> np.ndarray:
    """float[S]: exposure in a space of 2**log2_space candidates, from a fit to a sample of them.

    Assumes that the sample is random, that losses are skew-normal, and, for a secret beyond the
    sample, that they are so where none was seen: bits above log2 of the sample's size are
    extrapolated. Look at `fit.fits`, and give `exposure` beside it. At most log2_space.
    """
    if not (log2_space > 0 and math.isfinite(log2_space)):
        raise ValueError(f"log2_space is the space's size in bits, above 0, not {log2_space}")
    return np.clip(-fit.log2_tail(checked_scores(secrets)), 0, log2_space)
