"""Score the checkpoints of a study, one table for each (checkpoint, experiment).

  ttoaa evaluate --workdir=runs/mine
  ttoaa evaluate --workdir=runs/mine --watch    score checkpoints while training writes them

Evaluation needs only the study's folder, and skips tables that exist. Several jobs can run at once,
on any devices, and share the work; a job that dies loses at most the table that it was making.
"""

import sys
from collections.abc import Sequence

from absl import flags

from ttoaa import bucket, command_line, study_flags
from ttoaa.locks import LEASE_STALE

_EXPERIMENTS = flags.DEFINE_list(
    "experiments", None, "names of the experiments to score; by default all"
)
_STEPS = flags.DEFINE_list("steps", None, "steps of the checkpoints to score; by default all")
_WATCH = flags.DEFINE_bool("watch", False, "wait for new checkpoints until all runs have ended")
_GIVE_UP_AFTER = flags.DEFINE_float(
    "give_up_after",
    None,
    "seconds without a new checkpoint or table after which --watch ends; by default never",
    0,
)
_STALE = flags.DEFINE_float(
    "stale",
    LEASE_STALE,
    "seconds without a heartbeat after which other jobs consider this one dead",
    0.1,
)


def main(argv: Sequence[str]) -> None:
    del argv
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.evaluation.job import evaluate
    from ttoaa.evaluation.watch import Patience
    from ttoaa.evaluation.work_list import known_steps
    from ttoaa.training.topology import pin_cores

    study, workdir = config.load_from_flags(), config.workdir_from_flags()
    study = config.only(study, _EXPERIMENTS.value)
    pin_cores()
    config.cache_compilations(workdir)
    steps = known_steps(workdir, _STEPS.value, _WATCH.value) if _STEPS.value else None
    patience = Patience(_WATCH.value, _GIVE_UP_AFTER.value, _STALE.value)
    written, failures = evaluate(study, workdir, steps, patience)
    print(f"evaluate: {written} tables written in {workdir.tables}")
    for failure in failures:
        print(f"evaluate: failed: {bucket.named_by_url(failure)}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    command_line.run("evaluate", main, study_flags)
