"""Bursts in one process against one process per row: python -m tests.performance.dependence

  python -m tests.performance.dependence --workdir=DIR --timed_checkpoint=300

DIR is a study whose control run has this checkpoint. Both sides make the same rows of one seed with
compilations that are cached on disk, plan included; folders `bursts/timed-…` in DIR are removed
before and after. Prints one JSON line; `ratio` is the time of one process over that of several.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from absl import app, flags

from ttoaa import study_flags
from ttoaa.interactions.burst_study import BURSTS

_CHECKPOINT = flags.DEFINE_integer("timed_checkpoint", 0, "step of the checkpoint")
_ROWS = flags.DEFINE_list("timed_rows", ["control", "run"], "rows to make")
_STEPS = flags.DEFINE_integer("timed_steps", 25, "steps of a burst", 1)

Make = Callable[[str, Sequence[str]], None]
"""Makes these rows in one process, in the folder of this name."""


def measure(make: Make, rows: Sequence[str]) -> dict[str, float]:
    """Time all rows in one process, and each row in its own."""
    make("warm", rows)  # fills the cache of compilations
    start = time.perf_counter()
    make("one", rows)
    between = time.perf_counter()
    for row in rows:
        make("each", [row])
    one, each = between - start, time.perf_counter() - between
    return {
        "rows": len(rows),
        "one_process_s": round(one, 1),
        "process_per_row_s": round(each, 1),
        "ratio": round(one / each, 3),
    }


def main(argv: Sequence[str]) -> None:
    del argv
    root = study_flags.workdir_from_flags().root

    def make(name: str, rows: Sequence[str]) -> None:
        command = [
            sys.executable,
            "-m",
            "ttoaa.dependence",
            f"--workdir={root}",
            "--burst_seeds=0",
            "--share=0.05",
        ]
        command += [f"--checkpoints={_CHECKPOINT.value}", f"--burst_steps={_STEPS.value}"]
        command += [f"--name=timed-{name}", f"--rows={','.join(rows)}"]
        subprocess.run(command, check=True, capture_output=True)

    try:
        _remove(root)
        found = measure(make, _ROWS.value)
    finally:
        _remove(root)
    print(json.dumps({"steps": _STEPS.value, **found}))


def _remove(root: pathlib.Path) -> None:
    for path in (root / BURSTS).glob("timed-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    app.run(main)
