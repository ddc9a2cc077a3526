"""Figures 3b and 13 of the paper: detection against repetitions and against suffix length."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.experiments.canaries.conditions import PLAIN, RANDOM, RARE, UNLIKELY, Condition
from ttoaa.scoring.membership import AUC, chance_tpr

_TYPES = (PLAIN, RARE, UNLIKELY, RANDOM)
_LABELS = {AUC: "AUC"}


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
    nonmembers = next(c.number for c in conditions if not c.repetitions)
    row = 0
    for statistic, outcome in outcomes.items():
        table = final[final["outcome"] == outcome].set_index(["seed", "condition"])
        chance = 0.5 if statistic == AUC else chance_tpr(nonmembers)
        label = _LABELS.get(statistic, "TPR at 1% FPR")
        panels = [
            (
                f"{length} tokens" if length else "",
                "repetitions in training",
                repetitions,
                {(c.kind.type, c.repetitions): c for c in members if c.kind.tokens in (0, length)},
            )
            for length in lengths
        ]
        _draw_row(table, axes, row, label, chance, panels)
        row += 1
        if len(lengths) > 1:
            panels = [
                (
                    f"{r} repetitions",
                    "tokens of the canary",
                    lengths,
                    {(c.kind.type, c.kind.tokens): c for c in members if c.repetitions == r},
                )
                for r in repetitions
            ]
            _draw_row(table, axes, row, label, chance, panels)
            row += 1


_Panel = tuple[str, str, Sequence[int], Mapping[tuple[str, int], Condition]]
"""Title, label and values of the x axis, and the condition of each (type, x)."""


def _draw_row(
    table: pd.DataFrame, axes: Any, row: int, label: str, chance: float, panels: Sequence[_Panel]
) -> None:
    seeds = list(table.index.get_level_values("seed").unique())
    width = 1 / len(panels)
    for column, (title, x_label, values, found) in enumerate(panels):
        panel = axes.inset_axes((width * column, -1.3 * row, width - 0.07, 1))
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
        panel.set_xlabel(x_label)
        panel.set_title(f"{label}, {title}" if title else label)
    if row == 0:
        panel.legend()
