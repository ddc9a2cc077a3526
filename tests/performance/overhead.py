"""What experiments cost a training step: python -m tests.performance.overhead --workdir=DIR

DIR is a study that has been prepared and planned. Steps with the study's plan and steps without any
alternate in one process, loader, transfer, update and reading the metrics included, probes left
out; the figure is the ratio of the two minima. Prints one JSON line.
"""

import json
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Batch, batches
from ttoaa.data.order import Order
from ttoaa.planning.injection import Overlay
from ttoaa.planning.plan import Plan
from ttoaa.training.device_feed import place_batch
from ttoaa.training.topology import pin_cores, split_cpu
from ttoaa.training_job import compiled_step

_REPEATS = flags.DEFINE_integer("repeats", 40, "timed steps of each kind", lower_bound=30)


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = config.workdir_from_flags()
    study, _ = config.load([workdir.config])
    pin_cores()
    split_cpu(study.geometry.batch, study.layout)
    geometry = study.geometry
    corpus, plan = Corpus.open(workdir.corpus), Plan.open(workdir.plan)
    order = Order(**plan.contents["order"])
    program = compiled_step(study)
    step, rows = program.compile(), np.arange(geometry.batch)

    def timed(loader: Iterator[Batch], state: dict) -> tuple[float, dict, float]:
        start = time.perf_counter()
        batch = next(loader)
        state, metrics = step(state, place_batch(batch, rows, program.batch))
        jax.tree.map(np.asarray, metrics)
        return time.perf_counter() - start, state, float(np.mean(batch["arms"] > 0))

    kinds = {"none": [], "experiments": [Overlay(plan, corpus)]}
    loaders = {
        kind: batches(corpus, order, geometry, transforms, start=geometry.steps // 3)
        for kind, transforms in kinds.items()
    }
    states = {kind: program.init(0) for kind in kinds}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    share = []
    for repeat in range(_REPEATS.value + 2):
        for kind in kinds if repeat % 2 else reversed(kinds):
            elapsed, states[kind], edited = timed(loaders[kind], states[kind])
            if repeat >= 2:  # the first ones compile and fill caches
                seconds[kind].append(elapsed)
                share += [edited] if kind == "experiments" else []
    print(
        json.dumps(
            {
                "experiments": len(study.experiments),
                "edited_share": round(float(np.mean(share)), 4),
                "none_ms": round(1e3 * min(seconds["none"]), 2),
                "experiments_ms": round(1e3 * min(seconds["experiments"]), 2),
                "ratio": round(min(seconds["experiments"]) / min(seconds["none"]), 4),
                "ratio_of_medians": round(
                    float(np.median(seconds["experiments"]) / np.median(seconds["none"])), 4
                ),
                "repeats": _REPEATS.value,
            }
        )
    )


if __name__ == "__main__":
    app.run(main)
