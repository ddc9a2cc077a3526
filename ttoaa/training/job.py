"""What a training run is asked to do."""

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
    """All that one training run needs, resolved."""

    folder: pathlib.Path
    seed: int
    program: CompiledStep
    identity: Mapping[str, Any]
    """Fingerprints of what decides the batches and the numerics: a checkpoint must agree."""
    batches: Callable[[int, np.ndarray], Iterator[Batch]]
    """The loader from a step on, of some rows of each batch; a batch that controllers decide on
    is not asked for before they did."""
    probes: ProbeList
    validation_NxL: np.ndarray
    label: str
    controls: ControllerSet = dataclasses.field(default_factory=ControllerSet)
    init_from: initial.InitFrom | None = None
    config: str = ""
    """The resolved gin config, kept beside the records."""
    profile: range = range(0)
    """Steps to trace."""
    began: float | None = None
    """time.time() when the process began, for the goodput; by default now."""
    ours: Callable[[], bool] = lambda: True
    """Whether no other trainer has taken the run over; asked of the primary's before a save."""

    @property
    def steps(self) -> int:
        return self.program.geometry.steps
