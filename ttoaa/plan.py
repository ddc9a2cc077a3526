"""Makes, checks, shows and audits the plan of a run: python -m ttoaa.plan --workdir=… [--show=…]

--show=step=K prints what a batch holds, --show=row=P what the row at place P of training is, and
--show=item=ID (or item=EXPERIMENT/ID) where every copy of an item went. --check looks for texts
that experiments share, --check=overlap also for those that the corpus has. --audit re-derives
batches by plain code and compares them with the loader's.
"""

import signal
import sys
import time
from collections.abc import Sequence

from absl import app, flags

from ttoaa import study_flags
from ttoaa.workdir import Workdir

_SHOW = flags.DEFINE_string("show", None, "print a part of the plan: step=K, row=P or item=ID")
_CHECK = flags.DEFINE_flag(
    study_flags.optional(
        "check", "quick", "look for texts in common; =overlap: with the corpus too"
    )
)
_AUDIT = flags.DEFINE_flag(
    study_flags.optional(
        "audit", "10", "compare so many random batches with the loader's; 10 if bare"
    )
)
_AUDIT_STEPS = flags.DEFINE_list("audit_steps", [], "compare the batches of these steps: 1,5,9")
_AUDIT_HOSTS = flags.DEFINE_list("audit_hosts", ["1"], "load them as each of so many hosts: 1,2,8")
_AUDIT_SEED = flags.DEFINE_integer("audit_seed", 0, "which random batches --audit takes")


def main(argv: Sequence[str]) -> None:
    try:
        if argv[1:]:
            raise ValueError(f"what is {argv[1]!r}? A flag takes its value behind '='")
        if _CHECK.value not in (None, "", "quick", "overlap"):
            raise ValueError(f"--check is quick or overlap, not {_CHECK.value!r}")
        audits = _AUDIT.value or _AUDIT_STEPS.value
        ways = {"--show": _SHOW.value, "--check": _CHECK.value, "--audit": audits}
        asked = [name for name, value in ways.items() if value]
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)}: one at a time")
        workdir = study_flags.workdir_from_flags()
        if _SHOW.value:
            from ttoaa.planning.inspect import show

            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a pager that is left early ends it
            print(show(workdir, _SHOW.value))
        elif audits:
            print(f"plan: {_audit(workdir)}")
        else:
            _make(workdir)
    except (ValueError, OSError) as error:
        sys.exit(f"plan: {error}")


def _audit(workdir: Workdir) -> str:
    from ttoaa.planning.audit.compare import audit

    count = study_flags.whole_numbers("audit", [_AUDIT.value or "0"])[0]
    steps = study_flags.whole_numbers("audit_steps", _AUDIT_STEPS.value)
    hosts = study_flags.whole_numbers("audit_hosts", _AUDIT_HOSTS.value)
    return audit(workdir, count, _AUDIT_SEED.value, steps, hosts)


def _make(workdir: Workdir) -> None:
    from ttoaa import config
    from ttoaa.planning.build import make_plan
    from ttoaa.planning.checks.command import check

    started = time.perf_counter()
    study = config.load_from_flags()
    plan, new = make_plan(study, workdir)
    if new:
        print((workdir.plan / "summary.txt").read_text(encoding="utf-8"), end="")
    unchecked = not (workdir.plan / "checks.json").exists()  # it is new, or a kill came between
    if unchecked or _CHECK.value:
        check(study, plan, workdir, new=unchecked, overlap=_CHECK.value == "overlap")
    if new:
        print(f"plan: {workdir.plan} made in {time.perf_counter() - started:.1f} s")
    elif not _CHECK.value:
        print(f"plan: {workdir.plan} is made already ({plan.hash[:12]})")


if __name__ == "__main__":
    flags.adopt_module_key_flags(study_flags)
    app.run(main)
