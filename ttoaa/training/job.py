"""The description of one training run, which `ttoaa.training.loop` trains."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ttoaa.data.loader import Batch
from ttoaa.experiments.context import ProbeList
from ttoaa.training.branch import Branch
from ttoaa.training.controller_loop import ControllerSet
from ttoaa.training.init_from import InitFrom
from ttoaa.training.step import CompiledStep, State
from ttoaa.training.topology import topology
from ttoaa.training.trackers import Tracking


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
    """The run's name with its seed, such as 'alone-s1/canaries'."""
    controls: ControllerSet = dataclasses.field(default_factory=ControllerSet)
    noisy: bool = False
    """Whether some batches have noise, which takes a second program."""
    init_from: InitFrom | None = None
    branch: Branch | None = None
    """The checkpoint of another run that this run continues."""
    config: str = ""
    """The resolved gin config, stored next to the records."""
    preregistration: str = ""
    """The sha256 of the study's preregistration, recorded when the run begins; empty without."""
    profile: range = range(0)
    """Steps to trace."""
    began: float | None = None
    """time.time() when the process began, for the goodput; by default now."""
    ours: Callable[[], bool] = lambda: True
    """Whether no other trainer has taken the run over; processes ask before a save."""
    initial: Callable[[], tuple[State, dict[str, Any]]] | None = None
    """Returns the state that the run begins with, as `initial_state` does, which is the default.
    Its arrays are donated to the first step."""
    tracking: Tracking = dataclasses.field(default_factory=Tracking)
    saves: bool = True
    """Whether checkpoints are saved. Otherwise a run that ends early begins again."""

    @property
    def steps(self) -> int:
        return self.program.geometry.steps

    @property
    def topology(self) -> dict[str, Any]:
        """The devices, and how the step is laid out and executed on them."""
        program = self.program
        return {**topology(), "mesh": dict(program.mesh.shape), "execution": repr(program.resolved)}
