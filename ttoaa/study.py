"""Run all stages of a study, for one seed or several.

  ttoaa study --workdir=runs/quickstart --gin_file=configs/quickstart.gin --seeds=0,1,2

The command can be stopped and repeated at any time: each stage continues where it was, and seeds
that are trained and scored are skipped.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from ttoaa import command_line, signals, study_flags
from ttoaa.training import tracker_flags
from ttoaa.workdir import RUNS, Workdir

if TYPE_CHECKING:
    from ttoaa.config import Study

# glibc reads it when a process starts; steps on CPU touch much memory, and gain a tenth or more.
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

_SEEDS = flags.DEFINE_list(
    "seeds", ["0"], "seeds, such as 0,1,2, in place of --seed; each has its own plan and runs"
)


def main(argv: Sequence[str]) -> None:
    del argv
    seeds = _seeds(_SEEDS.value)
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.evaluation.study_status import study_status
    from ttoaa.experiments.context import chooses
    from ttoaa.training import trackers

    tracker = tracker_flags.TRACKER.value
    trackers.check(tracker)
    started = time.perf_counter()
    study = config.load_from_flags()  # a bad config ends here, before anything starts
    root = config.workdir_from_flags().root
    status = study_status(study, root)
    scored = [seed["seed"] for seed in status["seeds"] if seed["scored"]]
    for seed in scored:
        _check_runs(study, Workdir(root, seed))
    left = [seed for seed in seeds if seed not in scored]
    if not left and status["report"] == "made":
        for line in _findings(root):
            print(line)
        print(f"study: everything is done already; open {root / 'report.html'}")
        return
    # All plans first: if one does not fit, the study ends before any run but the reference model's.
    first = _reference(study)
    choosing = ["choose"] if any(map(chooses, study.experiments)) else []
    plans = [[stage, f"--seed={seed}"] for seed in left for stage in (*choosing, "plan")]
    runs = [stage for seed in left for stage in _runs(study.runs, seed)]
    stages = [["prepare"], *first, *plans, *runs, ["report"]]
    if tracker:
        stages = [[*each, f"--tracker={tracker}"] if "train" in each else each for each in stages]
    runner = _Runner()
    for number, (module, *options) in enumerate(stages, start=1):
        print(f"[{number}/{len(stages)}] {' '.join([module, *options])}", flush=True)
        runner.run([sys.executable, "-m", f"ttoaa.{module}", f"--workdir={root}", *options])
    print(f"study: done in {time.perf_counter() - started:.0f} s; open {root / 'report.html'}")


def _findings(root: pathlib.Path) -> list[str]:
    """Return what the report that is there found, in lines."""
    from ttoaa.json_io import read_json
    from ttoaa.reporting.findings import terminal_lines
    from ttoaa.reporting.replication import Replication

    path = Workdir(root).replication
    if not path.exists():
        return []
    return [*terminal_lines(read_json(path, Replication)["experiments"])]


def _check_runs(study: "Study", workdir: Workdir) -> None:
    """Raise ValueError if finished runs were trained with another model, geometry or numerics."""
    from ttoaa import identity
    from ttoaa.training.run_records import read_finished

    now = identity.identity(
        geometry=study.geometry, model=study.model, training=study.training.numerics()
    )
    for name in workdir.runs():
        finished = read_finished(workdir.run(name))
        if finished:
            identity.check(workdir.run(name), finished["identity"], now, identity.RETRAIN)


def _runs(others: Sequence[str], seed: int) -> list[list[str]]:
    trained = [["train", f"--run={name}"] for name in dict.fromkeys([*RUNS, *others])]
    return [[*stage, f"--seed={seed}"] for stage in (*trained, ["evaluate"])]


def _reference(study: "Study") -> list[list[str]]:
    from ttoaa.training.reference import TrainedReference

    trained = study.needs_reference and isinstance(study.reference, TrainedReference)
    return [["train", "--run=reference"]] if trained else []


def _seeds(names: Sequence[str]) -> list[int]:
    if not names or not all(name.isdecimal() for name in names):
        raise ValueError(f"--seeds takes numbers such as 0,1,2, not {','.join(names)!r}")
    return [int(name) for name in names]


class _Runner:
    """Runs stages. A signal is passed on, so that a training run can save; then the study ends."""

    def run(self, command: Sequence[str]) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        with signals.deferred(self._pass_on) as stop, signals.child_processes() as own:
            # In a separate process group, a stage gets Ctrl-C only once, from here.
            environment = {**_HUGE_PAGES, **os.environ}
            with subprocess.Popen(command, env=environment, process_group=0) as self.process:
                own(self.process.pid)
                if stop.number:  # the signal came while this stage was started
                    self.process.terminate()
                code = self.process.wait()
        if stop.number and code in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            if code <= 0:  # the stage printed no line
                print("study: stopped; run it again to continue", file=sys.stderr)
            sys.exit(128 + stop.number)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def _pass_on(self, number: int) -> None:
        """Pass on any signal as SIGTERM, which prints no traceback even while Python starts."""
        if self.process:
            self.process.terminate()


if __name__ == "__main__":
    command_line.run(
        "study", main, study_flags, tracker_flags, without={"seed": "list them with --seeds=0,1,2"}
    )
