"""Runs a whole study, every stage of every seed: python -m ttoaa.study --workdir=… --seeds=0,1,2

Each stage is a process of its own and finds out itself what is already done, so this command can be
stopped and run again at any time.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from ttoaa import config

_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of the study, each with runs of its own")

STAGES: Sequence[tuple[str, ...]] = (
    ("train", "--run=control"),
    ("plan",),
    ("train", "--run=run"),
    ("evaluate",),
)


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        config.load_from_flags()  # a bad config ends here, before anything starts
        seeds = [int(seed) for seed in _SEEDS.value]
    except (ValueError, OSError) as error:
        sys.exit(f"study: {error}")
    root = config.workdir_from_flags().root
    stages = [("prepare",)]
    stages += [(*stage, f"--seed={seed}") for seed in seeds for stage in STAGES]
    stages += [("report",)]
    started = time.perf_counter()
    for number, (module, *flags_) in enumerate(stages, start=1):
        print(f"[{number}/{len(stages)}] {' '.join([module, *flags_])}", flush=True)
        _run([sys.executable, "-m", f"ttoaa.{module}", f"--workdir={root}", *flags_])
    print(f"study: done in {time.perf_counter() - started:.0f} s; open {root / 'report.html'}")


def _run(command: Sequence[str]) -> None:
    """Runs one stage; SIGTERM is passed on, so that a training run can save first."""
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        code = process.wait()
    if code:
        sys.exit(code if code > 0 else 128 - code)


if __name__ == "__main__":
    app.run(main)
