"""Which of N candidate data sources is worth mixing in: bursts ranked, corrected for the choice.

Every candidate's bursts and the null row of the same seed train on equally many tokens. The outcome
is the primary of one experiment, declared before. Corrections:

- Each candidate's p-value is of a t test of its effects over seeds, adjusted by Holm for N.
- Each interval has the level 1 - 0.05/N (Bonferroni), so all N cover their effects at once with
  95%, and that of the winner does too, although the winner was picked for its estimate.
- Whether the winner is better than another candidate is tested among all N(N - 1)/2 pairs (Holm).

The winner's estimate itself remains the largest of N, and so is on average too large. All seeds
score the same held-out rows of a DataSource, so intervals do not include the choice of these rows.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its submodules load when they are first used

from ttoaa.experiments.base import Experiment
from ttoaa.experiments.data_source import DataSource
from ttoaa.interactions.matrix import ALPHA, IncompleteMatrix, check_seeds
from ttoaa.statistics.bootstrap import t_tests
from ttoaa.statistics.multiplicity import holm
from ttoaa.workdir import write_json

WORTH, HARMS, UNDECIDED = "worth mixing in", "harms", "not shown to matter"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A source; effects are positive as the ranking's experiment expects."""

    name: str
    estimate: float
    """Mean over seeds of the outcome less that of the null row."""
    ci_low: float
    ci_high: float
    """Simultaneous 95% interval over seeds, for all candidates together."""
    p: float
    """Of no effect, adjusted by Holm over the candidates."""
    p_below_best: float | None
    """Of no difference from the first one, adjusted by Holm over all pairs; None for the first."""
    verdict: str


@dataclasses.dataclass(frozen=True)
class Ranking:
    checkpoint: int
    experiment: str
    """Whose primary outcome ranks the candidates."""
    outcome: str
    seeds: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    """The best first."""

    def __str__(self) -> str:
        head = f"step {self.checkpoint}, {self.outcome} of {self.experiment} less the null row"
        lines = [f"{head}, {len(self.seeds)} seeds:"]
        for place, c in enumerate(self.candidates, start=1):
            below = "" if c.p_below_best is None else f", below the first p {c.p_below_best:.2g}"
            lines.append(
                f"  {place}. {c.name} {c.estimate:+.3f} [{c.ci_low:+.3f}, {c.ci_high:+.3f}], "
                f"p {c.p:.2g}{below}: {c.verdict}"
            )
        return "\n".join(lines)


def rank(effects: pd.DataFrame, candidates: Sequence[str], experiment: str) -> list[Ranking]:
    """Rank the candidates at every checkpoint; effects have the columns of `effects.COLUMNS`.

    `experiment` names the one whose primary outcome counts, a candidate or another. Raises
    IncompleteMatrix for fewer than six seeds or a missing effect.
    """
    rows = [f"alone/{name}" for name in candidates]
    own = effects[effects["row"].isin(rows) & (effects["experiment"] == experiment)]
    if not len(candidates) or own.empty:
        raise IncompleteMatrix(f"no candidate has an effect on {experiment}: run its bursts first")
    rankings = []
    for checkpoint, found in own.groupby("checkpoint", sort=True):
        table = found.pivot(index="seed", columns="row", values="estimate").reindex(columns=rows)
        check_seeds(len(table))
        values_SxN = table.to_numpy(float)
        if not np.isfinite(values_SxN).all():
            seed, column = np.argwhere(~np.isfinite(values_SxN))[0]
            raise IncompleteMatrix(
                f"checkpoint {checkpoint}, seed {table.index[seed]}: the effect of {rows[column]} "
                f"on {experiment} is missing: run the dependence command again"
            )
        seeds = tuple(int(seed) for seed in table.index)
        ranked = tuple(rank_values(candidates, values_SxN))
        first = int(str(checkpoint)), experiment, str(found["outcome"].iloc[0])
        rankings.append(Ranking(*first, seeds, ranked))
    return rankings


def rank_values(names: Sequence[str], values_SxN: np.ndarray) -> list[Candidate]:
    """Rank candidates by their effects [seeds, N], which are paired by seed."""
    count_S, count_N = values_SxN.shape
    mean_N = values_SxN.mean(0)
    error_N = values_SxN.std(0, ddof=1) / np.sqrt(count_S)
    reach_N = scipy.stats.t.ppf(1 - ALPHA / (2 * count_N), count_S - 1) * error_N
    p_N = holm(t_tests(values_SxN))
    first, second = np.triu_indices(count_N, 1)
    p_pairs = holm(t_tests(values_SxN[:, first] - values_SxN[:, second]))
    pairs = zip(first.tolist(), second.tolist(), p_pairs.tolist(), strict=True)
    p_of = {frozenset((i, j)): p for i, j, p in pairs}
    order = np.argsort(-mean_N, kind="stable")
    ranked = []
    for k in order:
        low, high = float(mean_N[k] - reach_N[k]), float(mean_N[k] + reach_N[k])
        verdict = UNDECIDED if p_N[k] > ALPHA else WORTH if mean_N[k] > 0 else HARMS
        below = p_of[frozenset((k, order[0]))] if k != order[0] else None
        ranked.append(
            Candidate(names[k], float(mean_N[k]), low, high, float(p_N[k]), below, verdict)
        )
    return ranked


def find_candidates(experiments: Sequence[Experiment], ranked_by: str) -> list[str]:
    """Return the names of the data sources; ValueError without any, or an unknown `ranked_by`."""
    if ranked_by not in (names := [each.name for each in experiments]):
        raise ValueError(f"--rank_by: {ranked_by!r} is none of {', '.join(names)}")
    candidates = [each.name for each in experiments if isinstance(each, DataSource)]
    if not candidates:
        raise ValueError("--rank_by: the study has no DataSource experiment to rank")
    return candidates


def write_ranking(
    path: pathlib.Path, effects: pd.DataFrame, candidates: Sequence[str], experiment: str
) -> str:
    """Write the rankings as JSON; return what to print, also where seeds or rows are missing."""
    try:
        rankings = rank(effects, candidates, experiment)
    except IncompleteMatrix as error:
        return f"no ranking yet: {error}"
    value: list[dict[str, Any]] = [dataclasses.asdict(ranking) for ranking in rankings]
    write_json(path, {"rankings": value})
    return "\n".join([*map(str, rankings), f"the ranking is in {path}"])
