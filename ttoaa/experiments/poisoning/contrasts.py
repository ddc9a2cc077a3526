"""Contrasts between triggers: dose, schedule, and behaviour without a trigger.

Gains are the outcome 'preference_above_never', averaged by trigger; triggers are resampled.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.poisoning.backdoors import Backdoor, Cell
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    count_groups,
    difference_in_differences,
    estimate,
)
from ttoaa.statistics.equivalence import binary_equivalence, paired_equivalence

SLOPE, LATE_EARLY = "gain_per_tenfold", "late_above_early"
WITHIN_MARGIN = "untriggered_within_margin"
EARLY, LATE = "early", "late"


def by_group(
    run: pd.DataFrame, control: pd.DataFrame, outcome: str, condition: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of each group (trigger or prompt) under the run and under the control."""
    keys = ["outcome", "condition"]
    sides = []
    for table in (run, control):
        rows = table[(table[keys] == [outcome, condition]).all(axis=1)]
        sides.append(rows.groupby("group")["value"].mean())
    return sides[0].to_numpy(), sides[1][sides[0].index].to_numpy()


def equivalence(
    run: pd.DataFrame, control: pd.DataFrame, outcome: str, condition: str, margin: float
) -> Iterator[Estimate]:
    """Estimate whether an outcome without trigger differs by less than `margin` from the control.

    `value` is the difference with its 90% interval; `difference` is how far the interval
    stays within the margins. Above 0, equivalence is shown (TOST, p < 0.05).
    """
    ours, theirs = by_group(run, control, outcome, condition)
    if len(ours) < 2:
        return
    if np.isin([ours, theirs], (0, 1)).all():
        found = binary_equivalence(ours, theirs, margin)
    else:
        found = paired_equivalence(ours - theirs, margin)
    within = margin - max(abs(found.low), abs(found.high))
    name, nan = f"{outcome.partition('_')[0]}_{WITHIN_MARGIN}", float("nan")
    value = found.difference, found.low, found.high
    yield Estimate(name, condition, len(ours), *value, 0.0, within, nan, nan)


def dose_contrasts(
    run: pd.DataFrame, control: pd.DataFrame, backdoor: Backdoor, outcome: str
) -> Iterator[Estimate]:
    """Estimate the gain per tenfold documents of each schedule, and late above early triggers.

    With one trigger per condition there are none: prompts do not show how much triggers differ.
    """
    if backdoor.triggers == 1:
        return
    cells = list(backdoor.cells())
    gains = {cell.name: by_group(run, control, outcome, cell.name) for cell in cells}
    if len(backdoor.documents) > 1:
        for schedule in backdoor.placements:
            own = [cell for cell in cells if cell.schedule == schedule]
            yield _slope(f"{backdoor.name}-{schedule}", own, [gains[c.name] for c in own])
    for late in (cell for cell in cells if cell.schedule == LATE):
        for early in cells:
            if (early.schedule, early.documents) == (EARLY, late.documents):
                sides = *gains[late.name], *gains[early.name]
                yield difference_in_differences(LATE_EARLY, late.name, *sides)


def _slope(
    condition: str, cells: Sequence[Cell], gains: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Estimate:
    """Estimate the least-squares slope of the cells' mean gains on log10 of their documents."""
    x_C = np.log10([float(cell.documents or 1) for cell in cells])
    weight_C = (x_C - x_C.mean()) / np.sum((x_C - x_C.mean()) ** 2)
    values = [np.stack([ours, ours - theirs], 1) for ours, theirs in gains]

    def statistic(*counts: np.ndarray) -> np.ndarray:
        means = [c @ v / c.sum(1, keepdims=True) for c, v in zip(counts, values, strict=True)]
        return np.einsum("c,crk->rk", weight_C, np.stack(means))

    sizes = [len(each) for each in values]
    results = bootstrap(sizes, statistic, SLOPE, condition)
    in_control = float(weight_C @ [theirs.mean() for _, theirs in gains])
    number = count_groups(sizes, None)
    return estimate(SLOPE, condition, sum(sizes), results, in_control, number)
