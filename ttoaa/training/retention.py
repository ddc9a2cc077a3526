"""Which checkpoints stay, and how the others go: only the trainer's primary process deletes."""

import dataclasses
import itertools
import logging
import pathlib
import shutil
from collections.abc import Callable, Sequence

import gin

from ttoaa.training import pins


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Keep:
    """Checkpoints that stay; with neither `last` nor `every`, all do."""

    last: int | None = None
    """So many of the newest."""
    every: int | None = None
    """Those of steps that it divides."""
    milestones: tuple[int, ...] = ()
    """Those of these steps, for ever."""

    def __post_init__(self) -> None:
        for name in ("last", "every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Keep.{name} must be a positive integer or None, not {value!r}")
        steps = self.milestones
        whole = isinstance(steps, list | tuple) and all(isinstance(s, int) for s in steps)
        if not whole or any(s < 1 for s in steps):
            raise ValueError(f"Keep.milestones must be steps such as (100, 1000), not {steps!r}")
        object.__setattr__(self, "milestones", tuple(steps))

    def surplus(self, steps: Sequence[int], good: Callable[[int], bool]) -> list[int]:
        """Steps of finished checkpoints, ascending, that may go.

        The newest good one and all after it never do, and `last` counts good ones only.
        """
        if self.last is None and self.every is None:
            return []
        newest = list(itertools.islice(filter(good, reversed(steps)), self.last or 1))
        return [
            step
            for step in steps
            if newest
            and step < newest[0]
            and not (step in newest or step in self.milestones)
            and not (self.every and step % self.every == 0)
        ]


def delete(folder: pathlib.Path, steps: Sequence[int]) -> None:
    """Deletes those of the checkpoints that nobody has pinned; the others may go another time.

    A checkpoint loses its name first, in one step: none is ever half there. What a kill leaves
    goes at the next call. A failure is told and does not end the run.
    """
    try:
        for step in steps:
            with pins.deleting(folder, step) as free:
                if free:
                    (folder / str(step)).rename(folder / f"deleting-{step}")
        for path in folder.glob("deleting-*"):
            shutil.rmtree(path)
    except OSError as error:
        logging.warning("%s: an old checkpoint cannot be deleted: %s", folder, error)
