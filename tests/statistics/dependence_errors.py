"""How often a dependence matrix errs, by simulation: python -m tests.statistics.dependence_errors

    python -m tests.statistics.dependence_errors --matrices=1000     (a minute of one core)

Prints one JSON line; every entry is [share, low, high] of matrices of nine experiments, with an
exact 95% interval. `fresh`: null matrices, each of null bursts that occur once, in which any cell
interacts; it should be at most 0.05. `relabelled`: 200 null matrices of one set of 40. `power`:
matrices in which a cell with an effect of its detectable size interacts; it should be 0.8.
`equivalent`: cells with an effect as large as the margin that are called equivalent; at most 0.05.
"""

import json

import numpy as np
import pandas as pd
from absl import app, flags

from ttoaa.interactions.matrix import ALPHA, family_places
from ttoaa.interactions.power import false_positives, relabel
from ttoaa.statistics.bootstrap import binomial_interval
from ttoaa.statistics.equivalence import relative_equivalence
from ttoaa.statistics.permutation import paired_max_z
from ttoaa.statistics.power import paired_effect

_MATRICES = flags.DEFINE_integer("matrices", 1000, "simulated matrices of each kind", 10)
_EXPERIMENTS, _BURSTS = 9, 40
_ROWS = _EXPERIMENTS + 2


def correlated(rng, n):
    """Columns that share most of their noise, as outcomes on one model do."""
    return 0.8 * rng.standard_normal() + 0.6 * rng.standard_normal(n)


KINDS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails (t, 3 degrees)": lambda rng, n: rng.standard_t(3, n),
    "correlated columns": correlated,
    "correlated, heavy tails": lambda rng, n: rng.standard_t(3) + 0.6 * rng.standard_t(3, n),
    "answers right of 16": lambda rng, n: rng.binomial(16, 0.1, n) / 16,
}


def null_bursts(rng, draw, bursts=_BURSTS):
    rows = [
        (0, b, "null", f"e{k}", value, np.nan, np.nan)
        for b in range(bursts)
        for k, value in enumerate(draw(rng, _EXPERIMENTS))
    ]
    columns = ("checkpoint", "seed", "row", "experiment", "estimate", "ci_low", "ci_high")
    return pd.DataFrame(rows, columns=list(columns))


def share(found):
    interval = binomial_interval(int(sum(found)), len(found))
    return [round(float(x), 4) for x in (np.mean(found), *interval)]


def fresh(draw, seeds, key, matrices, effect=0.0):
    """Whether any cell interacts, or the first if it has an effect, in each matrix."""
    found = []
    for trial in range(matrices):
        rng = np.random.default_rng([key, seeds, trial])
        bursts = null_bursts(rng, draw, seeds * _ROWS)
        ((_, differences_SxK),) = relabel(bursts, seeds, 1, trial)
        differences_SxK[:, 0] += effect
        p_K = paired_max_z(differences_SxK).p_K
        found.append(bool((p_K[:1] if effect else p_K).min() <= ALPHA))
    return share(found)


def equivalent_at_the_margin(seeds, matrices):
    rng = np.random.default_rng(seeds)
    own = rng.normal(5.0, 0.5, (matrices, seeds))
    effect = 0.2 * 5.0 + rng.normal(0, 0.1, (matrices, seeds))
    pairs = zip(effect, own, strict=True)
    return share([relative_equivalence(d, reference, 0.2).equivalent for d, reference in pairs])


def main(argv):
    matrices = _MATRICES.value
    level = ALPHA / len(family_places(list(range(_EXPERIMENTS))))
    found = {"matrices": matrices, "fresh": {}, "relabelled": {}, "power": {}, "equivalent": {}}
    for seeds in (6, 8, 12):
        for key, (name, draw) in enumerate(KINDS.items()):
            found["fresh"][f"{name}, {seeds} seeds"] = fresh(draw, seeds, key, matrices)
            bursts = null_bursts(np.random.default_rng([key, seeds]), draw)
            rate = false_positives(bursts, seeds, 200)
            found["relabelled"][f"{name}, {seeds} seeds"] = [rate.rate, rate.low, rate.high]
        effect = paired_effect(np.sqrt(2), seeds, alpha=level)
        found["power"][f"{seeds} seeds"] = fresh(KINDS["normal"], seeds, 9, matrices, effect)
        found["equivalent"][f"{seeds} seeds"] = equivalent_at_the_margin(seeds, matrices)
    print(json.dumps(found))


if __name__ == "__main__":
    app.run(main)
