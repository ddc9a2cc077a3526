"""Power of a dependence matrix, from a few null bursts: what each column could detect, and cost.

A null burst is one more burst without experiments, on another stretch of the stream, scored like
the null row of its seed. Its effects have the columns of `effects.COLUMNS`. They vary more than
off-diagonal effects of a matrix, whose rows share the stream of their seed, so the power of these
cells is a lower bound. Contrasts of all experiments with one can vary more than null bursts, since
seeds differ in how well they learn the column's own items. Two seeds of any rows show the noise of
off-diagonal effects itself (`paired_noise`).
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.interactions.matrix import (
    ALPHA,
    FEWEST_SEEDS,
    MARGIN,
    Place,
    check_seeds,
    deciding_seeds,
    family_places,
)
from ttoaa.runs import CONTROL
from ttoaa.statistics.bootstrap import binomial_interval, keyed_rng
from ttoaa.statistics.permutation import paired_max_z
from ttoaa.statistics.power import paired_effect

_MANY_SEEDS = 32
"""More seeds than this cost more than longer bursts do."""


@dataclasses.dataclass(frozen=True)
class ColumnPower:
    """What the off-diagonal cells of one column could detect."""

    column: str
    deviation: float
    """Standard deviation of null effects over bursts."""
    paired: float | None
    """That of effects of other experiments over seeds, if it is known: it then decides the rest."""
    detectable: float
    """The effect that is found with power 0.8, in the column's unit."""
    own: float | None
    """The experiment's own effect, if it is known; the margin is a share of it."""
    needed_seeds: int | None
    """Seeds at which an effect as large as the margin is found; None if unknown or too many."""
    item_share: float | None
    """Share of the null variance that the sampling of items explains."""
    advice: str


@dataclasses.dataclass(frozen=True)
class Preview:
    seeds: int
    rows: int
    """Rows of the matrix, with the null row."""
    seconds: float
    """Cost of all rows and seeds."""
    columns: tuple[ColumnPower, ...]


def preview(
    nulls: pd.DataFrame,
    seeds: int,
    seconds_per_row: float,
    own: Mapping[str, float] | None = None,
    margin: float = MARGIN,
    paired: Mapping[str, float] | None = None,
) -> Preview:
    """Predict the power of a matrix of these experiments from null bursts, and its cost.

    `own` has the experiments' own effects and `paired` their noise (see `paired_noise`), as far as
    they are known. Raises ValueError for fewer than six seeds or six null bursts.
    """
    bursts = null_table(nulls)
    check_nulls(len(bursts), seeds)
    names = list(bursts.columns)
    level, own, paired = ALPHA / len(family_places(names)), own or {}, paired or {}
    columns = []
    for name in names:
        deviation = float(bursts[name].std(ddof=1))
        rows = nulls[nulls["experiment"] == name]
        errors = (rows["ci_high"] - rows["ci_low"]).to_numpy(float) / (2 * 1.96)
        explained = float(np.mean(errors**2)) / deviation**2 if deviation else None
        item_share = None if explained is None or np.isnan(explained) else min(1.0, explained)
        noise = paired.get(name, deviation)
        detectable = paired_effect(noise, seeds, alpha=level)
        limit = margin * own[name] if name in own else 0.0
        needed = deciding_seeds(noise, noise, limit, level)
        advice = _advise(name in own, limit, detectable, needed, item_share)
        columns.append(
            ColumnPower(
                name,
                deviation,
                paired.get(name),
                detectable,
                own.get(name),
                needed,
                item_share,
                advice,
            )
        )
    rows_of_matrix = len(names) + 2
    cost = rows_of_matrix * seeds * seconds_per_row
    return Preview(seeds, rows_of_matrix, cost, tuple(columns))


def to_markdown(found: Preview) -> str:
    """Return the preview as a table, with a line on its cost."""
    lines = [
        f"{found.seeds} seeds of {found.rows} rows take {found.seconds / 60:.1f} minutes.",
        "",
        "| column | null noise | paired | detectable | own effect | detectable / own | advice |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found.columns:
        own, share = "unknown", "–"
        if each.own is not None:
            own = f"{each.own:.2g}"
            share = f"{each.detectable / each.own:.0%}" if each.own > 0 else "–"
        lines.append(
            f"| {each.column} | {each.deviation:.2g} | "
            f"{'unknown' if each.paired is None else format(each.paired, '.2g')} | "
            f"{each.detectable:.2g} | {own} | {share} | {each.advice} |"
        )
    return "\n".join(lines)


def _advise(
    known: bool, limit: float, detectable: float, needed: int | None, item_share: float | None
) -> str:
    if not known:
        return "run the experiment alone first: its own effect sets the margin"
    if limit <= 0:
        return "longer bursts or more tokens: the experiment has no effect of the expected sign"
    if detectable <= limit:
        return "enough"
    if item_share is not None and item_share > 0.5:
        return "more scored items: they explain most of the noise"
    if needed is not None and needed <= _MANY_SEEDS:
        return f"{needed} seeds"
    return "longer bursts or more tokens, so that the own effect exceeds the noise"


def paired_noise(effects: pd.DataFrame) -> dict[str, float]:
    """Return the standard deviation over seeds of other experiments' effects, by column.

    `effects` has the columns of `effects.COLUMNS`; variances are averages over rows with two seeds
    or more. Columns without such a row are left out.
    """
    others = effects[effects["row"].str.startswith("alone/")]
    others = others[others["row"] != "alone/" + others["experiment"]]
    variances = others.groupby(["experiment", "row"])["estimate"].var().groupby("experiment").mean()
    return {str(name): float(np.sqrt(value)) for name, value in variances.dropna().items()}


def check_nulls(bursts: int, seeds: int) -> None:
    """Raise ValueError for fewer than six seeds or null bursts."""
    check_seeds(seeds)
    if bursts < FEWEST_SEEDS:
        raise ValueError(f"power needs at least {FEWEST_SEEDS} null bursts, not {bursts}")


def null_table(nulls: pd.DataFrame) -> pd.DataFrame:
    """Return null effects [bursts, experiments]; ValueError for missing ones."""
    table = nulls.pivot(
        index=["checkpoint", "seed", "row"], columns="experiment", values="estimate"
    ).astype(float)
    table = table[list(nulls["experiment"].unique())]
    if missing := int((~np.isfinite(table.to_numpy())).sum()):
        raise ValueError(f"null bursts need every outcome, and {missing} are missing")
    return table


def relabel(
    nulls: pd.DataFrame, seeds: int, matrices: int, *key: object
) -> Iterator[tuple[list[Place], np.ndarray]]:
    """Yield null matrices: the tested places, and their differences [seeds, cells].

    Each matrix names null bursts at random as the rows of its seeds, the null row among them. No
    burst occurs twice in one row, or in two rows of one seed, and none occurs twice at all if there
    are enough. Seeds that share bursts are less alike than others, which makes errors rarer than
    they are. Raises ValueError for fewer bursts than rows or seeds.
    """
    table = null_table(nulls)
    bursts_BxC, names = table.to_numpy(), list(table.columns)
    places = family_places(names)
    runs = list(dict.fromkeys(run for place in places for run in (CONTROL, *place[:2])))
    if len(table) < max(len(runs), seeds):
        raise ValueError(
            f"{len(runs)} rows and {seeds} seeds need as many null bursts, not {len(table)}"
        )
    row_K, minus_K = ([runs.index(place[i]) for place in places] for i in (0, 1))
    column_K = [names.index(place[2]) for place in places]
    rng = keyed_rng("null matrices", *key)
    for _ in range(matrices):
        order_B = rng.permutation(len(table))
        if len(table) >= seeds * len(runs):
            burst_SxR = order_B[: seeds * len(runs)].reshape(seeds, -1)
        else:
            row_R = rng.permutation(len(table))[: len(runs)]
            seed_S = rng.permutation(len(table))[:seeds]
            burst_SxR = order_B[(row_R + seed_S[:, None]) % len(table)]
        row_SxK, minus_SxK = (bursts_BxC[burst_SxR[:, k], column_K] for k in (row_K, minus_K))
        yield places, row_SxK - minus_SxK


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of matrices with its exact 95% interval.

    The interval takes matrices as independent; those of few null bursts are less so.
    """

    rate: float
    low: float
    high: float
    matrices: int


def _rate(found: Sequence[bool]) -> Rate:
    low, high = binomial_interval(sum(found), len(found))
    return Rate(sum(found) / len(found), low, high, len(found))


def false_positives(nulls: pd.DataFrame, seeds: int = 8, matrices: int = 200) -> Rate:
    """Return the share of relabelled null matrices in which any cell interacts."""
    check_seeds(seeds)
    return _rate(
        [
            bool((paired_max_z(differences_SxK).p_K <= ALPHA).any())
            for _, differences_SxK in relabel(nulls, seeds, matrices)
        ]
    )


def detection_rate(
    nulls: pd.DataFrame,
    planted: Sequence[float],
    place: Place,
    seeds: int = 8,
    matrices: int = 200,
) -> Rate:
    """Return the share of null matrices in which a planted effect's cell interacts.

    `planted` has effects of one strength, drawn at random for each seed: measured ones, or a single
    number; `place` is (row, minus, column).
    """
    check_seeds(seeds)
    rng, found = keyed_rng("planted", *place), []
    for places, differences_SxK in relabel(nulls, seeds, matrices):
        k = places.index(place)
        differences_SxK[:, k] += rng.choice(np.asarray(planted, float), seeds)
        found.append(bool(paired_max_z(differences_SxK).p_K[k] <= ALPHA))
    return _rate(found)


def paired_detection_rate(
    effects: pd.DataFrame, planted: Sequence[float], place: Place, matrices: int = 200
) -> Rate:
    """Return the same next to the cells of a measured matrix, whose seeds change signs at random.

    `effects` has one checkpoint of a complete matrix, with the columns of `effects.COLUMNS`. The
    planted effects, which have noise of their own, stand in place of the cell's.
    """
    table = effects.pivot(index="seed", columns=["row", "experiment"], values="estimate")
    check_seeds(len(table))
    places = family_places(list(effects["experiment"].unique()))
    differences_SxK = np.stack(
        [
            table[row, name] - (0.0 if minus == CONTROL else table[minus, name])
            for row, minus, name in places
        ],
        1,
    ).astype(float)
    rng, found, k = keyed_rng("paired planted", *place), [], places.index(place)
    for _ in range(matrices):
        signs_S = rng.choice([-1.0, 1.0], len(table))
        matrix_SxK = differences_SxK * signs_S[:, None]
        matrix_SxK[:, k] = rng.choice(np.asarray(planted, float), len(table))
        found.append(bool(paired_max_z(matrix_SxK).p_K[k] <= ALPHA))
    return _rate(found)


def detected_strength(rates: Mapping[float, Rate], power: float = 0.8) -> float | None:
    """Return the strength that is detected with this probability, interpolated between strengths.

    None if no strength is detected as often. Rates are made monotone first.
    """
    strengths = sorted(rates)
    shares = np.maximum.accumulate([rates[strength].rate for strength in strengths])
    if not len(shares) or shares[-1] < power:
        return None
    k = int(np.argmax(shares >= power))
    if k == 0:
        return strengths[0]
    return float(np.interp(power, shares[k - 1 : k + 1], strengths[k - 1 : k + 1]))
