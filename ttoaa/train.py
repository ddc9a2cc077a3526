"""Train the control run, the run with the experiments, or another run of the study.

  ttoaa train --workdir=runs/mine --run=control
  ttoaa train --workdir=runs/mine
  ttoaa train --workdir=runs/mine --run=alone/canaries
  ttoaa train --workdir=runs/mine --run=without/canaries@300

Training continues from the newest checkpoint; a finished run is left as it is. --tracker shows the
run live; with a finished run, it sends the records.
"""

import sys
import time
from collections.abc import Sequence

from absl import flags

from ttoaa import command_line, signals, study_flags
from ttoaa.runs import RUN
from ttoaa.training import tracker_flags, train_flags

_RUN = flags.DEFINE_string(
    "run",
    RUN,
    "which run to train: control (no experiment), run (all experiments), alone/NAME, without/NAME, "
    "sham (reserve text in place of every edit), reordered or reinitialised (the control run with "
    "another data order or other initial weights), or reference (the model of Study.reference). "
    "What if: run@K and without/NAME@K continue checkpoint K of run, control@K and alone/NAME@K "
    "that of control",
)
_BEGAN = time.time()


def main(argv: Sequence[str]) -> None:
    del argv
    study_flags.check_study()
    from ttoaa import config, training_job
    from ttoaa.training import multihost
    from ttoaa.training.loop import AGREED, Stopped

    code, alone = 0, False
    try:
        multihost.initialize()
        alone = not multihost.is_joined()
        with multihost.exit_on_lone_failure("train", *AGREED):
            study, workdir = config.load_from_flags(), config.workdir_from_flags()
            profile = train_flags.PROFILE_STEPS.value
            tracker = tracker_flags.TRACKER.value
            message = training_job.run(study, workdir, _RUN.value, profile, _BEGAN, tracker)
    except Stopped as stopped:
        message, code = str(stopped), stopped.exit_code
    if multihost.primary():
        print(f"train: {message}")
    if code and alone:
        signals.leave(code)  # several processes must end in order
    sys.exit(code)


if __name__ == "__main__":
    command_line.run("train", main, study_flags, tracker_flags, train_flags)
