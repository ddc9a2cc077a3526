"""How often the judgement of full runs errs: python -m tests.statistics.split_plot_errors

    python -m tests.statistics.split_plot_errors --matrices=2000     (a minute of one core)

Prints one JSON line; every entry is [share, low, high] with an exact 95% interval, of simulated
matrices of ten experiments. `interacts`: null matrices in which any cell interacts (at most 0.05).
`equivalent`: cells with an effect as large as the margin that are called equivalent (at most 0.05).
`power`: cells with an effect of five standard errors that interact. `ratio` is the largest variance
of runs with the experiment relative to those without: it differs between outcomes, log-uniformly
from 1.
"""

import json

import numpy as np
from absl import app, flags

from ttoaa.interactions.full_matrix import WITH, column_weights
from ttoaa.interactions.matrix import ALPHA, MARGIN
from ttoaa.statistics.bootstrap import binomial_interval
from ttoaa.statistics.split_plot import fit

_MATRICES = flags.DEFINE_integer("matrices", 2000, "simulated matrices of each kind", 10)
N = 10
_TESTED = N  # of each column: N - 1 other experiments and the contrast of all with one
OWN, OWN_SPREAD = 50.0, 5.0
KINDS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails (t, 5 degrees)": lambda rng, shape: rng.standard_t(5, shape),
    "heavy tails (t, 3 degrees)": lambda rng, shape: rng.standard_t(3, shape),
    "answers right of 16": lambda rng, shape: (rng.binomial(16, 0.1, shape) - 1.6) / 4,
    "correlated columns": lambda rng, shape: (
        0.8 * rng.standard_normal((shape[0], 1, *shape[2:])) + 0.6 * rng.standard_normal(shape)
    ),
}


def matrices(kind, ratio, seeds, number):
    """Null effects [matrices, outcomes, runs, seeds] of runs arranged as `column_weights` says."""
    rng = np.random.default_rng([len(kind), int(ratio), seeds])
    noise = KINDS[kind](rng, (number, N, N + 2, seeds))
    noise[:, :, -WITH:] *= np.sqrt(ratio ** rng.uniform(0, 1, (number, N, 1, 1)))
    values = noise + rng.standard_normal((number, N, 1, seeds))
    values[:, :, -WITH:] += rng.normal(OWN, OWN_SPREAD, (number, N, 1, seeds))
    return values


def interacts(values):
    """Whether Holm's procedure finds anything, [matrices], and p-values [matrices, N, tested]."""
    p = fit(values, WITH).contrast(column_weights(N)[:_TESTED]).p_two_sided()
    return p.min((1, 2)) * p[0].size <= ALPHA, p


def equivalent(values):
    """Whether the tested cells are called equivalent, [matrices, outcomes, tested]."""
    weights, design = column_weights(N), fit(values, WITH)
    sides = (MARGIN * weights[_TESTED] + sign * weights[:_TESTED] for sign in (-1, 1))
    return np.max([design.contrast(side).p_positive() for side in sides], 0) < ALPHA


def at_the_margin(values):
    """Add the margin to one other experiment's effects and take it from those of all."""
    shifted = values.copy()
    shifted[:, :, 1] += MARGIN * OWN
    shifted[:, :, -1] -= MARGIN * OWN
    return shifted


def share(found):
    interval = binomial_interval(int(np.sum(found)), np.size(found))
    return [round(float(x), 4) for x in (np.mean(found), *interval)]


def main(argv):
    number, found = _MATRICES.value, {"matrices": _MATRICES.value}
    for kind in KINDS:
        for ratio in (1, 10, 100):
            for seeds in (3, 5):
                values = matrices(kind, ratio, seeds, number)
                called = equivalent(at_the_margin(values))
                shifted = values.copy()
                shifted[:, 0, 1] += 5 * np.sqrt(
                    2 * fit(values, WITH).variance[..., 0].mean() / seeds
                )
                found[f"{kind}, ratio {ratio}, {seeds} seeds"] = {
                    "interacts": share(interacts(values)[0]),
                    "equivalent": share(called[..., 0]),
                    "equivalent, contrasts": share(called[..., -1]),
                    "power": share(interacts(shifted)[1][:, 0, 0] * N * N <= ALPHA),
                }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
