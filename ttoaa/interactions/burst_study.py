"""The study of bursts: short continuations of a checkpoint with some of a study's experiments.

It lives in `<workdir>/bursts/<name>/`, a folder like that of any study, whose runs are the rows of
the matrix (see `ttoaa.runs`): the null row is `control`. All rows of a seed share one plan.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ttoaa import bucket, identity
from ttoaa.author_errors import blame
from ttoaa.checksums import read_record, write_record
from ttoaa.config import Study
from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order
from ttoaa.experiments.base import Experiment
from ttoaa.interactions.planted import plant
from ttoaa.planning.burst_size import BurstSize, planned_sizes
from ttoaa.planning.plan import Edits
from ttoaa.runs import CONTROL
from ttoaa.study_handle import StudyHandle
from ttoaa.training.checkpoint_io import read_meta
from ttoaa.training.checkpoints import Keep
from ttoaa.training.init_from import InitFrom, available_steps
from ttoaa.training.lr_schedules import Constant
from ttoaa.training.reference import ReferenceCheckpoint
from ttoaa.workdir import Workdir

BURSTS = "bursts"
_RECORD = "bursts.json"
_ELSEWHERE = "name another folder with --name, or move that one away"


@dataclasses.dataclass(frozen=True)
class Length:
    """How long bursts are, and how much experiments insert."""

    steps: int
    share: float
    """Tokens of an experiment, per token of the burst."""
    planted: str = ""
    """The kind of a planted interaction (see `interactions.planted`)."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The checkpoint that bursts continue."""

    init: InitFrom
    sha256: str
    stream: Order
    """The training order, from the first row that the checkpoint was not trained on."""
    learning_rate: float
    """That of the next update."""

    @property
    def step(self) -> int:
        assert self.init.step is not None
        return self.init.step


def find_source(
    handle: StudyHandle, step: int, folder: str | None, rate: float | None = None
) -> Source:
    """Look up a checkpoint: of the study's control run, or of `folder`, a run or an import.

    Bursts from a run on the study's own stream go on where it stopped; from another one they begin
    where the study does. So does the learning rate, unless `rate` is given.

    Raises ValueError for a checkpoint that does not exist or has no optimizer state, and for one at
    the end of the learning-rate schedule.
    """
    study, workdir = handle.config, handle.workdir
    # By its URL, if it is in a bucket: the path of the copy is another one on another machine.
    run = bucket.named_by_url(str(workdir.run(CONTROL)))
    init = InitFrom(folder or run, step, optimizer=True)
    available_steps(init.checkpoints, step)
    meta = read_meta(init.checkpoints, step)
    if "opt" not in meta["fingerprints"]:
        raise ValueError(f"checkpoint {step} in {init.checkpoints} has no optimizer state")
    stream, made = handle.order, meta.get("identity", {})
    same = (made.get("corpus"), made.get("order")) == (
        handle.corpus.fingerprint,
        stream.fingerprint,
    )
    first, end = step if same else 0, study.geometry.steps
    if rate is None and first >= end:
        raise ValueError(
            f"checkpoint {step} is at the end of the learning-rate schedule of {end} steps: "
            "take an earlier one, or give --learning_rate"
        )
    if rate is None:
        rate = float(study.training.optimizer.schedule.over(end)(jnp.int32(first)))
    stream = dataclasses.replace(stream, start=first * study.geometry.batch)
    return Source(init, meta["sha256"], stream, rate)


@dataclasses.dataclass(frozen=True)
class BurstStudy:
    """The bursts from one checkpoint."""

    root: pathlib.Path
    """`<workdir>/bursts/<name>`."""
    config: Study
    source: Source
    untestable: Mapping[str, str]
    """The reason for each experiment that has no burst."""
    corpus: Corpus
    parent_config: str
    """The resolved gin config of the study."""

    def handle(self, seed: int) -> "BurstHandle":
        """Return the seed's part; every seed has another stretch of the stream."""
        rows = self.config.geometry.sequences
        stream = dataclasses.replace(
            self.source.stream, start=self.source.stream.start + seed * rows
        )
        workdir = Workdir(self.root, seed)
        return BurstHandle(self.config, workdir, verify=False, stream=stream, shared=self.corpus)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BurstHandle(StudyHandle):
    """One seed of a study of bursts."""

    stream: Order
    shared: Corpus

    @functools.cached_property
    def corpus(self) -> Corpus:
        return self.shared

    @functools.cached_property
    def order(self) -> Order:
        return self.stream


def make_burst_study(handle: StudyHandle, source: Source, length: Length, name: str) -> BurstStudy:
    """Derive the bursts from a checkpoint, and open or begin their folder, of this name.

    Raises ValueError if the folder holds others.
    """
    parent, root = handle.config, handle.workdir.root / BURSTS / name
    experiments, untestable = burst_experiments(parent, handle.plan, length)
    optimizer: Any = parent.training.optimizer
    try:
        optimizer = dataclasses.replace(optimizer, schedule=Constant(source.learning_rate))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(optimizer).__name__} does not take another schedule, which bursts need: make "
            f"`schedule` a field ({error})"
        ) from error
    steps, judged = length.steps, None
    training = dataclasses.replace(
        parent.training, optimizer=optimizer, keep=Keep(), checkpoint_every=steps
    )
    if any(experiment.needs_reference for experiment in experiments):
        found = handle.reference
        judged = ReferenceCheckpoint(str(found.folder), found.step)
    config = dataclasses.replace(
        parent,
        name=f"{parent.name}, bursts from step {source.step}",
        geometry=dataclasses.replace(parent.geometry, steps=steps),
        training=dataclasses.replace(training, validate_every=steps),
        experiments=experiments,
        init_from=source.init,
        reference=judged,
        runs=(),
        validation_sequences=0,
    )
    made_of = identity.identity(
        checkpoint=source.sha256,
        first_row=source.stream.start,
        length=length,
        learning_rate=source.learning_rate,
        experiments={experiment.name: experiment for experiment in experiments},
    )
    _open_folder(root, handle.workdir.corpus, made_of)
    text = handle.workdir.config.read_text(encoding="utf-8")
    return BurstStudy(root, config, source, untestable, handle.corpus, text)


def burst_experiments(
    study: Study, plan: Edits, length: Length
) -> tuple[list[Experiment], dict[str, str]]:
    """Return the experiments as a burst has them, and why the others have none, by name."""
    geometry = dataclasses.replace(study.geometry, steps=length.steps)
    tokens, found, reasons = round(length.share * geometry.tokens), [], {}
    for experiment in study.experiments:
        with blame(experiment.name):
            planned = planned_sizes(plan, experiment.name)
            burst = experiment.burst(BurstSize(tokens, geometry, planned))
        if burst is None:
            reasons[experiment.name] = experiment.no_burst
        else:
            found.append(burst)
    if length.planted:
        found.append(plant(length.planted, found))
    if not found:
        raise ValueError(f"no experiment of the study has a burst: {reasons}")
    return found, reasons


def _open_folder(root: pathlib.Path, corpus: pathlib.Path, made_of: Mapping[str, Any]) -> None:
    """Begin the folder of bursts, or check that it holds those of this identity."""
    path, link = root / _RECORD, root / "corpus"
    if path.exists():
        record = read_record(path, dict[str, Any], "move the folder away")
        identity.check(root, record, made_of, _ELSEWHERE)
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # it is there, or another job makes it now
        link.symlink_to(os.path.relpath(corpus, root))
    if not path.exists():
        write_record(path, made_of)
