"""Our training step against torch's on this CPU: python -m tests.benchmarks.train

One process each, taking turns step by step, so that each has the machine to itself. Ours is the
trainer's own step with its defaults: arms, norms, z-loss, guard and all. Torch's is the same OLMo-2
of transformers (forward, backward, clipping, fused AdamW) in its strongest form on this machine: a
short race picks two of eager and fused attention, passes of 1 to all rows, compiled or not. Both
start from the same weights, and their losses must agree. What counts is the least time; a run in
which torch's median is over 1.3 times that is thrown away. Prints one JSON line; needs ttoaa[hf].
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time

import numpy as np
from absl import app, flags

from tests.benchmarks.sides import TASKS, Side, cores

_REPEATS = flags.DEFINE_integer("repeats", 12, "timed steps of each contestant", lower_bound=8)
_ATTEMPTS = flags.DEFINE_integer("attempts", 2, "runs before giving up on a noisy machine", 1)
_QUICK = flags.DEFINE_bool("quick", False, "the smaller size and fewer forms of torch")

NOISY = 1.3
PAUSE = 0.05
"""Seconds between turns, in which the other side's threads stop spinning."""


def least(race):
    """{contestant: least seconds}, of {contestant: call} taking turns three times."""
    for call in race.values():
        call()  # compiles and fills caches
    taken = take_turns(race, 3)
    return {name: min(seconds) for name, seconds in taken.items()}


def take_turns(race, repeats):
    """{contestant: seconds of each repeat}"""
    taken = {name: [] for name in race}
    for repeat in range(repeats):
        for name in race if repeat % 2 else reversed(race):
            time.sleep(PAUSE)
            taken[name].append(race[name]()[0])
    return taken


def strongest(theirs, task):
    """{variant: least milliseconds} of every form of torch tried, the best first."""
    from tests.benchmarks.side_torch import Variant

    rows = (2, 8) if _QUICK.value else (1, 2, 4, 8, 16, 32)

    def race(variants):
        return least({v: lambda v=v: theirs.step(v) for v in variants})

    tried = race([Variant(attention, r) for attention in ("eager", "sdpa") for r in rows])
    order = sorted(tried, key=tried.get)
    best = [next(v for v in order if v.attention == a) for a in ("eager", "sdpa")]
    more = {v._replace(compiled=True) for v in best}
    if not _QUICK.value:
        more |= {order[0]._replace(rows=r, compiled=True) for r in (2, 4, 8, task.batch)}
    tried |= race(sorted(more))
    return dict(sorted(tried.items(), key=lambda item: item[1]))


def check_losses(ours, theirs, variant):
    """The losses of the first three steps from the same weights, on both sides."""
    theirs.start(ours.start())
    pairs = [(ours.step()[1], theirs.step(variant)[1]) for _ in range(3)]
    # The first is of the same function, the others of weights after the same updates.
    for (a, b), tolerance in zip(pairs, (1e-5, 1e-3, 1e-3), strict=True):
        if not abs(a - b) <= tolerance * abs(b):
            sys.exit(f"train: the two sides do not compute the same, losses {pairs}")
    return pairs


def race_task(ours, theirs, task):
    settings = ours.prepare(task)
    theirs.prepare(task)
    tried = strongest(theirs, task)
    finalists = list(tried)[:2]
    losses = {str(v): check_losses(ours, theirs, v) for v in finalists}
    contestants = {v: lambda v=v: theirs.step(v) for v in finalists}
    for _ in range(_ATTEMPTS.value):
        taken = take_turns({"ours": ours.step, **contestants}, _REPEATS.value)
        best = min(finalists, key=lambda v: min(taken[v]))
        if np.median(taken[best]) <= NOISY * min(taken[best]):
            break
        print(f"train: {task.name}: torch's median is over {NOISY} times its minimum, thrown away")
    else:
        sys.exit("train: no run without noise: try again when the machine has nothing else to do")
    speed = {side: task.tokens_per_step / min(taken[key]) for side, key in (("ours", "ours"), ("torch", best))}
    return {
        "size": task.name,
        "ours_tokens_per_second": round(speed["ours"]),
        "torch_tokens_per_second": round(speed["torch"]),
        "ratio": round(speed["ours"] / speed["torch"], 3),
        "torch": str(best),
        "min_ms": {str(k): round(1e3 * min(v), 1) for k, v in taken.items()},
        "median_ms": {str(k): round(1e3 * float(np.median(v)), 1) for k, v in taken.items()},
        "torch_forms_ms": {str(k): round(1e3 * v, 1) for k, v in tried.items()},
        "losses": losses[str(best)],
        "settings": settings,
    }


def main(argv):
    del argv
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"train: {package} is missing: pip install 'ttoaa[hf]'")
    # As the launchers do; torch has it as well.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    ours, theirs = Side("tests.benchmarks.side_ttoaa"), Side("tests.benchmarks.side_torch")
    sizes = [race_task(ours, theirs, task) for task in TASKS[: 1 if _QUICK.value else None]]
    result = {
        "sizes": sizes,
        "repeats": _REPEATS.value,
        "cores": cores(),
        "cpu": cpu(),
        "environment": {"GLIBC_TUNABLES": os.environ["GLIBC_TUNABLES"]},
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "torch", "transformers")
        },
    }
    print(json.dumps(result))


def cpu():
    if os.path.exists("/proc/cpuinfo"):
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    app.run(main)
