"""The specification of a training run."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ttoaa.data.loader import Batch
from ttoaa.experiments.context import ProbeList
from ttoaa.training import init_from as initial
from ttoaa.training.controller_loop import ControllerSet
from ttoaa.training.step import CompiledStep


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that one training run needs, resolved."""

    folder: pathlib.Path
    seed: int
    program: CompiledStep
    identity: Mapping[str, Any]
    """What decides the batches and the numerics; a checkpoint must have the same."""
    batches: Callable[[int, np.ndarray], Iterator[Batch]]
    """The loader, from (first step, rows of each batch). A batch with slots is requested only
    after the controllers decided."""
    probes: ProbeList
    validation_NxL: np.ndarray
    label: str
    controls: ControllerSet = dataclasses.field(default_factory=ControllerSet)
    init_from: initial.InitFrom | None = None
    config: str = ""
    """The resolved gin config, stored next to the records."""
    profile: range = range(0)
    """Steps to trace."""
    began: float | None = None
    """time.time() when the process began, for the goodput; by default now."""
    ours: Callable[[], bool] = lambda: True
    """Whether no other trainer has taken the run over; the primary process asks before a save."""

    @property
    def steps(self) -> int:
        return self.program.geometry.steps
