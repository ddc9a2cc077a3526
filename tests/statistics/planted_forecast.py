"""Whether forecasts find planted interactions: python -m tests.statistics.planted_forecast

    python -m tests.statistics.planted_detection --workdir=DIR --checkpoints=300 --burst_steps=25 \
        --share=0.05 --burst_seeds=0,1,2,3
    python -m tests.statistics.planted_forecast --workdir=DIR --checkpoints=300 --burst_steps=25 \
        --share=0.05 --burst_seeds=0,1,2,3

The first command trains the planted rows. The second forecasts them from the checkpoint and prints
one JSON line. All cells are shares of the column's own effect, averaged over seeds.

- `target`: by kind of planted experiment, the measured and the forecast cell of its target
- `largest`: in how many planted rows the target's cell is the largest in size, of all rows
- `separation`: the probability that a target's cell is larger in size than the cell of any other
  pair of different experiments, in planted rows and in the matrix (ties count half)
"""

import json
from typing import Any

import pandas as pd
from absl import app, flags

from tests.statistics.planted_detection import open_bursts, planted_study
from ttoaa import study_flags
from ttoaa.interactions.comparison import FORECASTS, forecast_shares
from ttoaa.interactions.effects import row_effects
from ttoaa.interactions.forecast import forecast_cells, make_forecast
from ttoaa.interactions.planted import CONTRADICTION, ITSELF, NAME, SHARED
from ttoaa.interactions.rows import BurstJob
from ttoaa.parquet_io import read_table

KINDS = (CONTRADICTION, ITSELF, *(f"{SHARED}:{s}" for s in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)))
"""Those with a row of their own that can be forecast: one trigger with two behaviours acts only
together with the other behaviour."""


def main(argv):
    del argv
    handle, bursts = open_bursts()
    seeds = study_flags.parse_integers("burst_seeds", flags.FLAGS.burst_seeds)
    folder, step = bursts.root.parent, bursts.source.step
    names = [each.name for each in bursts.config.experiments]
    path = folder / f"planted-{step}-forecast.parquet"
    forecast = [make_forecast([bursts], seeds, path, path.with_suffix(".json"))]
    measured = [read_table(folder / "step-effects.parquet", "make the matrix again")[0]]
    measured[0] = measured[0][measured[0]["checkpoint"] == step]
    targets = {}
    for kind in KINDS:
        planted, targets[kind] = planted_study(handle, bursts, kind)
        job = BurstJob(planted)
        for seed in seeds:
            forecast.append(pd.DataFrame(forecast_cells(job, seed, [NAME])).assign(row=kind))
            null = bursts.handle(seed).workdir
            effects = row_effects(planted.handle(seed), f"alone/{NAME}", null)
            measured.append(pd.DataFrame(effects).assign(row=kind))
    cells = {"measured": _measured_shares(pd.concat(measured), names)}
    found = pd.concat(forecast).assign(checkpoint=step)
    found = found[found["column"].isin(names)]
    cells |= {kind: forecast_shares(found, step, kind) for kind in FORECASTS}
    print(json.dumps({name: _summary(table, targets) for name, table in cells.items()}))


def _measured_shares(effects: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the mean effects over seeds as shares of own ones, [rows, columns].

    nan where the own effect has the wrong sign.
    """
    rows = effects["row"].str.removeprefix("alone/")
    means = effects.groupby([rows, "experiment"])["estimate"].mean().unstack()
    own = pd.Series({name: means.loc[name, name] for name in names})
    return means[names] / own.where(own > 0)


def _summary(shares: pd.DataFrame, targets: dict[str, str]) -> dict[str, Any]:
    pairs = shares.loc[[*targets, *shares.columns]].abs().stack().dropna()
    hit = pd.Series([targets.get(row) == column for row, column in pairs.index], pairs.index)
    own = pd.Series([row == column for row, column in pairs.index], pairs.index)
    planted, others = pairs[hit], pairs[~hit & ~own]
    above = [(others < x).mean() + (others == x).mean() / 2 for x in planted]
    largest = [shares.loc[row].abs().idxmax() == target for row, target in targets.items()]
    return {
        "target": {row: shares.loc[row, target] for row, target in targets.items()},
        "largest": [sum(largest), len(largest)],
        "separation": float(pd.Series(above).mean()),
        "cells": [len(planted), len(others)],
    }


if __name__ == "__main__":
    app.run(main)
