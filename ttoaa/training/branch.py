"""What-if runs: continue another run of the study from one of its checkpoints, to the bit.

A branch takes over everything that a resume would: parameters, optimizer state, the state of the
guard, the position in the stream, and the records and controllers' decisions up to that step. It
then trains on the same plan with an experiment less or more. Once it has a checkpoint, it is a run
like any other and does not need the other run again.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from ttoaa import identity
from ttoaa.locks import pin
from ttoaa.planning.controller_log import LOG_NAME
from ttoaa.training.checkpoint_io import (
    committed_steps,
    on_all_processes,
    read_checkpoint,
    read_meta,
)
from ttoaa.training.checkpoints import Restored
from ttoaa.training.multihost import from_primary
from ttoaa.training.run_records import check_grown
from ttoaa.workdir import write_bytes

_FOLLOWS = ("plan", "subset", "branch")
"""Parts of an identity that follow from which experiments a run has."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """The checkpoint that a what-if run continues, as its identity names it."""

    run: str
    step: int
    sha256: str
    folder: pathlib.Path = dataclasses.field(repr=False)
    """Of the run; not part of the identity, since studies may be moved."""

    def __str__(self) -> str:
        return f"checkpoint {self.step} of {self.run} (sha256 {self.sha256[:12]})"

    @property
    def record(self) -> dict[str, Any]:
        """The source, for the provenance of the run."""
        source = {"run": self.run, "step": self.step, "sha256": self.sha256}
        return {**source, "folder": str(self.folder.resolve()), "continue_step": True}

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.folder / "checkpoints"

    def read_meta(self) -> dict[str, Any]:
        """Return the metadata of the checkpoint; raise ValueError if it is another one by now."""
        meta = read_meta(self.checkpoints, self.step)
        if meta["sha256"] != self.sha256:
            raise ValueError(
                f"checkpoint {self.step} in {self.checkpoints} was replaced while this run began "
                "from it: run the command again"
            )
        return meta

    def check(self, ours: Mapping[str, Any], edited: bool) -> None:
        """Raise ValueError if the continued run differs in more than its experiments.

        `ours` is the identity of the what-if run; `edited` says whether the continued run has
        experiments.
        """
        theirs = from_primary(lambda: self.read_meta()["identity"])
        if theirs.get("controllers") != ours["controllers"]:
            raise ValueError(
                f"{self.folder} has other controllers that decide: a what-if run cannot remove or "
                "add an experiment whose controller fills slots"
            )
        follows = _FOLLOWS[1:] if edited and ours["plan"] != "none" else _FOLLOWS
        alike = {name: value for name, value in ours.items() if name not in follows}
        identity.check(self.folder, theirs, alike, identity.RETRAIN)

    def restore(self, folder: pathlib.Path, like: Mapping[str, Any]) -> Restored:
        """Load the checkpoint, laid out like the abstract trees params, opt and guard.

        Copies the controllers' decisions up to it into `folder`, that of the what-if run. Every
        process calls it.
        """
        with pin(self.checkpoints, self.step):
            meta = on_all_processes(self.read_meta)
            from_primary(functools.partial(self._copy_decisions, folder, meta))
            trees = read_checkpoint(self.checkpoints, self.step, **like)
        return Restored(self.step, trees.pop("params"), trees.pop("opt"), meta, trees)

    def _copy_decisions(self, folder: pathlib.Path, meta: Mapping[str, Any]) -> None:
        decided = check_grown(self.folder, meta).get(LOG_NAME)
        if decided is not None:
            write_bytes(folder / LOG_NAME, decided)


def find_branch(run: str, step: int, folder: pathlib.Path, end: int) -> Branch:
    """Return the branch from a checkpoint of the run in `folder`, which trains to step `end`.

    Every process calls it. Raises ValueError if there is no such checkpoint, or it is at the end of
    training.
    """
    sha256 = from_primary(functools.partial(_look_up, run, step, folder / "checkpoints", end))
    return Branch(run, step, sha256, folder)


def _look_up(run: str, step: int, checkpoints: pathlib.Path, end: int) -> str:
    steps = [each for each in committed_steps(checkpoints) if each < end]
    if step not in steps:
        raise ValueError(
            f"{checkpoints} has no checkpoint {step} before the end of training, only {steps}: a "
            f"what-if run continues one of {run}"
        )
    return str(read_meta(checkpoints, step)["sha256"])
