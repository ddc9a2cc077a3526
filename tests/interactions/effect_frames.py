"""Made-up effects of bursts."""

import numpy as np
import pandas as pd


def effects(
    seeds=8, n=4, planted=(), noise=0.2, own=5.0, without=(), checkpoint=10, seed=0, control=0.0
):
    """Effects of n experiments; `planted` has (row, column, effect), `control` is the noise of the
    control run, which all rows of a seed share."""
    rng, names, rows = np.random.default_rng(seed), [f"e{k}" for k in range(n)], []
    of_control = np.random.default_rng([seed, 1]).normal(0, control, (seeds, n))
    extra = {(row, column): effect for row, column, effect in planted}
    runs = [*(f"alone/{name}" for name in names), "run", *(f"without/{w}" for w in without)]
    for s in range(seeds):
        for run in runs:
            for name in names:
                has_it = run in ("run", f"alone/{name}") or (
                    run.startswith("without/") and run != f"without/{name}"
                )
                value = own * has_it + extra.get((run, name), 0) + noise * rng.normal()
                value -= of_control[s, names.index(name)]
                rows.append((checkpoint, s, run, name, value, value - 0.3, value + 0.3))
    return _frame(rows)


def nulls(bursts=40, n=9, draw=np.random.Generator.standard_normal, seed=0):
    """Null effects; `draw(rng, n)` makes those of one burst."""
    rng = np.random.default_rng(seed)
    return _frame(
        [
            (10, b, "reordered", f"e{k}", value, value - 0.5, value + 0.5)
            for b in range(bursts)
            for k, value in enumerate(draw(rng, n))
        ]
    )


def _frame(rows):
    columns = ("checkpoint", "seed", "row", "experiment", "estimate", "ci_low", "ci_high")
    return pd.DataFrame(rows, columns=list(columns))
