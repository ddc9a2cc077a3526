"""Contrasts of arms: with a fixed rate, with another target, and with topics never inserted.

| outcome | condition | `value` | `control_value` |
|---|---|---|---|
| `tracking_error_against_arm` | ARM-vs-FIXED | error of ARM's topics | error of FIXED's topics |
| `tracking_error_against_target` | ARM-vs-OTHER | error of ARM's topics | by OTHER's target |
| `..._above_never` | ARM | ARM less `never` | in the control run |
| `log_probability_of_half_the_held_out` | never | one half less the other | in the control run |

Both sides of the first two are of the *run*; its control run is not involved. Their difference is
`control_value` - `value`: above 0, the topics of ARM are closer to ARM's target. The error is
that of the second half of the intervals (`Curve.tracking_errors`) by the target of ARM.

A rule that only inserts has the error of the fixed rate. A rule that ignores its target has the
same values under both targets, and what it gains by one of them it loses by the other.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.acquisition import outcomes as o
from ttoaa.experiments.acquisition.curves import Curve, by_topic, groups_of
from ttoaa.experiments.acquisition.policies import FixedRate
from ttoaa.experiments.acquisition.policy import Policy
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    count_groups,
    difference_in_differences,
    estimate,
    keyed_rng,
    paired_estimate,
)

Sign = Callable[[str], int]


def versus(arm: str, other: str) -> str:
    """Return the condition of a contrast, which names both sides."""
    return f"{arm}-vs-{other}"


def run_contrasts(
    run: pd.DataFrame,
    policies: Mapping[str, Policy],
    pairs: Sequence[tuple[str, str]],
    sign: Sign,
) -> list[Estimate]:
    """Estimate the contrasts within the run; none before there is a target in the second half."""
    curves = {arm: Curve.read(run, arm) for pair in pairs for arm in pair}
    found = []
    for arm, other in pairs:
        mine, condition = curves[arm], versus(arm, other)
        fixed = isinstance(policies[other], FixedRate)
        ours_K = mine.tracking_errors(mine.goal_I)
        if fixed:
            theirs = curves[other].tracking_errors(mine.goal_I)
        else:
            theirs = mine.tracking_errors(curves[other].goal_I)
        if not np.isfinite([*ours_K, *theirs]).all():
            continue
        shared = policies[arm].shared
        if fixed:
            found.append(_against_arm(condition, ours_K, theirs, shared, sign))
        else:
            group_K = np.array([arm] * len(ours_K) if shared else mine.topics)
            direction = sign(o.AGAINST_TARGET)
            found.append(
                paired_estimate(o.AGAINST_TARGET, condition, ours_K, theirs, direction, group_K)
            )
    return found


def _against_arm(
    condition: str, ours_K: np.ndarray, theirs_J: np.ndarray, shared: bool, sign: Sign
) -> Estimate:
    """Compare the topics of two arms, which are resampled separately."""
    direction, sizes = sign(o.AGAINST_ARM), [len(ours_K), len(theirs_J)]

    def statistic(counts_RxK: np.ndarray, counts_RxJ: np.ndarray) -> np.ndarray:
        ours = counts_RxK @ ours_K / sizes[0]
        return np.stack([ours, direction * (ours - counts_RxJ @ theirs_J / sizes[1])], 1)

    groups = groups_of([shared, False], sizes)
    results = bootstrap(sizes, statistic, o.AGAINST_ARM, condition, groups=groups)
    number, theirs = count_groups(sizes, groups), float(theirs_J.mean())
    return estimate(o.AGAINST_ARM, condition, sum(sizes), results, theirs, number)


def above_never(
    run: pd.DataFrame, control: pd.DataFrame, policies: Mapping[str, Policy], sign: Sign
) -> list[Estimate]:
    """Estimate the gain of each arm's topics over that of topics that are never inserted."""
    found = []
    for outcome in (o.LIKELIHOOD, o.ACCURACY):
        arms = dict.fromkeys(run.loc[run["outcome"] == outcome, "condition"])
        if o.NEVER not in arms:
            continue
        never, without = (by_topic(t, outcome, o.NEVER).to_numpy() for t in (run, control))
        name = outcome + o.ABOVE
        for arm in [arm for arm in arms if arm != o.NEVER]:
            ours, theirs = (by_topic(t, outcome, arm).to_numpy() for t in (run, control))
            groups = groups_of([policies[arm].shared, False], [len(ours), len(never)])
            found.append(
                difference_in_differences(
                    name, arm, ours, theirs, never, without, sign(name), groups
                )
            )
    return found


def held_out_halves(run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
    """Compare two random halves of the topics that no run inserts: the placebo."""
    tables = [by_topic(table, o.LIKELIHOOD, o.NEVER) for table in (run, control)]
    n = len(tables[0])
    if n < 2:
        return []
    order = keyed_rng(o.HALVES).permutation(n)
    halves = order[: n // 2], order[n // 2 :]
    groups = [table.to_numpy()[half] for half in halves for table in tables]
    return [difference_in_differences(o.HALVES, o.NEVER, *groups)]
