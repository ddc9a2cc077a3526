"""What experiments cost a training step: python -m tests.performance.overhead --workdir=DIR

DIR is a study that has been prepared and planned. One process alternates between steps without
edits, steps with all edits of the plan, and steps whose slots the controllers filled; loader,
transfer, update and reading the metrics are included. Controllers decide and probes are measured in
between, by the weights of the third kind; their seconds are spread over the steps of the whole run.
Noise is left out (`tests.performance.noise`). Prints one JSON line, with ratios to steps without
edits: of steps with edits; of these with controllers; of these with probes; and with both.
"""

import json
import math
import os
import pathlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags

from ttoaa import config
from ttoaa.data.loader import batches
from ttoaa.experiments.controllers import slot_texts
from ttoaa.model.compute_config import PLAIN
from ttoaa.planning.injection import Overlay, SlotOverlay
from ttoaa.scoring.likelihood import log_likelihoods, row_losses
from ttoaa.study_handle import StudyHandle
from ttoaa.training.controller_loop import ControllerLoop, ControllerSet
from ttoaa.training.device_feed import apply_transforms, place_batch
from ttoaa.training.topology import pin_cores, split_cpu
from ttoaa.training_job import compiled_step

_REPEATS = flags.DEFINE_integer("timings_of_each", 40, "timed steps of each kind", lower_bound=10)
STEPS = ("none", "edits", "slots")
_WARM_UP = 2
"""Steps and rounds of probes that compile and fill caches."""


class Timer:
    """Seconds of each thing that was timed, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.seconds[name].append(time.perf_counter() - start)
        return result


def step_ratios(steps: Mapping[str, float], controllers: float, probes: float) -> dict[str, float]:
    """Return ratios to a step of kind "none"; all arguments are in seconds per step."""
    edits, slots = steps["edits"], steps["slots"]
    kinds = {
        "edits": edits,
        "with_controllers": slots + controllers,
        "with_probes": edits + probes,
        "all": slots + controllers + probes,
    }
    return {kind: round(seconds / steps["none"], 4) for kind, seconds in kinds.items()}


def measure(handle: StudyHandle, folder: pathlib.Path, repeats: int) -> dict[str, Any]:
    """Time `repeats` steps of each kind from a third of the run on; `folder` is for the log."""
    study, plan, corpus = handle.config, handle.plan, handle.corpus
    geometry, found = study.geometry, handle.controllers
    every = math.lcm(*(controller.every for _, controller in found))
    start = geometry.steps // 3 // every * every
    repeats = min(repeats, geometry.steps - start - _WARM_UP)
    filled = SlotOverlay(plan, slot_texts(found))
    loop = ControllerLoop(ControllerSet(found, overlay=filled), folder, start, None)
    program, rows = compiled_step(study), np.arange(geometry.batch)
    step, timer = program.compile(), Timer()

    def stream(kind: str) -> Any:
        edits = [] if kind == "none" else [Overlay(plan, corpus)]
        late = [filled] if kind == "slots" and found else []
        return apply_transforms(batches(corpus, handle.order, geometry, edits, start=start), late)

    streams = {kind: stream(kind) for kind in STEPS}
    states = {kind: program.init(0) for kind in STEPS}

    def take_step(kind: str) -> float:
        batch = next(streams[kind])
        states[kind], metrics = step(states[kind], place_batch(batch, rows, program.batch))
        jax.tree.map(np.asarray, metrics)
        return float(np.mean(batch["arms"] > 0))

    def score(requests: Any) -> Any:
        return log_likelihoods(program.model, states["slots"]["params"], requests)

    def probe(tokens_NxL: np.ndarray) -> None:
        execution = program.resolved if tokens_NxL.shape[1] == geometry.length else PLAIN
        row_losses(program.model, states["slots"]["params"], tokens_NxL, execution)

    edited = []
    for number in range(repeats + _WARM_UP):
        at = start + number
        for name, numbers in loop.due(at):
            if not number:
                loop.decide(at, numbers, score)  # compiles
            timer.run(f"decide/{name}", lambda n=numbers, at=at: loop.decide(at, n, score))
        for kind in STEPS if number % 2 else reversed(STEPS):
            share = timer.run(kind, lambda kind=kind: take_step(kind))
            edited += [share] if kind == "slots" else []
        for index, (_, each) in enumerate(handle.probes):
            timer.run(f"probe/{index}", lambda each=each: probe(each.tokens_NxL))
    loop.close()

    def summarise(statistic: Callable[[Sequence[float]], Any]) -> dict[str, Any]:
        """Return milliseconds per step and ratios, by minima or by medians."""
        by = {
            name: float(statistic(all_seconds[0 if name.startswith("decide") else _WARM_UP :]))
            for name, all_seconds in timer.seconds.items()
        }
        due = [name for at in range(geometry.steps) for name, _ in loop.due(at)]
        controllers = sum(by[f"decide/{name}"] for name in due) / geometry.steps
        probed = [len(p.steps) * by[f"probe/{index}"] for index, (_, p) in enumerate(handle.probes)]
        probes = sum(probed) / geometry.steps
        per_step = {**{k: by[k] for k in STEPS}, "controllers": controllers, "probes": probes}
        return {
            "ms": {name: round(1e3 * seconds, 2) for name, seconds in per_step.items()},
            "ratio": step_ratios(by, controllers, probes),
        }

    return {
        "experiments": len(study.experiments),
        "edited_share": round(float(np.mean(edited)), 4),
        **summarise(min),
        "medians": summarise(np.median),
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 2),
    }


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = config.workdir_from_flags()
    study, _ = config.load([workdir.config])
    pin_cores()
    split_cpu(study.geometry.batch, study.layout)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(StudyHandle(study, workdir), pathlib.Path(folder), _REPEATS.value)
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
