"""Runs of a study by name, and what each trains on.

| name | contents |
|---|---|
| `control` | no experiment |
| `run` | all experiments |
| `alone/NAME` | one experiment |
| `without/NAME` | all experiments but one |
| `sham` | all edits at their places and lengths, with reserve text in place of the items |
| `reordered` | the control run with another order of the data |
| `reinitialised` | the control run with other initial weights |
| `run@K`, `without/NAME@K` | what if: checkpoint K of `run` continued with all, or all but one |
| `control@K`, `alone/NAME@K` | what if: checkpoint K of `control` continued with none, or one |

Besides these, `reference` is the model of `Study.reference` that a study trains once for all seeds:
without experiments, with other initial weights and another order of the data.

All runs of one seed share one plan, so an experiment has the same items at the same places in every
run that includes it.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

CONTROL, RUN, SHAM = "control", "run", "sham"
REORDERED, REINITIALISED = "reordered", "reinitialised"
REFERENCE = "reference"
"""The name by which `train` takes the reference model; evaluation and report do not list it."""
PLAIN = (CONTROL, RUN, SHAM, REORDERED, REINITIALISED)
SUBSETS = ("alone", "without")
_STEP = re.compile(r"[1-9]\d*")


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """The experiments and seeds of one run."""

    name: str
    experiments: tuple[str, ...]
    """Names of the experiments whose edits the run makes."""
    complete: bool
    """Whether these are all experiments of the plan."""
    start: int | None = None
    """The step of the checkpoint of `base` that a what-if run continues; None for other runs."""

    @property
    def sham(self) -> bool:
        return self.name == SHAM

    @property
    def base(self) -> str:
        """The run that a what-if run continues."""
        return RUN if self.name.startswith((RUN, "without")) else CONTROL

    @property
    def differs(self) -> set[str]:
        """The parts of a run's identity in which it differs from the control run."""
        edited = {"plan", "controllers", "subset", "sham"} if self.experiments else set()
        edited |= {"branch"} if self.start is not None else set()
        return edited | {REORDERED: {"order"}, REINITIALISED: {"seed"}}.get(self.name, set())

    def order_seed(self, seed: int) -> int:
        return _other_seed(self.name, seed) if self.name in (REORDERED, REFERENCE) else seed

    def init_seed(self, seed: int) -> int:
        return _other_seed(self.name, seed) if self.name in (REINITIALISED, REFERENCE) else seed

    @property
    def subset(self) -> tuple[str, ...] | None:
        """The experiments, for the run's identity, if the run omits some of the study."""
        return None if self.complete or not self.experiments else tuple(sorted(self.experiments))


def parse_run(name: str, experiments: Sequence[str]) -> RunSpec:
    """Return the run of this name in a study with these experiments.

    Raises ValueError for an invalid name, or an experiment that the study does not have.
    """
    if name == REFERENCE:
        return RunSpec(name, (), False)
    check_run_name(name)
    whole, at, step = name.partition("@")
    if at:
        return dataclasses.replace(parse_run(whole, experiments), name=name, start=int(step))
    kind, _, one = name.partition("/")
    if kind not in SUBSETS:
        edited = tuple(experiments) if kind in (RUN, SHAM) else ()
        return RunSpec(name, edited, len(edited) == len(experiments))
    if one not in experiments:
        raise ValueError(f"run {name!r}: the study has only the experiments {sorted(experiments)}")
    chosen = [each for each in experiments if (each == one) == (kind == "alone")]
    return RunSpec(name, tuple(chosen), len(chosen) == len(experiments))


def check_run_name(name: str) -> None:
    """Raise ValueError, listing the valid names, for an invalid name of a run."""
    whole, at, step = name.partition("@")
    kind, slash, one = whole.partition("/")
    known = whole in PLAIN or (kind in SUBSETS and slash and one and "/" not in one)
    continues = whole in (CONTROL, RUN) or kind in SUBSETS
    if not known or (at and not (continues and _STEP.fullmatch(step))):
        subsets = [f"{kind}/NAME" for kind in SUBSETS]
        possible = [*PLAIN, *subsets, *(f"{each}@STEP" for each in (CONTROL, RUN, *subsets))]
        raise ValueError(f"the run must be one of {', '.join(possible)}, not {name!r}")


def checks_pooling(name: str) -> bool:
    """Return whether a run is of some experiments or a what-if run, which no study needs."""
    return "@" in name or name.partition("/")[0] in SUBSETS


def _other_seed(name: str, seed: int) -> int:
    digest = hashlib.blake2b(f"{name}\x1f{seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1
