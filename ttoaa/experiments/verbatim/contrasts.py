"""Contrasts of removed texts: with texts that never occurred, and by number of near-duplicates.

| outcome | condition | `value` | `control_value` |
|---|---|---|---|
| `..._above_unseen` | KIND | KIND less `unseen` | in the control run |
| `..._by_near_duplicates` | k-vs-least | passages with k | passages with the fewest |
| `log_likelihood_of_half_the_unseen` | unseen | one half less the other | in the control run |

Both sides of the second are of the run; its control run is not involved. Passages get their number
of near-duplicates at random, so their form, and what other experiments do to it, is on both sides.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.report_labels import PERCENT, Label, ReportLabels
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    count_groups,
    difference_in_differences,
    estimate,
    keyed_rng,
)

LIKELIHOOD, COMPLETED = "log_likelihood", "completed"
FAMILY, FOUND, UNSEEN = "family-", "found", "unseen"
ABOVE, BY_NEAR = "_above_unseen", "_by_near_duplicates"
HALVES = f"{LIKELIHOOD}_of_half_the_unseen"
LABELS = ReportLabels(
    question="Can a model complete a passage whose every exact copy was removed from training?",
    method="Exact copies of texts are removed from the run. The test is how likely their "
    "continuation is, and whether greedy decoding gives it, against passages that never occurred, "
    "and by the number of near-duplicates that remain.",
    caption="Share completed and log-likelihood of the continuation over training, for each kind "
    "of text; the control run, which keeps the copies, is dashed. Means over seeds.",
    outcomes={
        LIKELIHOOD: Label("log-likelihood of the continuation", "nats per token"),
        COMPLETED: Label("continuations completed", PERCENT),
        LIKELIHOOD + ABOVE: Label(
            "log-likelihood of the continuation above unseen passages", "nats per token"
        ),
        COMPLETED + ABOVE: Label("continuations completed above unseen passages", PERCENT),
        LIKELIHOOD + BY_NEAR: Label(
            "log-likelihood of the continuation",
            "nats per token",
            against="with the fewest near-duplicates",
        ),
        COMPLETED + BY_NEAR: Label(
            "continuations completed", PERCENT, against="with the fewest near-duplicates"
        ),
        HALVES: Label(
            "log-likelihood of half of the unseen passages above the rest", "nats per token"
        ),
    },
    conditions={
        rf"{FAMILY}(\d+)": r"removed, \1 near-duplicates left",
        rf"{FOUND}-(\d+)\+": r"found and removed, \1 or more near-duplicates left",
        UNSEEN: "never seen",
        r"(\d+)-vs-(\d+)": r"\1 near-duplicates left against \2",
    },
)
SIGNS: Mapping[str, int] = {
    LIKELIHOOD: -1,
    COMPLETED: -1,
    LIKELIHOOD + ABOVE: -1,
    COMPLETED + ABOVE: -1,
    LIKELIHOOD + BY_NEAR: 1,
    COMPLETED + BY_NEAR: 1,
    HALVES: 1,
}
_KEYS = ["condition", "item"]


def _by_condition(table: pd.DataFrame, outcome: str) -> dict[str, pd.DataFrame]:
    rows = table[table["outcome"] == outcome].sort_values(_KEYS)
    return {str(condition): part for condition, part in rows.groupby("condition", sort=False)}


def above_unseen(
    run: pd.DataFrame, control: pd.DataFrame, sign: Callable[[str], int]
) -> list[Estimate]:
    """Compare each kind of removed text with those that neither run contains."""
    found = []
    for outcome in (LIKELIHOOD, COMPLETED):
        ours, theirs = (_by_condition(table, outcome) for table in (run, control))
        for condition in ours.keys() - {UNSEEN}:
            name = outcome + ABOVE
            sides = [(ours[each], theirs[each]) for each in (condition, UNSEEN)]
            found.append(_pairs(name, condition, sides, sign(name)))
    return sorted(found, key=lambda each: (each.outcome, each.condition))


def by_near_duplicates(
    run: pd.DataFrame, sizes: Sequence[int], sign: Callable[[str], int]
) -> list[Estimate]:
    """Compare, within the run, passages by the number of their near-duplicates in the corpus."""
    found, least = [], min(sizes)
    for outcome in (LIKELIHOOD, COMPLETED):
        values = {
            condition: rows["value"].to_numpy(float)
            for condition, rows in _by_condition(run, outcome).items()
        }
        for size in sorted({*sizes} - {least}):
            name, condition = outcome + BY_NEAR, f"{size}-vs-{least}"
            sides = values[f"{FAMILY}{size}"], values[f"{FAMILY}{least}"]
            found.append(_contrast(name, condition, *sides, sign(name)))
    return found


def _contrast(
    outcome: str, condition: str, many_N: np.ndarray, few_M: np.ndarray, sign: int
) -> Estimate:
    """Compare the means of two sets of families, which are resampled separately."""
    sizes = [len(many_N), len(few_M)]

    def statistic(counts_RxN: np.ndarray, counts_RxM: np.ndarray) -> np.ndarray:
        many = counts_RxN @ many_N / sizes[0]
        return np.stack([many, sign * (many - counts_RxM @ few_M / sizes[1])], 1)

    results = bootstrap(sizes, statistic, outcome, condition)
    number, few = count_groups(sizes, None), float(few_M.mean())
    return estimate(outcome, condition, sum(sizes), results, few, number)


def unseen_halves(run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
    """Compare two random halves of the texts that neither run contains: the placebo."""
    ours, theirs = (_by_condition(table, LIKELIHOOD)[UNSEEN] for table in (run, control))
    names, number = np.unique(ours["group"], return_inverse=True)
    half = keyed_rng(HALVES).permutation(len(names))[number] % 2 == 0
    sides = [(ours[of], theirs[of]) for of in (half, ~half)]
    return [_pairs(HALVES, UNSEEN, sides, SIGNS[HALVES])] if 0 < half.sum() < len(half) else []


def _pairs(
    outcome: str, condition: str, sides: Sequence[tuple[pd.DataFrame, pd.DataFrame]], sign: int
) -> Estimate:
    """Compare two kinds, each as (run, control run) with the same items in the same order."""
    (run_a, control_a), (run_b, control_b) = (
        (run["value"].to_numpy(float), control["value"].to_numpy(float)) for run, control in sides
    )
    groups = [run["group"].to_numpy() for run, _ in sides]
    return difference_in_differences(
        outcome, condition, run_a, control_a, run_b, control_b, sign, groups
    )
