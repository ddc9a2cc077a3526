"""Figures 3b and 13 of the paper: detection against repetitions and against suffix length."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.experiments.canaries.conditions import PLAIN, RANDOM, RARE, UNLIKELY, Condition
from ttoaa.scoring.membership import AUC, chance_tpr

_TYPES = (PLAIN, RARE, UNLIKELY, RANDOM)


def draw_membership(
    estimates: pd.DataFrame, axes: Any, conditions: Sequence[Condition], outcomes: Mapping[str, str]
) -> None:
    """Draw a row of panels for each statistic and x axis, with a line for each type and seed.

    `outcomes` names the outcome of each statistic (`AUC`, `TPR`). Rows extend below `axes`.
    """
    members = [c for c in conditions if c.repetitions]
    lengths = sorted({c.kind.tokens for c in members} - {0}) or [0]
    repetitions = sorted({c.repetitions for c in members})
    final = estimates[estimates["step"] == estimates["step"].max()]
    axes.set_axis_off()
    axes.get_figure().set_layout_engine("none")  # it does not see inset axes
    nonmembers = next(c.number for c in conditions if not c.repetitions)
    by_length = [
        (
            f"{length} token{'s' * (length > 1)}" if length else "",
            repetitions,
            {(c.kind.type, c.repetitions): c for c in members if c.kind.tokens in (0, length)},
        )
        for length in lengths
    ]
    by_repetitions = [
        (f"{r}×", lengths, {(c.kind.type, c.kind.tokens): c for c in members if c.repetitions == r})
        for r in repetitions
    ]
    rows = [("repetitions in training", by_length)]
    rows += [("tokens of the suffix", by_repetitions)] * (len(lengths) > 1)
    height = 1 if len(outcomes) * len(rows) == 1 else 0.7
    for number, (statistic, (x_label, panels)) in enumerate(itertools.product(outcomes, rows)):
        table = final[final["outcome"] == outcomes[statistic]].set_index(["seed", "condition"])
        chance = 0.5 if statistic == AUC else chance_tpr(nonmembers)
        drawn: list[Any] = []
        for column, panel in enumerate(panels):
            width = 1 / len(panels)
            place = (width * column, 1 - height - 1.1 * number, width - 0.04, height)
            drawn.append(axes.inset_axes(place, sharey=drawn[0] if drawn else None))
            _draw_panel(table, drawn[-1], chance, *panel)
            drawn[-1].tick_params(labelleft=not column)
        drawn[0].set_ylabel("AUC" if statistic == AUC else "TPR at 1% FPR")
        drawn[len(drawn) // 2].set_xlabel(x_label)
        if not number:
            drawn[-1].legend()


def _draw_panel(
    table: pd.DataFrame,
    panel: Any,
    chance: float,
    title: str,
    values: Sequence[int],
    found: Mapping[tuple[str, int], Condition],
) -> None:
    """Draw the estimates of the conditions of each (type, x), where x is one of `values`."""
    seeds = list(table.index.get_level_values("seed").unique())
    for number, kind in enumerate(_TYPES):
        there = [x for x, value in enumerate(values) if (kind, value) in found]
        names = [found[kind, values[x]].name for x in there]
        for k, seed in enumerate(seeds if there else []):
            rows = table.loc[[(seed, name) for name in names]]
            at = np.array(there) + 0.06 * number + 0.02 * k
            shown = kind if k == 0 else None
            panel.plot(at, rows["value"], "o-", color=f"C{number}", label=shown)
            panel.vlines(at, rows["ci_low"], rows["ci_high"], color=f"C{number}")
    panel.axhline(chance, color="gray", linestyle="--", label="chance")
    panel.set_xticks(range(len(values)), [f"{value:,}" for value in values])
    panel.set_title(title)
