"""Estimates of MUSE-News from the scores of articles; the article is the unit of statistics."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.muse.outcomes import (
    GENERATED,
    KNOWMEM,
    KNOWMEM_ROUGE,
    LIKELIHOODS,
    LOG_LIKELIHOOD,
    MIN_K,
    PIECES,
    VERBMEM,
    VERBMEM_ROUGE,
    WORD_ORDER,
)
from ttoaa.experiments.report_labels import AUC as AUC_LABEL
from ttoaa.experiments.report_labels import Label, ReportLabels
from ttoaa.scoring.membership import AUC, PRIVLEAK, membership_estimates, privleak_estimate
from ttoaa.statistics.bootstrap import (
    Estimate,
    difference_in_differences,
    keyed_rng,
    paired_estimates,
)

HELD_OUT = "held-out"
ABOVE = "_above_held_out"
CONTRAST = "_contrast"
HALVES = "_of_half_the_held_out"
"""The placebo: the score of one random half of the held-out articles above that of the other."""
AUC_MIN_K = f"{AUC}_{MIN_K}"
WHOLE, SPLIT, RESPLIT = FORMS = ("whole", "split", "resplit")
PAIRS = ((SPLIT, WHOLE), (RESPLIT, WHOLE), (SPLIT, RESPLIT))
"""Forms that are compared at an equal number of repetitions."""
CONTRASTED = (LOG_LIKELIHOOD, PIECES)
SCORES = (*LIKELIHOODS, *GENERATED)

_SCORE_TITLES = (
    (LOG_LIKELIHOOD, "log-likelihood of the article", "nats per token"),
    (PIECES, "log-likelihood of parts cut in a new way", "nats per token"),
    (WORD_ORDER, "gain from the right word order", "nats per token"),
    (VERBMEM, "log-likelihood of the continuation of a prompt", "nats per token"),
    (KNOWMEM, "log-likelihood of right answers about the article", "nats"),
    (VERBMEM_ROUGE, "overlap of greedy continuations (ROUGE-L)", ""),
    (KNOWMEM_ROUGE, "overlap of greedy answers (ROUGE-L)", ""),
)

OUTCOMES = {
    **dict.fromkeys((score + end for score in SCORES for end in ("", ABOVE)), 1),
    **dict.fromkeys((score + CONTRAST for score in CONTRASTED), 1),
    **dict.fromkeys((score + HALVES for score in SCORES), 1),
    **dict.fromkeys((AUC, AUC_MIN_K), 1),
    PRIVLEAK: -1,
}
"""The expected sign of each outcome. Contrasts are two-sided: their sign is that of the first form
minus the second."""

LABELS = ReportLabels(
    question="How well does a model remember news articles, whole or cut into parts?",
    method="Articles are inserted whole, cut once, or cut differently in each copy; others are "
    "held out. The gain of a condition is its score above that of the held-out articles, less the "
    "same difference in the control run.",
    caption="Score above held-out articles, less the same in the control run, by copies of an "
    "article in training, with 95% intervals over articles.",
    outcomes={
        **{
            score + end: Label(title + tail, unit)
            for score, title, unit in _SCORE_TITLES
            for end, tail in (
                ("", ""),
                (ABOVE, " above the held-out articles"),
                (HALVES, " of half of the held-out articles above the rest"),
            )
        },
        **{
            score + CONTRAST: Label(title, unit, against="with the other form")
            for score, title, unit in _SCORE_TITLES
            if score in CONTRASTED
        },
        AUC: AUC_LABEL,
        AUC_MIN_K: dataclasses.replace(AUC_LABEL, title="AUC of the 40% least likely tokens"),
        PRIVLEAK: Label(
            "PrivLeak", help="0 without a leak, -100 if members and others are fully separated"
        ),
    },
    conditions={
        HELD_OUT: "held out",
        r"whole-(\d+)x": r"whole article, \1 copies",
        r"split-(\d+)x": r"same parts, \1 copies",
        r"resplit-(\d+)x": r"different parts, \1 copies",
        r"split-vs-whole-(\d+)x": r"same parts against whole, \1 copies",
        r"resplit-vs-whole-(\d+)x": r"different parts against whole, \1 copies",
        r"split-vs-resplit-(\d+)x": r"same parts against different ones, \1 copies",
    },
)

Pair = tuple[np.ndarray, np.ndarray]
"""(values of the run, values of the control run) of the same articles."""


def article_estimates(
    run: pd.DataFrame,
    control: pd.DataFrame,
    repetitions: Sequence[int],
    placebo: str,
    sign: Callable[[str], int],
) -> list[Estimate]:
    """Return all estimates; `placebo` is the score whose held-out halves are compared."""
    scored = run["outcome"].isin(SCORES)
    found = paired_estimates(run[scored], control[control["outcome"].isin(SCORES)], sign)
    pairs = _pair_scores(run, control)
    conditions = [f"{form}-{r}x" for form in FORMS for r in repetitions]
    for score in SCORES:
        there = [name for name in conditions if (score, name) in pairs]
        if (score, HELD_OUT) in pairs:
            for name in there:
                both = *pairs[score, name], *pairs[score, HELD_OUT]
                outcome = score + ABOVE
                found.append(difference_in_differences(outcome, name, *both, sign(outcome)))
    for name in conditions:
        found += _membership(pairs, name, sign)
    found += _contrasts(pairs, repetitions, sign)
    if (placebo, HELD_OUT) in pairs:
        found.append(_halves(placebo, pairs[placebo, HELD_OUT], sign(placebo + HALVES)))
    return found


def _pair_scores(run: pd.DataFrame, control: pd.DataFrame) -> dict[tuple[str, str], Pair]:
    """Return the values of each (outcome, condition), in the order of items."""
    keys = ["item", "condition", "outcome"]
    both = run.merge(control[[*keys, "value"]], on=keys, suffixes=("", "_control"))
    both = both.sort_values("item", kind="stable")
    return {
        (outcome, name): (rows["value"].to_numpy(float), rows["value_control"].to_numpy(float))
        for (outcome, name), rows in both.groupby(["outcome", "condition"])
    }


def _membership(
    pairs: dict[tuple[str, str], Pair], name: str, sign: Callable[[str], int]
) -> Iterator[Estimate]:
    for score, end in ((LOG_LIKELIHOOD, ""), (MIN_K, f"_{MIN_K}")):
        (run_in, control_in), (run_out, control_out) = pairs[score, name], pairs[score, HELD_OUT]
        both = run_in, run_out, control_in, control_out
        yield from membership_estimates(*both, name, sign, end, statistics=(AUC,))
        if score == MIN_K:
            yield privleak_estimate(*both, name, sign(PRIVLEAK))


def _contrasts(
    pairs: dict[tuple[str, str], Pair], repetitions: Sequence[int], sign: Callable[[str], int]
) -> Iterator[Estimate]:
    for score in CONTRASTED:
        for a, b in PAIRS:
            for r in repetitions:
                both = *pairs[score, f"{a}-{r}x"], *pairs[score, f"{b}-{r}x"]
                outcome, name = score + CONTRAST, f"{a}-vs-{b}-{r}x"
                yield difference_in_differences(outcome, name, *both, sign(outcome))


def _halves(score: str, held_out: Pair, sign: int) -> Estimate:
    order = keyed_rng(HALVES, score).permutation(len(held_out[0]))
    (run_a, control_a), (run_b, control_b) = (
        (held_out[0][half], held_out[1][half]) for half in (order[0::2], order[1::2])
    )
    both = run_a, control_a, run_b, control_b
    return difference_in_differences(score + HALVES, HELD_OUT, *both, sign)
