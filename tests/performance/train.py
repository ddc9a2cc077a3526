"""Our training step against torch's on this CPU: python -m tests.performance.train

One process each, taking turns step by step, so that each has the machine to itself. Ours is the
trainer's own step with its defaults: arms, norms, z-loss, guard and all. Torch's is the same OLMo-2
of transformers (forward, backward, clipping, fused AdamW) in its strongest form on this machine: a
short race picks two of eager and fused attention, passes of a few to all rows, compiled or not.
Both start from the same weights, and their losses must agree. What counts is the least time; a run
in which torch's median is over 1.3 times that is thrown away. Prints one JSON line.
"""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import sys
import time

import numpy as np
from absl import app, flags

from tests.performance.sides import TASKS, Side, Variant, cores

_REPEATS = flags.DEFINE_integer("repeats", 12, "timed steps of each contestant", lower_bound=8)
_ATTEMPTS = flags.DEFINE_integer("attempts", 2, "runs before giving up on a noisy machine", 1)
_QUICK = flags.DEFINE_bool("quick", False, "the smaller size and fewer forms of torch")

NOISY = 1.3
PAUSE = 0.05
"""Seconds between turns, in which the other side's threads stop spinning."""


def take_turns(race, repeats):
    """{contestant: seconds of each repeat}, of {contestant: call that gives (seconds, loss)}."""
    taken = {name: [] for name in race}
    for repeat in range(repeats):
        for name in race if repeat % 2 else reversed(race):
            time.sleep(PAUSE)
            taken[name].append(race[name]()[0])
    return taken


def strongest(theirs, task, quick):
    """{variant: least seconds} of every form of torch that was tried, the best first."""

    def race(variants):
        calls = {v: lambda v=v: theirs.step(v) for v in variants}
        take_turns(calls, 1)  # compiles and fills caches
        tried.update({v: min(seconds) for v, seconds in take_turns(calls, 2).items()})

    tried = {}
    rows = (2, 8) if quick else (2, 4, 8, task.batch)
    race([Variant(attention, r) for attention in ("eager", "sdpa") for r in rows])
    best = min(tried, key=tried.get)
    other = best._replace(attention="sdpa" if best.attention == "eager" else "eager")
    # Fewer kernels between its products move a compiled step's best pass to more rows.
    compiled = [best, best._replace(rows=2 * best.rows)] + ([] if quick else [other])
    race([v._replace(compiled=True) for v in compiled if v.rows <= task.batch])
    return dict(sorted(tried.items(), key=lambda item: item[1]))


def check_losses(ours, theirs, variant):
    """The losses of three steps from the same weights, on both sides; exits where they differ."""
    theirs.start(ours.start())
    pairs = [(ours.step()[1], theirs.step(variant)[1]) for _ in range(3)]
    # The first is of the same weights, the others of weights after the same updates.
    for (a, b), tolerance in zip(pairs, (1e-5, 1e-4, 1e-4), strict=True):
        if not abs(a - b) <= tolerance * abs(b):
            sys.exit(f"train: ours and torch ({variant}) do not compute the same: losses {pairs}")
    return pairs


def race_task(ours, theirs, task, repeats, attempts, quick):
    """The result for one size; exits where no attempt was free of noise."""
    settings = ours.prepare(task)
    theirs.prepare(task)
    theirs.start(ours.start())
    tried = strongest(theirs, task, quick)
    finalists = list(tried)[:2]
    losses = {v: check_losses(ours, theirs, v) for v in finalists}
    race = {"ours": ours.step, **{v: lambda v=v: theirs.step(v) for v in finalists}}
    for _ in range(attempts):
        taken = take_turns(race, repeats)
        best = min(finalists, key=lambda v: min(taken[v]))
        noise = float(np.median(taken[best])) / min(taken[best])
        if noise <= NOISY:
            break
        print(f"train: {task.name}: torch's median is {noise:.2f} minima", file=sys.stderr)
    else:
        sys.exit("train: every run was thrown away: the machine has other things to do, try again")
    speeds = [task.tokens_per_step / min(taken[name]) for name in ("ours", best)]
    milliseconds = {
        name: {str(k): round(1e3 * float(reduce(v)), 1) for k, v in taken.items()}
        for name, reduce in (("min_ms", min), ("median_ms", np.median))
    }
    return {
        "size": task.name,
        "ours_tokens_per_second": round(speeds[0]),
        "torch_tokens_per_second": round(speeds[1]),
        "ratio": round(speeds[0] / speeds[1], 3),
        "torch": str(best),
        **milliseconds,
        "torch_tried_ms": {str(v): round(1e3 * seconds, 1) for v, seconds in tried.items()},
        "losses": losses[best],
        "settings": settings,
    }


def main(argv):
    del argv
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"train: {package} is missing: pip install 'ttoaa[hf]'")
    # As the launchers set it; torch is given it as well.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    ours, theirs = Side("tests.performance.side_ttoaa"), Side("tests.performance.side_torch")
    asked = (_REPEATS.value, _ATTEMPTS.value, _QUICK.value)
    sizes = [race_task(ours, theirs, task, *asked) for task in TASKS[: 1 if asked[2] else None]]
    for side in (ours, theirs):
        side.close()
    versions = {name: importlib.metadata.version(name) for name in ("jax", "torch", "transformers")}
    result = {
        "sizes": sizes,
        "repeats": _REPEATS.value,
        "cpu": cpu(),
        "cores": cores(),
        "environment": {"GLIBC_TUNABLES": os.environ["GLIBC_TUNABLES"]},
        "versions": versions,
    }
    print(json.dumps(result))


def cpu():
    """The model's name; empty where the system does not tell."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    app.run(main)
