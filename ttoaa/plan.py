"""Plan what each experiment puts into training, check the plan, and show or audit it.

  ttoaa plan --workdir=runs/mine                          make the plan
  ttoaa plan --gin_file=FILE --dry_run                    price the study: nothing needs to exist
  ttoaa plan --workdir=runs/mine --dry_run                the same, and check that it all fits
  ttoaa plan --workdir=runs/mine --check=overlap          also search the corpus for the items
  ttoaa plan --workdir=runs/mine --show=step=100          print what batch 100 holds
  ttoaa plan --workdir=runs/mine --show=item=plain-16x-3  print where each copy of an item is
  ttoaa plan --workdir=runs/mine --audit=20               re-derive 20 random batches independently

A plan is made once; to change it, move it away and plan again.
"""

import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ttoaa import command_line, study_flags
from ttoaa.workdir import Workdir

if TYPE_CHECKING:
    from ttoaa.config import Study

_DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "print tokens, FLOPs, chip-hours, shares of the experiments and what they can detect; with a "
    "corpus in --workdir, also check that the experiments fit. Stores no plan",
)
_HARDWARE = flags.DEFINE_string(
    "hardware", None, "with --dry_run: also hours and memory on v5p-128, v5p:4x4x4 or 8xH100, say"
)
_MFU = flags.DEFINE_float("mfu", 0.4, "with --dry_run: the MFU to state chip-hours at", 0.001, 1.0)
_PRICE = flags.DEFINE_float(
    "price_per_chip_hour", None, "with --dry_run and --hardware: also the price, in any currency", 0
)
_COMPILE = flags.DEFINE_boolean(
    "compile",
    False,
    "with --dry_run and --hardware: memory and an upper bound of the MFU by the compiler of TPUs, "
    "in minutes",
)
_FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "with --dry_run: how to print it")
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
    _check_price_flags()
    if _DRY_RUN.value and not flags.FLAGS.workdir:
        _price()
        return
    if not flags.FLAGS.workdir:
        raise ValueError("--workdir is required, except by --dry_run with --gin_file")
    workdir = study_flags.workdir_from_flags()
    if _SHOW.value:
        from ttoaa.planning.inspect import show

        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a pager that is left early ends it
        print(show(workdir, _SHOW.value))
    elif audits:
        print(f"plan: {_audit(workdir)}")
    else:
        _make(workdir)


def _check_price_flags() -> None:
    """Raise ValueError for flags of the price that lack those that they need."""
    names = ("hardware", "mfu", "price_per_chip_hour", "compile", "format")
    given = [f"--{name}" for name in names if flags.FLAGS[name].present]
    if given and not _DRY_RUN.value:
        raise ValueError(f"{given[0]} needs --dry_run")
    for flag, value in ((_PRICE, _PRICE.value is not None), (_COMPILE, _COMPILE.value)):
        if value and not _HARDWARE.value:
            raise ValueError(f"--{flag.name} needs --hardware, such as --hardware=v5p-128")


def _price(study: "Study | None" = None) -> None:
    """Print the price of a study, by default that of --gin_file."""
    if study is None and not study_flags.GIN_FILE.value:
        raise ValueError("name the study's config by --gin_file, or its folder by --workdir")
    from ttoaa.price.hardware import parse_hardware

    hardware = parse_hardware(_HARDWARE.value) if _HARDWARE.value else None
    if _COMPILE.value and not (hardware and hardware.topology):
        raise ValueError(f"--compile is for slices of TPUs, not --hardware={_HARDWARE.value}")
    from ttoaa import config
    from ttoaa.price.estimate import price
    from ttoaa.price.text import price_text

    if study is None:
        files = [pathlib.Path(name) for name in study_flags.GIN_FILE.value]
        study, _ = config.load(files, study_flags.GIN_BINDINGS.value)
    compiled = _compile(hardware.topology) if _COMPILE.value and hardware else None
    found = price(study, _MFU.value, hardware, _PRICE.value, compiled)
    print(f"{json.dumps(found)}\n" if _FORMAT.value == "json" else price_text(found), end="")


def _compile(topology: str | None) -> dict[str, Any]:
    """Return what `ttoaa compile` prints for the study of the flags, in a separate process.

    One layer and two are compiled, and all of them extrapolated. Raises ValueError with its error.
    """
    studies = [f"--gin_file={name}" for name in study_flags.GIN_FILE.value]
    studies += [f"--gin_bindings={each}" for each in study_flags.GIN_BINDINGS.value]
    if not study_flags.GIN_FILE.value:
        studies += [f"--workdir={flags.FLAGS.workdir}"]
    command = [sys.executable, "-m", "ttoaa.compile", f"--topology={topology}", "--layers=1"]
    done = subprocess.run([*command, *studies], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ValueError(f"--compile: {lines[-1].removeprefix('compile: ')}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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
        _price(handle.config)
        if _FORMAT.value == "json":
            return
        if not workdir.corpus.exists():
            print("plan: no corpus yet, so it is not checked whether the experiments fit")
            return
        print(f"\n{handle.try_plan()}", end="")
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
    flags.FLAGS.set_default("workdir", "")  # optional for a price alone
    command_line.run("plan", main, study_flags)
