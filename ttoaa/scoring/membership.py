"""Membership inference: how well scores separate members from matched non-members; exposure.

Scores are higher for likelier members (scoring.attacks makes them). Arrays are members [M] and
nonmembers [N].
"""

from collections.abc import Callable, Sequence

import numpy as np

from ttoaa.statistics.bootstrap import (
    Estimate,
    binomial_interval,
    bootstrap,
    count_groups,
    estimate,
)

AUC = "auc"
TPR = "tpr_at_1pct_fpr"
PRIVLEAK = "privleak"
FEWEST_FOR_TPR = 500
"""Non-members below which a rate at 1% false positives should not be reported: it would be set by
fewer than five of them."""


def auc(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Return the area under the ROC curve: P(member scores above non-member) + P(tie) / 2."""
    return float(_auc(members, nonmembers)(*_once(members, nonmembers))[0])


def tpr_at_fpr(members: np.ndarray, nonmembers: np.ndarray, fpr: float = 0.01) -> float:
    """Return the largest true-positive rate of any threshold whose false-positive rate is <= `fpr`.

    Exact: no interpolation between thresholds, and scores tied with the first non-member beyond the
    budget do not count as members. Fewer than 1/fpr non-members allow no false positive.
    """
    return float(_tpr(members, nonmembers, fpr)(*_once(members, nonmembers))[0])


def chance_tpr(nonmembers: int, fpr: float = 0.01) -> float:
    """Return the expected `tpr_at_fpr` of members that score like the n non-members.

    With k = floor(fpr * n) false positives allowed, a member clears the threshold if it is among
    the top k + 1 of itself and the non-members: (k + 1)/(n + 1), by exchangeability.
    """
    return float(_allowed(nonmembers, fpr) + 1) / (nonmembers + 1)


def statistics_for(nonmembers: int) -> tuple[str, ...]:
    """Return the statistics that this number of non-members allows to report."""
    return (AUC, TPR) if nonmembers >= FEWEST_FOR_TPR else (AUC,)


def membership_estimates(
    run_members: np.ndarray,
    run_nonmembers: np.ndarray,
    control_members: np.ndarray,
    control_nonmembers: np.ndarray,
    condition: str,
    sign: Callable[[str], int] = lambda outcome: 1,
    suffix: str = "",
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    statistics: Sequence[str] = (AUC, TPR),
) -> list[Estimate]:
    """Estimate AUC and TPR at 1% FPR of the run, and their differences from the control run.

    The scores are of the same members and the same non-members under both models. The two groups
    are resampled separately, each item with both its scores. Resampling non-members also moves the
    threshold, so the interval includes its uncertainty. With fewer than six members or non-members
    there is no interval. `groups` names the group of each member and of each non-member, such as
    their document, to resample groups as a whole. n counts members; `suffix` ends the names of the
    outcomes, and `statistics` names those to estimate.

    A bootstrap sees no spread in an AUC or rate of exactly 0 or 1. The run's interval is then at
    least Clopper and Pearson's: over members for the rate, over disjoint pairs of a member and a
    non-member for the AUC. The interval of the difference is the bootstrap's alone. With few
    members the interval of an AUC close to 1 is too short: in simulation it covers an AUC of 0.98
    in 84% of cases with 30 members, in 92% with 200.
    """
    sizes = (len(run_members), len(run_nonmembers))
    if sizes != (len(control_members), len(control_nonmembers)):
        raise ValueError(f"{condition}: run and control must score the same items")
    estimates = []
    for name in statistics:
        statistic, outcome = {AUC: _auc, TPR: _tpr}[name], name + suffix
        of_run = statistic(run_members, run_nonmembers)
        of_control = statistic(control_members, control_nonmembers)
        pair = _with_difference(of_run, of_control, sign(outcome))
        value_2, *bounds = bootstrap(sizes, pair, "membership", outcome, condition, groups=groups)
        low_2, high_2 = np.clip(bounds, (0, -1), 1)
        trials = min(sizes) if statistic is _auc else sizes[0]
        if np.isfinite(low_2[0]):
            low_2[0], high_2[0] = _at_least_exact(value_2[0], low_2[0], high_2[0], trials)
        results = value_2, low_2, high_2
        control_value = float(of_control(*_once(control_members, control_nonmembers))[0])
        number = count_groups(sizes, groups)
        estimates.append(estimate(outcome, condition, sizes[0], results, control_value, number))
    return estimates


def privleak_estimate(
    run_members: np.ndarray,
    run_nonmembers: np.ndarray,
    control_members: np.ndarray,
    control_nonmembers: np.ndarray,
    condition: str,
    sign: int = -1,
) -> Estimate:
    """Estimate PrivLeak of MUSE, 100 (A - A_retrain) / A_retrain (Shi et al. 2024).

    A is the probability that a non-member scores above a member, one minus our AUC, and A_retrain
    that of the control run, which was trained without the members: negative values are a leak, and
    -100 is a perfect separation. An A_retrain of 0 counts as half a pair.
    """
    sizes = (len(run_nonmembers), len(run_members))
    if sizes != (len(control_nonmembers), len(control_members)):
        raise ValueError(f"{condition}: run and control must score the same items")
    of_run = _auc(run_nonmembers, run_members)
    of_control = _auc(control_nonmembers, control_members)
    least = 1 / (2 * sizes[0] * sizes[1])

    def statistic(counts_RxN: np.ndarray, counts_RxM: np.ndarray) -> np.ndarray:
        retrain_R = of_control(counts_RxN, counts_RxM)
        leak_R = 100 * (of_run(counts_RxN, counts_RxM) - retrain_R) / np.maximum(retrain_R, least)
        return np.stack([leak_R, sign * leak_R], axis=1)

    results = bootstrap(sizes, statistic, PRIVLEAK, condition)
    return estimate(PRIVLEAK, condition, sizes[1], results, 0.0, count_groups(sizes, None))


_Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _at_least_exact(value: float, low: float, high: float, trials: int) -> tuple[float, float]:
    """Return the bootstrap's interval, widened to the exact one if the value is 0 or 1."""
    if value not in (0, 1):
        return low, high
    exact_low, exact_high = binomial_interval(round(value) * trials, trials)
    return min(low, exact_low), max(high, exact_high)


def checked_scores(values: np.ndarray) -> np.ndarray:
    """Return the scores as float [n]; ValueError for an empty array, nan, or another shape."""
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
    """Return the AUC [R] as a function of counts_RxM and counts_RxN, which does not sort again."""
    members, nonmembers = checked_scores(members), checked_scores(nonmembers)
    order = np.argsort(nonmembers)
    below = np.searchsorted(nonmembers[order], members, "left")
    not_above = np.searchsorted(nonmembers[order], members, "right")

    def statistic(counts_RxM: np.ndarray, counts_RxN: np.ndarray) -> np.ndarray:
        cumulative = np.cumsum(np.pad(counts_RxN[:, order], ((0, 0), (1, 0))), axis=1)
        wins_RxM = (cumulative[:, below] + cumulative[:, not_above]) / 2
        return (counts_RxM * wins_RxM).sum(1) / (counts_RxM.sum(1) * counts_RxN.sum(1))

    return statistic


def _tpr(members: np.ndarray, nonmembers: np.ndarray, fpr: float = 0.01) -> _Statistic:
    """Return the TPR at `fpr` [R] as a function of counts_RxM and counts_RxN."""
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr must lie in [0, 1], not {fpr}")
    members, nonmembers = checked_scores(members), checked_scores(nonmembers)
    down = np.argsort(-nonmembers)
    member_order = np.argsort(-members)
    # For every non-member as the threshold, how many members score strictly above it.
    above_N = np.searchsorted(-members[member_order], -nonmembers[down], "left")
    above = np.append(above_N, len(members))

    def statistic(counts_RxM: np.ndarray, counts_RxN: np.ndarray) -> np.ndarray:
        # The threshold is the first non-member, from the top, that would exceed the budget.
        allowed_Rx1 = _allowed(counts_RxN.sum(1, keepdims=True), fpr)
        beyond_R = (np.cumsum(counts_RxN[:, down], axis=1) <= allowed_Rx1).sum(1)
        found_RxM = np.cumsum(np.pad(counts_RxM[:, member_order], ((0, 0), (1, 0))), axis=1)
        return found_RxM[np.arange(len(found_RxM)), above[beyond_R]] / counts_RxM.sum(1)

    return statistic


def _allowed(nonmembers: np.ndarray | int, fpr: float) -> np.ndarray:
    """Return how many false positives the budget allows; 0.29 * 100 is 28.999… in binary."""
    return np.floor(fpr * np.asarray(nonmembers) + 1e-9)


def exposure(secrets: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return float[S]: the exposure of each secret in bits, log2 |R| - log2 rank (Carlini 2019).

    R holds the secret and the candidates, all made by the same generator. Exposure is 0 for the
    least likely of them, log2 |R| for the likeliest, and log2 e = 1.44 on average where the model
    knows nothing. Where the candidates are a sample of the space, read log2 |R| as "at least". A
    candidate that ties with the secret ranks before it.
    """
    secrets, candidates = checked_scores(secrets), np.sort(checked_scores(candidates))
    rank = 1 + len(candidates) - np.searchsorted(candidates, secrets, "left")
    return np.log2(len(candidates) + 1) - np.log2(rank)
