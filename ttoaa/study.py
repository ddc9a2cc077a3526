"""Run all stages of a study, for one seed or several.

  ttoaa study --workdir=runs/quickstart --gin_file=configs/quickstart.gin --seeds=0,1,2

The command can be stopped and repeated at any time: each stage continues where it was, and seeds
that are trained and scored are skipped.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from absl import flags

from ttoaa import command_line, config, identity
from ttoaa.evaluation.study_status import study_status
from ttoaa.training.run_records import read_finished
from ttoaa.workdir import RUNS, Workdir

# glibc reads it when a process starts; steps on CPU touch much memory, and gain a tenth or more.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

_SEEDS = flags.DEFINE_list(
    "seeds", ["0"], "seeds, such as 0,1,2, in place of --seed; each has its own plan and runs"
)


def main(argv: Sequence[str]) -> None:
    del argv
    if flags.FLAGS["seed"].present:
        raise ValueError("a study takes --seeds=0,1,2, not --seed")
    started = time.perf_counter()
    study = config.load_from_flags()  # a bad config ends here, before anything starts
    seeds = _seeds(_SEEDS.value)
    root = config.workdir_from_flags().root
    status = study_status(study, root)
    scored = [seed["seed"] for seed in status["seeds"] if seed["scored"]]
    for seed in scored:
        _check_runs(study, Workdir(root, seed))
    left = [seed for seed in seeds if seed not in scored]
    if not left and status["report"] == "made":
        print(f"study: everything is done already; open {root / 'report.html'}")
        return
    # All plans first: if one does not fit, the study ends before any run.
    plans = [["plan", f"--seed={seed}"] for seed in left]
    runs = [stage for seed in left for stage in _runs(seed)]
    stages = [["prepare"], *plans, *runs, ["report"]]
    runner = _Runner()
    for number, (module, *options) in enumerate(stages, start=1):
        print(f"[{number}/{len(stages)}] {' '.join([module, *options])}", flush=True)
        runner.run([sys.executable, "-m", f"ttoaa.{module}", f"--workdir={root}", *options])
    print(f"study: done in {time.perf_counter() - started:.0f} s; open {root / 'report.html'}")


def _check_runs(study: config.Study, workdir: Workdir) -> None:
    """Raise ValueError if finished runs were trained with another model, geometry or numerics."""
    now = identity.identity(
        geometry=study.geometry, model=study.model, training=study.training.numerics()
    )
    for kind in RUNS:
        finished = read_finished(workdir.run(kind))
        if finished:
            identity.check(workdir.run(kind), finished["identity"], now, identity.RETRAIN)


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
