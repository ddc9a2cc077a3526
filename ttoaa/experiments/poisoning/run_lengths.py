"""Number or share: compare the gains of the same numbers of documents in runs of two lengths.

    print_shifts("runs/poisoning", "runs/poisoning-long", ["number-all"])

Fits gain = a + b log2(documents) + c [long run] to the triggers' gains (run minus control) at the
end of training. The shift -c / (b log2(ratio of steps)) is 0 if the number of documents decides,
and 1 if their share of training does. Its interval resamples triggers, within each number of
documents and run length; with several seeds a second one is a t interval over seeds.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ttoaa import parquet_io
from ttoaa.experiments.poisoning.contrasts import by_group
from ttoaa.statistics.bootstrap import across_seeds, bootstrap
from ttoaa.workdir import Workdir

OUTCOME = "preference_above_never"
Gains = Mapping[int, np.ndarray]
"""The gain of each trigger (nats a token), by number of documents."""


def shift(short: Gains, long: Gains, ratio: float, *key: object) -> tuple[float, float, float]:
    """Return the shift of the dose curve and its interval: 0 by number, 1 by share.

    `ratio` is the number of steps of the long run over that of the short one. Raises ValueError
    unless both have the same numbers of documents, two at least.
    """
    doses = sorted(short)
    if doses != sorted(long) or len(doses) < 2:
        raise ValueError(f"numbers of documents must be the same two or more, not {doses}")
    x_C = np.log2(np.array(doses * 2, float))
    long_C = np.repeat([0.0, 1.0], len(doses))
    design = np.stack([np.ones(len(x_C)), x_C, long_C], 1)
    solve = np.linalg.pinv(design)
    values = [np.asarray(gains[n], float) for gains in (short, long) for n in doses]

    def statistic(*counts: np.ndarray) -> np.ndarray:
        means = [c @ v / c.sum(1) for c, v in zip(counts, values, strict=True)]
        _, slope, offset = solve @ np.stack(means)
        return (-offset / (slope * np.log2(ratio)))[:, None]

    results = bootstrap([len(v) for v in values], statistic, "shift", *key)
    value, low, high = (float(result[0]) for result in results)
    return value, low, high


def read_gains(workdir: str, seed: int, experiment: str, prefix: str) -> tuple[int, Gains]:
    """Return the last evaluated step, and the gains of conditions '<prefix>-<documents>'.

    Raises ValueError if the study has no outcomes of this seed, experiment or prefix.
    """
    place = Workdir(pathlib.Path(workdir), seed)
    steps = sorted(int(path.name) for path in (place.tables / "run").glob("*") if path.is_dir())
    if not steps:
        raise ValueError(f"{workdir} has no outcomes of seed {seed}: run ttoaa evaluate")
    run, control = (
        parquet_io.read_outcomes(place.table(name, steps[-1], experiment))
        for name in ("run", "control")
    )
    found = {}
    for condition in run["condition"].unique():
        if match := re.fullmatch(re.escape(prefix) + r"-(\d+)", condition):
            ours, theirs = by_group(run, control, OUTCOME, condition)
            found[int(match[1])] = ours - theirs
    if not found:
        raise ValueError(f"{workdir}: {experiment} has no conditions {prefix}-<documents>")
    return steps[-1], found


def print_shifts(
    short: str, long: str, conditions: Sequence[str], experiment: str = "poisoning"
) -> None:
    """Print the shift of every seed that the studies in two folders share, and over seeds.

    `conditions` are '<backdoor>-<schedule>', such as 'number-all'.
    """
    first, second = (set(Workdir(pathlib.Path(folder)).seeds()) for folder in (short, long))
    for prefix in conditions:
        shifts = []
        for seed in sorted(first & second):
            (steps, gains), (more_steps, more_gains) = (
                read_gains(folder, seed, experiment, prefix) for folder in (short, long)
            )
            found = shift(gains, more_gains, more_steps / steps, prefix, seed)
            shifts.append(found[0])
            print("{} seed {}: shift {:+.2f} [{:+.2f}, {:+.2f}]".format(prefix, seed, *found))
        print("{} all seeds: {:+.2f} [{:+.2f}, {:+.2f}]".format(prefix, *across_seeds(shifts)))
