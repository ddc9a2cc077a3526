"""Run all stages of a study, for one seed or several.

  ttoaa study --workdir=runs/quickstart --gin_file=configs/quickstart.gin --seeds=0,1,2

The command can be stopped and repeated at any time: each stage continues where it was.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags

from ttoaa import command_line, config

# glibc reads it when a process starts; steps on CPU touch much memory, and gain a tenth or more.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

_SEEDS = flags.DEFINE_list(
    "seeds", ["0"], "seeds of the study, such as 0,1,2; each has its own plan and runs"
)


def main(argv: Sequence[str]) -> None:
    del argv
    if flags.FLAGS["seed"].present:
        raise ValueError("a study takes --seeds=0,1,2, not --seed")
    config.load_from_flags()  # a bad config ends here, before anything starts
    seeds = _seeds(_SEEDS.value)
    root = config.workdir_from_flags().root
    # All plans first: what does not fit in one of them ends a study before any run.
    plans = [["plan", f"--seed={seed}"] for seed in seeds]
    runs = [stage for seed in seeds for stage in _runs(seed)]
    stages = [["prepare"], *plans, *runs, ["report"]]
    runner, started = _Runner(), time.perf_counter()
    for number, (module, *options) in enumerate(stages, start=1):
        print(f"[{number}/{len(stages)}] {' '.join([module, *options])}", flush=True)
        runner.run([sys.executable, "-m", f"ttoaa.{module}", f"--workdir={root}", *options])
    print(f"study: done in {time.perf_counter() - started:.0f} s; open {root / 'report.html'}")


def _runs(seed: int) -> list[list[str]]:
    control, run = ["train", "--run=control"], ["train", "--run=run"]
    return [[*stage, f"--seed={seed}"] for stage in (control, run, ["evaluate"])]


def _seeds(names: Sequence[str]) -> list[int]:
    if not names or not all(name.isdecimal() for name in names):
        raise ValueError(f"--seeds takes numbers such as 0,1,2, not {','.join(names)!r}")
    return [int(name) for name in names]


class _Runner:
    """Runs stages; SIGTERM is passed on, so that a training run can save, and is the last one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self, command: Sequence[str]) -> None:
        with subprocess.Popen(command, env={**_HUGE_PAGES, **os.environ}) as self.process:
            if self.asked:  # the signal came while this stage was started
                self.process.terminate()
            code = self.process.wait()
        if code or self.asked:
            sys.exit(code if code > 0 else 128 + (-code or signal.SIGTERM))

    def _stop(self, number: int, frame: object) -> None:
        self.asked = True
        if self.process:
            self.process.terminate()


if __name__ == "__main__":
    command_line.run("study", main, config)
