"""A CPU as one device against as many as the trainer makes: python -m tests.performance.devices

Both in turns, each in a process of its own; prints one JSON line of minima over the repeats.
"""

import dataclasses
import json
import os
from collections.abc import Sequence

from absl import app, flags

from tests.performance.sides import TASKS, Side

_REPEATS = flags.DEFINE_integer("repeats", 20, "timed steps of each", lower_bound=8)

# The size of configs/quickstart.gin.
QUICKSTART = dataclasses.replace(TASKS[0], name="quickstart", layers=3, vocab_size=1024, batch=16)


def main(argv: Sequence[str]) -> None:
    del argv
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # as ttoaa.study does
    for task in (QUICKSTART, *TASKS):
        sides = {
            "one": Side("tests.performance.side_ttoaa"),
            "split": Side("tests.performance.side_ttoaa"),
        }
        devices = {
            name: side.prepare(task, 1 if name == "one" else None)["devices"]
            for name, side in sides.items()
        }
        for side in sides.values():
            side.start()
            side.step()
        seconds = {name: [] for name in sides}
        for _ in range(_REPEATS.value):
            for name, side in sides.items():
                seconds[name].append(side.step()[0])
        for side in sides.values():
            side.close()
        best = {name: min(times) for name, times in seconds.items()}
        print(
            json.dumps(
                {
                    "size": task.name,
                    "devices": devices["split"],
                    "one_ms": round(1e3 * best["one"], 1),
                    "split_ms": round(1e3 * best["split"], 1),
                    "speedup": round(best["one"] / best["split"], 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
