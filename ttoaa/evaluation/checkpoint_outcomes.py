"""Score a checkpoint: restore its parameters once, then make a table for each experiment.

The evaluation mesh does not depend on the devices that the checkpoint was trained on. Outcomes see
a checkpoint as a `CheckpointScorer` (see experiments.scorer.Scorer).
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from ttoaa.config import Study
from ttoaa.data.corpus import MANIFEST
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.evaluation.trained_rows import TrainedRows
from ttoaa.evaluation.work_list import Work
from ttoaa.experiments.base import Experiment, Model
from ttoaa.json_io import read_json_lines
from ttoaa.locks import pin
from ttoaa.model.decoder import DecoderConfig, Params, abstract_params
from ttoaa.model.sharding import Layout, make_mesh, shardings, with_shardings
from ttoaa.planning import controller_log
from ttoaa.runs import RUN
from ttoaa.scoring.generation import generate
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.least_likely import least_likely
from ttoaa.scoring.likelihood import (
    Moments,
    greedy_matches,
    log_likelihoods,
    vocabulary_moments,
)
from ttoaa.scoring.requests import Request, Sampling
from ttoaa.study_handle import StudyHandle
from ttoaa.training.checkpoint_io import read_checkpoint
from ttoaa.training.multihost import first_line
from ttoaa.training.run_records import ArmsLine, ProbesLine, check_run
from ttoaa.training.throughput import Ledger


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its parameters on this job's devices (see experiments.scorer.Model)."""

    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    generation: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """The phase of the ledger that `generate` belongs to."""

    def log_likelihood(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return log_likelihoods(self.config, self.params, requests)

    def greedy_matches(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return greedy_matches(self.config, self.params, requests)

    def vocabulary_moments(self, requests: Sequence[Request]) -> list[Moments]:
        return vocabulary_moments(self.config, self.params, requests)

    def least_likely(
        self, prompts: Sequence[np.ndarray], count: int, among: np.ndarray
    ) -> np.ndarray:
        return least_likely(self.config, self.params, prompts, count, among)

    def embedding_gradients(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return embedding_gradients(self.config, self.params, requests)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        keys: Sequence[int | str] | None = None,
    ) -> list[np.ndarray]:
        with self.generation():
            return generate(self.config, self.params, prompts, sampling, keys=keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointScorer(LoadedModel):
    """Score with the parameters of `step`; all tables are those of one experiment."""

    step: int
    items: pd.DataFrame
    probes: pd.DataFrame
    decisions: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    copies: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    trained: TrainedRows
    find_reference: Callable[[], Model]
    """Loads the reference model, or raises ValueError without one."""
    find_arm_losses: Callable[[], pd.DataFrame]

    @property
    def reference(self) -> Model:
        return self.find_reference()

    @property
    def arm_losses(self) -> pd.DataFrame:
        return self.find_arm_losses()

    def reserve(self, windows: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.trained.reserve(windows)

    def rows(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.trained.rows(positions)

    @property
    def edited_rows(self) -> np.ndarray:
        return self.trained.edited_rows

    def masked(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        return self.trained.masked(positions)

    def noise(self, positions: Sequence[int] | np.ndarray, fresh: int = 0) -> np.ndarray:
        return self.trained.noise(positions, fresh)


def read_probes(run: pathlib.Path, experiment: str, step: int) -> pd.DataFrame:
    """Read the probes of one experiment up to `step`: columns step, probe, row, loss."""
    rows = [
        (line["step"], line["probe"], row, loss)
        for line in read_json_lines(run / "probes.jsonl", ProbesLine)
        if line["experiment"] == experiment and line["step"] <= step
        for row, loss in enumerate(line["loss"])
    ]
    return pd.DataFrame(rows, columns=["step", "probe", "row", "loss"])


def read_arm_losses(run: pathlib.Path, arms: Mapping[int, str], step: int) -> pd.DataFrame:
    """Read the losses of arms, given as {number: condition}, as `Scorer.arm_losses`.

    A line of the file counts updates: that of batch k has the step k + 1.
    """
    rows = [
        (line["step"] - 1, arms[int(arm)], loss / targets, int(targets))
        for line in read_json_lines(run / "arms.jsonl", ArmsLine)
        if line["step"] <= step
        for arm, (loss, targets) in line["arms"].items()
        if int(arm) in arms and loss is not None and targets
    ]
    return pd.DataFrame(rows, columns=["step", "condition", "loss", "targets"])


def layout_for(layout: Layout, devices: int) -> Layout:
    """Return the training layout as far as the number of devices allows; the rest are replicas.

    Each size divides that of training, so whatever training sharded can be sharded this way.
    """
    tensor = math.gcd(layout.tensor, devices)
    return Layout(fsdp=math.gcd(layout.fsdp, devices // tensor), tensor=tensor)


def mesh_for(study: Study) -> Mesh | None:
    """Return a mesh over all devices; None if there is only one.

    Raises ValueError if no device is free for this process, or several processes share them.
    """
    try:
        devices, processes = jax.devices(), jax.process_count()
    except RuntimeError as error:
        raise ValueError(
            f"no device to score on: {first_line(error)}: end the process that holds it, or set "
            "JAX_PLATFORMS=cpu"
        ) from error
    if processes > 1:
        raise ValueError(
            f"an evaluation job is one process, but its devices belong to {processes}: give "
            "each job its own (on a TPU host, TPU_PROCESS_BOUNDS=1,1,1 and "
            "TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1); jobs in one folder share the work"
        )
    return make_mesh(layout_for(study.layout, len(devices))) if len(devices) > 1 else None


def load_reference(handle: StudyHandle, mesh: Mesh | None) -> LoadedModel:
    """Read the reference model onto the mesh; ValueError without one."""
    found = handle.reference
    with pin(found.folder, found.step):
        abstract = abstract_on(found.model, mesh)
        params = read_checkpoint(found.folder, found.step, params=abstract)["params"]
    return LoadedModel(config=found.model, params=params, tokenizer=handle.corpus.tokenizer)


def abstract_on(model: DecoderConfig, mesh: Mesh | None) -> Any:
    """The abstract parameters to restore, each with its sharding."""
    abstract = abstract_params(model)
    return abstract if mesh is None else with_shardings(abstract, shardings(mesh, abstract))


def within(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Set the mesh, if there is one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Score checkpoints of one study on this job's devices."""

    handle: StudyHandle

    def open(self) -> None:
        """Open what every outcome needs; raise ValueError for errors of the study as a whole."""
        corpus, plan = self.handle.corpus, self.handle.plan
        if corpus.fingerprint != plan.contents["corpus"]:
            raise ValueError(
                f"{corpus.folder / MANIFEST} differs from the one of {plan.folder}: "
                "restore it from a copy"
            )
        _ = self.mesh

    def kept(self, work: Work) -> contextlib.AbstractContextManager[None]:
        """Pin the checkpoint; raise CheckpointGone if it has just been deleted."""
        return pin(self.handle.workdir.run(work.kind) / "checkpoints", work.step)

    def restore(self, work: Work) -> Any:
        """Read the parameters onto this job's devices; raise CheckpointError if damaged.

        Raises ValueError if a record of the run is damaged.
        """
        run = self.handle.workdir.run(work.kind)
        check_run(run)
        folder = run / "checkpoints"
        abstract = abstract_on(self.handle.config.model, self.mesh)
        return read_checkpoint(folder, work.step, params=abstract)["params"]

    def place(self, params: Any) -> Any:
        """Return the parameters of a model in memory, laid out for this job's devices."""
        abstract = abstract_on(self.handle.config.model, self.mesh)
        if self.mesh is None:
            return jax.device_put(params, jax.devices()[0])
        return jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract))

    def table(
        self, work: Work, experiment: Experiment, params: Any, ledger: Ledger
    ) -> pd.DataFrame:
        """Run the outcome and return its table; raises whatever the outcome raises.

        `ledger` gets the seconds of generation as a phase of its own.
        """
        run, name = self.handle.workdir.run(work.kind), experiment.name
        with within(self.mesh):
            return experiment.outcome(
                CheckpointScorer(
                    step=work.step,
                    items=self.handle.items(experiment),
                    probes=read_probes(run, name, work.step),
                    tokenizer=self.handle.corpus.tokenizer,
                    config=self.handle.config.model,
                    params=params,
                    trained=self._trained_on(work.kind, name),
                    find_reference=lambda: self.reference_for(experiment),
                    find_arm_losses=lambda: read_arm_losses(run, self._arms(name), work.step),
                    decisions=controller_log.log_table(
                        run / controller_log.LOG_NAME, name, work.step
                    ),
                    copies=self.handle.copies(experiment),
                    generation=functools.partial(ledger.phase, f"generate/{name}"),
                )
            )

    def _arms(self, experiment: str) -> dict[int, str]:
        """Return the condition of each arm of an experiment, and '' for the corpus."""
        own = [arm for arm in self.handle.plan.arms if arm["experiment"] == experiment]
        return {0: "", **{arm["id"]: arm["condition"] for arm in own}}

    def _trained_on(self, run: str, experiment: str) -> TrainedRows:
        """Return the rows as this run has them if the experiment is in it, or as the full run has.

        The control run is always asked about those of the full run. A what-if run has the rows of
        the run that it continues up to there.
        """
        handle, config, spec = self.handle, self.handle.config, self.handle.run_spec(run)
        own = spec.experiments if spec.subset and experiment in spec.experiments else None
        rule, width = config.training.repetition_filter, config.model.width
        rows = TrainedRows(handle.plan, handle.corpus, handle.order, width, rule, own)
        if spec.start is None or experiment not in spec.experiments:
            return rows
        earlier = None if spec.base == RUN else ()
        return dataclasses.replace(rows, start=spec.start * config.geometry.batch, earlier=earlier)

    def reference_for(self, experiment: Experiment) -> LoadedModel:
        """Return the reference model; ValueError if the experiment does not declare its need."""
        if not experiment.needs_reference:  # its tables would not depend on which model it is
            raise ValueError(
                "the outcome asks model.reference, so the experiment must declare needs_reference"
            )
        return self.reference

    @functools.cached_property
    def reference(self) -> LoadedModel:
        """The reference model, loaded when an outcome first asks it."""
        return load_reference(self.handle, self.mesh)

    @functools.cached_property
    def mesh(self) -> Any:
        return mesh_for(self.handle.config)
