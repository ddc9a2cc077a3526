"""The study's reference model: experiments choose by it before the plan, or judge texts by it.

It is never a run of the study itself: selecting items by a model and then reporting on it shows
regression to the mean.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import gin

from ttoaa import shared_files
from ttoaa.config_fields import Count, Name, PositiveInt, config_class
from ttoaa.data.corpus import MANIFEST
from ttoaa.identity import digest, restore
from ttoaa.json_io import parse_json
from ttoaa.model.decoder import DecoderConfig
from ttoaa.training.checkpoint_io import CheckpointError, newest_meta, read_meta
from ttoaa.training.checkpoints import Keep
from ttoaa.training.config import Training
from ttoaa.training.init_from import available_steps, checkpoints_folder
from ttoaa.training.optimizer import Optimizer
from ttoaa.training.run_records import ATTEMPTS, read_finished


@gin.configurable
@config_class
class TrainedReference:
    """A model that the study trains once, for all seeds, with `ttoaa train --run=reference`.

    It trains on the study's corpus without any experiment, from other initial weights and in
    another order than every run.
    """

    steps: PositiveInt | None = None
    """By default as many as the study's runs."""
    model: DecoderConfig | None = None
    """By default that of the study's runs."""
    optimizer: Optimizer | None = None
    """By default that of the study's runs, with its schedule over `steps`."""

    def training(self, training: Training) -> Training:
        """Return how it trains: as the study's runs, but it keeps its last checkpoint alone."""
        own = self.optimizer or training.optimizer
        return dataclasses.replace(training, optimizer=own, keep=Keep(last=1))

    def check(self, training: Training, steps: int) -> None:
        """Raise ValueError for settings that do not fit; runs of the study have `steps` steps."""
        try:
            self.training(training).check(self.steps or steps)
        except ValueError as error:
            raise ValueError(f"TrainedReference: {error}") from error


@gin.configurable
@config_class
class ReferenceCheckpoint:
    """A checkpoint of another study, or an imported one; it must use the study's tokenizer."""

    folder: Name
    """Folder of a run or an import, or its checkpoints/ folder."""
    step: Count | None = None
    """By default the newest checkpoint, of a run that has ended."""


Reference = TrainedReference | ReferenceCheckpoint


class FoundReference(NamedTuple):
    """A checkpoint to use as the reference model."""

    folder: pathlib.Path
    """Of checkpoints."""
    step: int
    model: DecoderConfig
    sha256: str
    """Of the fingerprints of its parameters."""


def find_reference(reference: Reference | None, trained: pathlib.Path) -> FoundReference:
    """Look up the reference model, whose run is in `trained` if the study trains it.

    Raises ValueError if the study has none, or if it is not there yet.
    """
    if reference is None:
        raise ValueError("the study has no reference model: set Study.reference")
    if isinstance(reference, TrainedReference):
        finished = read_finished(trained)
        if finished is None:
            raise ValueError(
                f"the reference model in {trained} is not trained: run ttoaa train "
                f"--run=reference --workdir={trained.parent}"
            )
        return _checkpoint(trained / "checkpoints", finished["step"])
    folder = checkpoints_folder(reference.folder)
    run = folder.parent
    if reference.step is None and (run / ATTEMPTS).exists() and read_finished(run) is None:
        raise ValueError(
            f"the reference model: {run} has not ended: wait for it, or set "
            "ReferenceCheckpoint.step"
        )
    return _checkpoint(folder, reference.step)


def is_deleted(reference: Reference | None, trained: pathlib.Path) -> bool:
    """Whether no part of the reference model's checkpoint is there, as after its deletion.

    A reference model that is there and cannot be read is not deleted: `find_reference` says why.
    """
    if isinstance(reference, ReferenceCheckpoint):
        folder, step = checkpoints_folder(reference.folder), reference.step
    else:
        folder, step = trained / "checkpoints", None
    return not any(
        name.isdecimal() and step in (None, int(name)) for name in shared_files.names(folder)
    )


def vocabulary_of(checkpoints: pathlib.Path) -> str | None:
    """Return the sha256 of the tokenizer of a run's study; None for an import, or a lone run."""
    folders = checkpoints.resolve().parents
    if not (folders[0] / ATTEMPTS).exists():
        return None
    for root in folders[1:3]:  # of `run` and of `alone/NAME`
        manifest = root / "corpus" / MANIFEST
        if manifest.is_file():
            content = parse_json(manifest.read_bytes(), manifest, dict[str, Any])
            return str(content.get("vocabulary"))
    return None


def _checkpoint(folder: pathlib.Path, step: int | None) -> FoundReference:
    try:
        steps = available_steps(folder, step)
    except ValueError as error:
        raise ValueError(f"the reference model: {error}") from error
    try:
        meta = newest_meta(folder) if step is None else read_meta(folder, step)
    except CheckpointError as error:
        raise ValueError(f"the reference model: {error}: restore it from a copy") from error
    if meta is None:
        raise ValueError(f"the reference model: all checkpoints {steps} in {folder} are damaged")
    if "model" not in meta.get("identity", {}):
        raise ValueError(
            f"the reference model: checkpoint {meta['step']} in {folder} does not say what model "
            "it is of: import it again"
        )
    model = restore(DecoderConfig, meta["identity"]["model"])
    return FoundReference(folder, meta["step"], model, digest(meta["fingerprints"]["params"]))
