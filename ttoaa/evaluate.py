"""Scores the checkpoints of a study: python -m ttoaa.evaluate --workdir=… [--watch]

A job of its own that needs only the study's folder. Each (checkpoint, experiment) gives one table,
committed whole; what is there is not done again. Any number of jobs may run at once, on any
devices: they share the work, and one that dies costs its open table at most.
"""

import signal
import sys
from collections.abc import Sequence

from absl import app, flags

from ttoaa import config
from ttoaa.evaluation.job import evaluate
from ttoaa.evaluation.watch import Patience
from ttoaa.evaluation.work_list import known_steps
from ttoaa.locks import LEASE_STALE
from ttoaa.training.topology import pin_cores

_EXPERIMENTS = flags.DEFINE_list("experiments", None, "only these experiments, by name")
_STEPS = flags.DEFINE_list("steps", None, "only checkpoints of these steps")
_WATCH = flags.DEFINE_bool("watch", False, "wait for more checkpoints until both runs are over")
_GIVE_UP_AFTER = flags.DEFINE_float(
    "give_up_after", None, "seconds without any news after which the wait ends, by default never", 0
)
_STALE = flags.DEFINE_float(
    "stale",
    LEASE_STALE,
    "seconds without a sign of life after which others take this job for dead",
    0.1,
)


def main(argv: Sequence[str]) -> None:
    del argv
    asked = signal.SIGINT

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        asked = signal.Signals(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        study, workdir = config.load_from_flags(), config.workdir_from_flags()
        study = config.only(study, _EXPERIMENTS.value)
        pin_cores()
        config.cache_compilations(workdir)
        steps = known_steps(workdir, _STEPS.value, _WATCH.value) if _STEPS.value else None
        patience = Patience(_WATCH.value, _GIVE_UP_AFTER.value, _STALE.value)
        written, failures = evaluate(study, workdir, steps, patience)
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate: {error}")
    except KeyboardInterrupt:
        print("evaluate: stopped; run it again to go on", file=sys.stderr)
        sys.exit(128 + asked)
    print(f"evaluate: {written} tables written in {workdir.tables}")
    for failure in failures:
        print(f"evaluate: failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    flags.adopt_module_key_flags(config)
    app.run(main)
