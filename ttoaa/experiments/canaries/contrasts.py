"""Contrasts of members and matched non-members from the scores of run and control.

Scores are tables with the columns item, value, value_control and group.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from ttoaa.scoring.membership import exposure, membership_estimates, statistics_for
from ttoaa.statistics.bootstrap import Estimate, difference_in_differences, paired_estimate

ABOVE = "_above_nonmembers"
_BOTH = ("value", "value_control")


def pair_scores(run: pd.DataFrame, control: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the scores of each (outcome, condition), paired by item."""
    keys = ["item", "condition", "outcome"]
    both = run.merge(control[[*keys, "value"]], on=keys, suffixes=("", "_control"))
    return {(outcome, name): rows for (name, outcome), rows in both.groupby(keys[1:])}


def less(scores: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Return the scores minus other scores of the same items."""
    other = other.set_index("item").loc[scores["item"]]
    return scores.assign(**{name: scores[name] - other[name].to_numpy() for name in _BOTH})


def per_token(scores: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """Return the scores divided by the number of tokens of a text."""
    return scores.assign(**{name: scores[name] / tokens for name in _BOTH})


def less_control(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the scores minus those of the control run, which scores every text 0 by itself."""
    return scores.assign(value=scores["value"] - scores["value_control"], value_control=0)


def halves(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the items of every other document, and the rest; of one document, other items."""
    _, document = np.unique(scores["group"], return_inverse=True)
    half = (document if document.any() else np.arange(len(document))) % 2 == 0
    return scores[half], scores[~half]


def above_nonmembers(
    outcome: str, condition: str, members: pd.DataFrame, nonmembers: pd.DataFrame, sign: int
) -> Estimate:
    """Estimate the mean score of members above non-members, as a difference in differences."""
    (run_in, control_in), (run_non, control_non) = _values(members), _values(nonmembers)
    both = run_in, control_in, run_non, control_non
    return difference_in_differences(outcome, condition, *both, sign, _groups(members, nonmembers))


def against_nonmembers(
    members: pd.DataFrame,
    nonmembers: pd.DataFrame,
    outcome: str,
    condition: str,
    end: str,
    sign: Callable[[str], int],
) -> Iterator[Estimate]:
    """Estimate an outcome of members above non-members, and how well it separates them.

    `end` ends the names of the AUC and of the TPR, which needs enough non-members.
    """
    above, statistics = outcome + ABOVE, statistics_for(len(nonmembers))
    yield above_nonmembers(above, condition, members, nonmembers, sign(above))
    yield from membership(members, nonmembers, condition, end, sign, statistics)


def exposure_estimate(
    outcome: str, condition: str, members: pd.DataFrame, nonmembers: pd.DataFrame, sign: int
) -> Estimate:
    """Estimate the exposure in bits of the members' suffixes among those of the non-members."""
    pairs = zip(_values(members), _values(nonmembers), strict=True)
    bits, bits_control = (exposure(secrets, candidates) for secrets, candidates in pairs)
    group = members["group"].to_numpy()
    return paired_estimate(outcome, condition, bits, bits_control, sign, group)


def membership(
    members: pd.DataFrame,
    nonmembers: pd.DataFrame,
    condition: str,
    end: str,
    sign: Callable[[str], int],
    statistics: Sequence[str],
) -> list[Estimate]:
    """Estimate the `statistics`, AUC and TPR, of members against non-members.

    `end` ends the names of the outcomes.
    """
    (run_in, control_in), (run_non, control_non) = _values(members), _values(nonmembers)
    both = run_in, run_non, control_in, control_non
    groups = _groups(members, nonmembers)
    return membership_estimates(*both, condition, sign, end, groups, statistics)


def _values(scores: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return scores["value"].to_numpy(float), scores["value_control"].to_numpy(float)


def _groups(members: pd.DataFrame, nonmembers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return members["group"].to_numpy(), nonmembers["group"].to_numpy()
