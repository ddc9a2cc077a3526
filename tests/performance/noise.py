"""What noise costs a training step: python -m tests.performance.noise --workdir=DIR

DIR is a study that has been prepared and planned. Three kinds of step take turns in one process,
loader, transfer, update and reading the metrics included: those of a run without noise, those of a
run with noise whose batch has none (the loader looks, the program is the same), and those in which
every row has noise. The figures are ratios of the minima. Prints one JSON line.
"""

import json
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Batch, batches
from ttoaa.data.order import Order
from ttoaa.planning.noise import NOISE_KEY, NOISE_SCALE, NoiseRows, row_keys
from ttoaa.planning.plan import Plan
from ttoaa.training.device_feed import place_batch
from ttoaa.training.topology import pin_cores, split_cpu
from ttoaa.training_job import compiled_step

_REPEATS = flags.DEFINE_integer("repeats", 30, "timed steps of each kind", lower_bound=10)
KINDS = ("none", "unmarked", "marked")


def add_noise(step: int, batch: Batch) -> Batch:
    """Mark every row, as `NoiseRows` does."""
    scale = np.zeros((len(batch["position"]), 2), np.float32)
    scale[:, 1] = 1
    return {**batch, NOISE_KEY: row_keys(0, batch["position"]), NOISE_SCALE: scale}


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = config.workdir_from_flags()
    study, _ = config.load([workdir.config])
    pin_cores()
    split_cpu(study.geometry.batch, study.layout)
    geometry, corpus = study.geometry, Corpus.open(workdir.corpus)
    plan = Plan.open(workdir.plan)
    order = Order(**plan.contents["order"])
    program, rows = compiled_step(study), np.arange(geometry.batch)
    plain, noisy = program.compile(), program.compile(noisy=True)

    transforms = {"none": [], "unmarked": [NoiseRows(plan)], "marked": [add_noise]}
    loaders = {k: batches(corpus, order, geometry, transforms[k]) for k in KINDS}
    loaders["unmarked"] = (batch for batch in loaders["unmarked"] if NOISE_KEY not in batch)
    states = {k: program.init(0) for k in KINDS}
    seconds: dict[str, list[float]] = {k: [] for k in KINDS}
    for repeat in range(_REPEATS.value + 2):
        for kind in KINDS if repeat % 2 else reversed(KINDS):
            start = time.perf_counter()
            batch = next(loaders[kind])
            marked = NOISE_KEY in batch
            placed = place_batch(batch, rows, program.noisy_batch if marked else program.batch)
            states[kind], metrics = (noisy if marked else plain)(states[kind], placed)
            jax.tree.map(np.asarray, metrics)
            if repeat >= 2:  # the first ones fill caches
                seconds[kind].append(time.perf_counter() - start)
    least = {k: min(seconds[k]) for k in KINDS}
    median = {k: float(np.median(seconds[k])) for k in KINDS}
    print(
        json.dumps(
            {
                **{f"{k}_ms": round(1e3 * least[k], 2) for k in KINDS},
                **{f"{k}_ratio": round(least[k] / least["none"], 4) for k in KINDS[1:]},
                **{
                    f"{k}_ratio_of_medians": round(median[k] / median["none"], 4) for k in KINDS[1:]
                },
                "tokens": geometry.batch * geometry.length,
                "parameters": study.model.num_params(),
                "repeats": _REPEATS.value,
            }
        )
    )


if __name__ == "__main__":
    app.run(main)
