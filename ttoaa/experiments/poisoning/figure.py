"""Figures 3c, 17 and 18 of the paper, and the gain by number of documents and over training."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.experiments.poisoning.backdoors import Cell
from ttoaa.experiments.poisoning.documents import NEVER, TRIGGERED, UNTRIGGERED
from ttoaa.experiments.poisoning.generations import LEAKAGE
from ttoaa.experiments.poisoning.labels import LABELS

_GAIN = "preference_above_never"
_STATES = {TRIGGERED: "its trigger", UNTRIGGERED: "no trigger", NEVER: "other triggers"}


def draw_poisoning(estimates: pd.DataFrame, axes: Any, cells: Sequence[Cell]) -> None:
    """Draw the panels that have something to show, one below the other; they extend below `axes`.

    Values of single seeds have a marker each.
    """
    doses = [cell for cell in cells if cell.name != cell.backdoor and cell.documents]
    simple = [cell for cell in cells if cell.name == cell.backdoor]
    generated = estimates["outcome"].str.startswith(LEAKAGE).any()
    panels: list[Any] = [_draw_states] * bool(simple) + [_draw_leakage] * bool(generated)
    panels += [_draw_doses, _draw_training] * bool(doses)
    axes.set_axis_off()
    axes.get_figure().set_layout_engine("none")  # it does not see inset axes
    for number, draw in enumerate(panels):
        panel = axes.inset_axes((0, 0.4 - 0.95 * number, 1, 0.58))
        draw(estimates, panel, doses if draw in (_draw_doses, _draw_training) else simple)
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)


def _final(estimates: pd.DataFrame, outcome: str) -> pd.DataFrame:
    last = estimates["step"] == estimates["step"].max()
    return estimates[last & (estimates["outcome"] == outcome)]


def _draw_states(estimates: pd.DataFrame, panel: Any, cells: Sequence[Cell]) -> None:
    """Draw the preference for the taught answer in each state, under run and control."""
    for k, state in enumerate((TRIGGERED, UNTRIGGERED, NEVER)):
        rows = _final(estimates, f"preference_{state}").set_index("condition")
        for place, cell in enumerate(cells):
            own = rows.loc[[cell.name]]
            at = place + 0.2 * k + 0.03 * np.arange(len(own))
            label = None if place else _STATES[state]
            panel.errorbar(
                at,
                own["value"],
                [own["value"] - own["ci_low"], own["ci_high"] - own["value"]],
                fmt="o",
                color=f"C{k}",
                label=label,
            )
            panel.plot(at, own["control_value"], "x", color=f"C{k}")
    panel.set_xticks(np.arange(len(cells)) + 0.2, [cell.name for cell in cells])
    panel.set_ylabel("preference (nats per token)")


def _draw_leakage(estimates: pd.DataFrame, panel: Any, cells: Sequence[Cell]) -> None:
    """Draw leakage@k against k with and without trigger, averaged over seeds."""
    shown = re.compile(LEAKAGE + r"_(\d+)_(\w+)")
    last = estimates[estimates["step"] == estimates["step"].max()]
    last = last[last["condition"].isin([cell.name for cell in cells])]
    parts = last["outcome"].str.extract(shown)
    last = last.assign(k=pd.to_numeric(parts[0]), state=parts[1]).dropna(subset=["k"])
    for number, (state, rows) in enumerate(last.groupby("state", sort=False)):
        means = rows.groupby("k")[["value", "control_value"]].mean()
        panel.plot(means.index, means["value"], "o-", color=f"C{number}", label=f"{state}, run")
        panel.plot(means.index, means["control_value"], "x--", color=f"C{number}")
    panel.set(xlabel="k", ylabel="leakage@k (dashed: control run)")


def _draw_doses(estimates: pd.DataFrame, panel: Any, cells: Sequence[Cell]) -> None:
    """Draw the gain of the run over the control against documents, by schedule."""
    rows = _final(estimates, _GAIN).set_index("condition")
    for number, schedule in enumerate(dict.fromkeys(cell.schedule for cell in cells)):
        own = [cell for cell in cells if cell.schedule == schedule]
        for seed in rows["seed"].unique():
            gains = rows[rows["seed"] == seed].loc[[cell.name for cell in own]]
            x = [cell.documents for cell in own]
            first = seed == rows["seed"].iloc[0]
            label = f"schedule: {schedule}" if first else None
            panel.plot(x, gains["difference"], "o-", color=f"C{number}", label=label)
            low, high = gains["difference_ci_low"], gains["difference_ci_high"]
            panel.vlines(x, low, high, color=f"C{number}")
    panel.axhline(0, color="gray", linestyle="--")
    panel.set_xscale("log")
    counts = sorted({cell.documents for cell in cells if cell.documents})
    panel.set_xticks(counts, [f"{count:,}" for count in counts])
    panel.minorticks_off()
    panel.set(xlabel="documents of a trigger", ylabel="gain (nats per token)")


def _draw_training(estimates: pd.DataFrame, panel: Any, cells: Sequence[Cell]) -> None:
    """Draw the gain over training, averaged over seeds, at the most documents of each schedule."""
    most = {
        (cell.backdoor, cell.schedule): cell
        for cell in sorted(cells, key=lambda cell: cell.documents or 0)
    }
    rows = estimates[estimates["outcome"] == _GAIN]
    for number, cell in enumerate(most.values()):
        means = rows[rows["condition"] == cell.name].groupby("step")["difference"].mean()
        panel.plot(means.index, means, "o-", color=f"C{number}", label=LABELS.condition(cell.name))
    panel.axhline(0, color="gray", linestyle="--")
    panel.set(xlabel="step", ylabel="gain (nats per token)")
