"""Plan what each experiment puts into training, check the plan, and show or audit it.

  ttoaa plan --workdir=runs/mine                          make the plan
  ttoaa plan --workdir=runs/mine --dry_run                check that the experiments fit
  ttoaa plan --workdir=runs/mine --check=overlap          also search the corpus for the items
  ttoaa plan --workdir=runs/mine --show=step=100          print what batch 100 holds
  ttoaa plan --workdir=runs/mine --show=item=canaries/7   print where each copy of an item is
  ttoaa plan --workdir=runs/mine --audit=20               re-derive 20 random batches independently

A plan is made once; to change it, move it away and plan again.
"""

import signal
import time
from collections.abc import Sequence

from absl import flags

from ttoaa import command_line, study_flags
from ttoaa.workdir import Workdir

_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "check that the experiments fit: compile the plan without storing it"
)
_SHOW = flags.DEFINE_string(
    "show",
    None,
    "print a batch (step=K), a row of training (row=P), or an item (item=ID or item=EXPERIMENT/ID)",
)
_CHECK = flags.DEFINE_flag(
    study_flags.optional(
        "check",
        "quick",
        "report texts that experiments share; --check=overlap also searches the corpus for them",
    )
)
_AUDIT = flags.DEFINE_flag(
    study_flags.optional(
        "audit",
        "10",
        "compare this many random batches of the loader with independent code; 10 without a value",
    )
)
_AUDIT_STEPS = flags.DEFINE_list(
    "audit_steps", [], "compare the batches of these steps, such as 1,5,9"
)
_AUDIT_HOSTS = flags.DEFINE_list(
    "audit_hosts", ["1"], "load audited batches as each of these numbers of hosts, such as 1,2,8"
)
_AUDIT_RUN = flags.DEFINE_string(
    "audit_run", "run", "audit the batches of this run: control, run, alone/NAME, sham, …"
)
_AUDIT_SEED = flags.DEFINE_integer(
    "audit_seed", 0, "seed that selects the random batches of --audit"
)


def main(argv: Sequence[str]) -> None:
    del argv
    if _CHECK.value not in (None, "", "quick", "overlap"):
        raise ValueError(f"--check is quick or overlap, not {_CHECK.value!r}")
    audits = _AUDIT.value or _AUDIT_STEPS.value
    ways: dict[str, object] = {"--dry_run": _DRY_RUN.value}
    ways |= {"--show": _SHOW.value, "--check": _CHECK.value, "--audit": audits}
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


def _audit(workdir: Workdir) -> str:
    from ttoaa.planning.audit.compare import audit

    count = study_flags.parse_integers("audit", [_AUDIT.value or "0"])[0]
    steps = study_flags.parse_integers("audit_steps", _AUDIT_STEPS.value)
    hosts = study_flags.parse_integers("audit_hosts", _AUDIT_HOSTS.value)
    return audit(workdir, count, _AUDIT_SEED.value, steps, hosts, _AUDIT_RUN.value)


def _make(workdir: Workdir) -> None:
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.study_handle import StudyHandle

    started = time.perf_counter()
    handle = StudyHandle(config.load_from_flags(), workdir, verify=not workdir.plan.exists())
    if _DRY_RUN.value:
        print(handle.try_plan(), end="")
        print(f"plan: it fits; no plan was stored (took {time.perf_counter() - started:.1f} s)")
        return
    plan, new = handle.make_plan()
    if new:
        print((workdir.plan / "summary.txt").read_text(encoding="utf-8"), end="")
    unchecked = not (workdir.plan / "checks.json").exists()  # it is new, or a kill came between
    if unchecked or _CHECK.value:
        report = handle.check_plan(new=unchecked, overlap=_CHECK.value == "overlap")
        report.write(plan.folder)
        print(report.short())
        if not unchecked:
            print(f"plan: more in {plan.folder / 'checks.txt'}")
        if report.errors:
            raise ValueError(f"the checks found {len(report.errors)} errors in {plan.folder}")
    if new:
        print(f"plan: {workdir.plan} made in {time.perf_counter() - started:.1f} s")
    elif not _CHECK.value:
        print(f"plan: {workdir.plan} is made already ({plan.hash[:12]})")


if __name__ == "__main__":
    command_line.run("plan", main, study_flags)
