"""The dependence matrix of one checkpoint: effects of experiments on each other's outcomes, tested.

Rows are runs, columns are primary outcomes. The tested family has all off-diagonal cells
(`alone/r` in column j), the contrast of all experiments with one (`run` less `alone/j` in column
j), and, where these runs exist, of all with all but one (`run` less `without/r` in column j).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.runs import CONTROL, RUN
from ttoaa.statistics.bootstrap import across_seeds, t_tests
from ttoaa.statistics.equivalence import relative_equivalence
from ttoaa.statistics.multiplicity import holm
from ttoaa.statistics.permutation import paired_max_z
from ttoaa.statistics.power import paired_effect, units_for_equivalence, units_to_detect

ALPHA = 0.05
MARGIN = 0.2
"""Default margin of equivalence, as a share of the column's own effect."""
FEWEST_SEEDS = 6
"""The smallest number of paired seeds with which a sign-flip test can reach p <= 0.05."""
INTERACTS, EQUIVALENT = "interacts", "equivalent within the margin"
UNDECIDED = "not enough power"
VERDICTS = (INTERACTS, EQUIVALENT, UNDECIDED)


Place = tuple[str, str, str]
"""Row, the run that is subtracted from it, and column of a cell."""


class IncompleteMatrix(ValueError):
    """Seeds or rows of a matrix are missing: more bursts are needed."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of the matrix, in the unit of its column; positive as the experiment expects."""

    row: str
    minus: str
    """The run that is subtracted: `control` is the null row."""
    column: str
    estimate: float
    ci_low: float
    ci_high: float
    """Bounds of the 95% t interval over seeds; each seed has items of its own."""
    items_low: float
    items_high: float
    """Bounds if all seeds had the same items: wider by the interval over items, in squares."""
    deviation: float
    """Standard deviation over seeds."""
    p: float | None = None
    """Family-wise, by sign flips with step-down; None outside the tested family. So are:"""
    p_holm: float | None = None
    """Holm's p over t tests, which assume normal effects."""
    share: float | None = None
    """The estimate as a share of the column's own effect, with a 90% interval (Fieller); nan where
    the own effect is not shown to be positive."""
    share_low: float | None = None
    share_high: float | None = None
    p_equivalence: float | None = None
    """Of this cell alone: at most 5% of cells beyond the margin are called equivalent."""
    p_equivalence_holm: float | None = None
    detectable: float | None = None
    """The effect that is found with power 0.8, by a t test with Bonferroni's level."""
    powered: bool | None = None
    """Whether the detectable effect is within the margin."""
    verdict: str | None = None
    seeds: int | None = None
    """The number of seeds that would decide a cell without enough power: to find an effect as large
    as the margin, and to call an effect of zero equivalent, each with power 0.8. None if it exceeds
    `power.MOST_UNITS`, or if the column has no own effect to set a margin."""


@dataclasses.dataclass(frozen=True)
class Matrix:
    checkpoint: int
    seeds: tuple[int, ...]
    experiments: tuple[str, ...]
    margin: float
    cells: tuple[Cell, ...]
    """The tested family, then the own effects and those of all experiments together."""

    @property
    def smallest_p(self) -> float:
        """2/2^s with s paired seeds: both all signs and their opposites are as extreme."""
        return smallest_p(len(self.seeds))

    @property
    def tested(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.verdict is not None]

    def find(self, row: str, column: str, minus: str = CONTROL) -> Cell | None:
        """Return the cell at a place, or None."""
        place = (row, minus, column)
        return next((c for c in self.cells if (c.row, c.minus, c.column) == place), None)


def smallest_p(seeds: int) -> float:
    return 2.0 ** (1 - seeds)


def family_places(experiments: Sequence[str], without: Sequence[str] = ()) -> list[Place]:
    """Return the tested family: of n experiments n(n - 1) effects, n contrasts, and more for the
    experiments with a run `without/NAME`."""
    pairs = [(r, j) for r in experiments for j in experiments if r != j]
    return [
        *((f"alone/{r}", CONTROL, j) for r, j in pairs),
        *((RUN, f"alone/{j}", j) for j in experiments),
        *((RUN, f"without/{r}", j) for r, j in pairs if r in without),
    ]


def measure(effects: pd.DataFrame, margin: float = MARGIN) -> list[Matrix]:
    """Test the effects of every checkpoint; columns as in `effects.COLUMNS`.

    `margin` is a share of each column's own effect, declared before looking at results. Each
    checkpoint is a family of its own. Raises ValueError for fewer than six seeds, a missing or
    repeated effect, or a margin that is not between 0 and 1.
    """
    check_margin(margin)
    if effects.empty:
        raise IncompleteMatrix(
            "a dependence matrix needs effects: run bursts of at least six seeds"
        )
    return [
        _measure(int(checkpoint), rows, margin)
        for checkpoint, rows in effects.groupby("checkpoint", sort=True)
    ]


def _measure(checkpoint: int, effects: pd.DataFrame, margin: float) -> Matrix:
    experiments = tuple(effects["experiment"].unique())
    names = set(effects["row"])
    without = [name for name in experiments if f"without/{name}" in names]
    seeds = tuple(sorted(int(seed) for seed in effects["seed"].unique()))
    check_seeds(len(seeds))
    values = pivot_effects(effects, "estimate", experiments, without, seeds, checkpoint)
    reach = effects.assign(reach=(effects["ci_high"] - effects["ci_low"]) / 2)
    items = pivot_effects(reach, "reach", experiments, without, seeds, checkpoint, complete=False)
    own = {name: values[f"alone/{name}", name].to_numpy() for name in experiments}

    def difference(place: Place) -> np.ndarray:
        row, minus, column = place
        d_S = values[row, column].to_numpy()
        return d_S if minus == CONTROL else d_S - values[minus, column].to_numpy()

    def describe(place: Place) -> Cell:
        row, minus, column = place
        runs = [row] if minus == CONTROL else [row, minus]
        reaches = [items[run, column].to_numpy() for run in runs]
        return _describe(place, difference(place), math.sqrt(sum(np.mean(r**2) for r in reaches)))

    family = family_places(experiments, without)
    others = [(f"alone/{name}", CONTROL, name) for name in experiments]
    others += [(RUN, CONTROL, name) for name in experiments]
    differences = [difference(place) for place in family]
    tested = _judge([describe(place) for place in family], differences, own, margin)
    return Matrix(checkpoint, seeds, experiments, margin, (*tested, *map(describe, others)))


def check_margin(margin: float) -> None:
    if not 0 < margin < 1:
        raise ValueError(f"the margin is a share of the own effect, in (0, 1), not {margin}")


def check_seeds(seeds: int) -> None:
    """Refuse too few seeds in one line."""
    if seeds < FEWEST_SEEDS:
        floor = f"{smallest_p(seeds):.3g}" if seeds else "1"
        raise IncompleteMatrix(
            f"a dependence matrix needs at least {FEWEST_SEEDS} seeds, not {seeds}: with {seeds} "
            f"paired seeds no p-value is below 2/2^{seeds} = {floor}; run more (8 by default)"
        )


def pivot_effects(
    effects: pd.DataFrame,
    column: str,
    experiments: Sequence[str],
    without: Sequence[str],
    seeds: Sequence[int],
    checkpoint: int,
    complete: bool = True,
) -> pd.DataFrame:
    """Return one column of effects [seeds, (row, experiment)], in all cells of a matrix.

    Raises IncompleteMatrix, if it shall be `complete`, for a missing effect, and ValueError for one
    that occurs twice.
    """
    twice = effects.duplicated(["seed", "row", "experiment"])
    if twice.any():
        first = effects[twice].iloc[0]
        raise ValueError(
            f"checkpoint {checkpoint}, seed {first['seed']}: the effect of {first['row']} on "
            f"{first['experiment']} occurs twice"
        )
    runs = [*(f"alone/{name}" for name in experiments), RUN, *(f"without/{n}" for n in without)]
    wanted = pd.MultiIndex.from_product([runs, experiments])
    table = effects.pivot(index="seed", columns=["row", "experiment"], values=column)
    table = table.astype(float).reindex(index=list(seeds), columns=wanted)
    missing = ~np.isfinite(table.to_numpy())
    if complete and missing.any():
        seed, place = np.argwhere(missing)[0]
        row, name = wanted[place]
        raise IncompleteMatrix(
            f"checkpoint {checkpoint}, seed {seeds[seed]}: the effect of {row} on {name} is "
            f"missing ({missing.sum()} missing in all): run the dependence command again, or leave "
            "the seed out"
        )
    return table


def _describe(place: Place, d_S: np.ndarray, item_reach: float) -> Cell:
    mean, low, high = across_seeds(d_S.tolist())
    reach = math.hypot(high - mean, item_reach)
    deviation = float(d_S.std(ddof=1))
    return Cell(*place, mean, low, high, mean - reach, mean + reach, deviation)


def _judge(
    cells: Sequence[Cell],
    differences: Sequence[np.ndarray],
    own: Mapping[str, np.ndarray],
    margin: float,
) -> list[Cell]:
    """Add tests and verdicts to the cells of the family; differences are [seeds] per cell."""
    p_K = paired_max_z(np.stack(differences, 1)).p_K
    holm_K = holm(t_tests(np.stack(differences, 1)))
    found = [
        relative_equivalence(d_S, own[cell.column], margin)
        for cell, d_S in zip(cells, differences, strict=True)
    ]
    equivalence_K = holm([1.0 if math.isnan(each.p) else each.p for each in found])
    judged, level = [], ALPHA / len(cells)
    for k, (cell, d_S) in enumerate(zip(cells, differences, strict=True)):
        limit = margin * float(own[cell.column].mean())
        detectable = paired_effect(cell.deviation, len(d_S), alpha=level)
        equal = found[k]
        verdict = INTERACTS if p_K[k] <= ALPHA else EQUIVALENT if equal.equivalent else UNDECIDED
        # The margin is uncertain too: its two sides have deviations of their own.
        sides = [(margin * own[cell.column] + sign * d_S).std(ddof=1) for sign in (-1, 1)]
        judged.append(
            dataclasses.replace(
                cell,
                p=float(p_K[k]),
                p_holm=float(holm_K[k]),
                share=equal.difference,
                share_low=equal.low,
                share_high=equal.high,
                p_equivalence=equal.p,
                p_equivalence_holm=float(equivalence_K[k]),
                detectable=detectable,
                powered=bool(detectable <= limit),
                verdict=verdict,
                seeds=deciding_seeds(cell.deviation, float(max(sides)), limit, level)
                if verdict == UNDECIDED
                else None,
            )
        )
    return judged


def deciding_seeds(
    deviation: float,
    side: float,
    limit: float,
    level: float,
    fewest: int = FEWEST_SEEDS,
    per_seed: tuple[float, float] = (1.0, 1.0),
) -> int | None:
    """Return `Cell.seeds`, `fewest` at least, for a margin in the column's unit.

    `deviation` is that of the effect over seeds, `side` that of margin and effect together,
    `per_seed` the degrees of freedom that a seed adds to both.
    """
    if limit <= 0:
        return None
    needed = (
        units_to_detect(deviation, limit, alpha=level, per_unit=per_seed[0]),
        units_for_equivalence(side, limit, per_unit=per_seed[1]),
    )
    known = [number for number in needed if number is not None]
    return max(fewest, *known) if len(known) == len(needed) else None
