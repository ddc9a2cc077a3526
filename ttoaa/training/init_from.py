"""Start a run from a checkpoint: another run's or an import's parameters, with or without moments.

By default the run is a new one: step 0, batch 0, the start of its own schedule. With `optimizer` it
also takes over Adam's moments and their count, which corrects their bias; the learning rate still
follows the new run's step. With `continue_step` it continues at the source's step, with that step's
batch and the new schedule's rate there: to make an old run longer, say.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin

from ttoaa import bucket, shared_files
from ttoaa.config_fields import Count, Name, config_class
from ttoaa.identity import SCHEMA, check, describe
from ttoaa.locks import pin
from ttoaa.training.checkpoint_io import (
    committed_steps,
    newest_meta,
    on_all_processes,
    read_checkpoint,
    read_meta,
)
from ttoaa.training.multihost import from_primary


def available_steps(folder: pathlib.Path, step: int | None = None) -> list[int]:
    """Return the steps of finished checkpoints, ascending.

    Raises:
        ValueError: there is none, or none of the requested step.
    """
    steps = committed_steps(folder)
    if not steps:
        raise ValueError(f"{folder} has no checkpoint: name a folder of a run or an import")
    if step not in (None, *steps):
        raise ValueError(f"{folder} has no checkpoint {step}, only {steps}")
    return steps


def checkpoints_folder(folder: str) -> pathlib.Path:
    """Return the checkpoints of the folder of a run, or the folder itself."""
    root = bucket.expand(folder)
    inner = root / "checkpoints"
    return inner if inner.is_dir() or shared_files.names(inner) else root


@gin.configurable
@config_class
class InitFrom:
    """The checkpoint that a run starts from, instead of random weights."""

    folder: Name
    """Folder of a run or an import, or its checkpoints/ folder."""
    step: Count | None = None
    """By default the newest checkpoint when the run starts."""
    optimizer: bool = False
    """Also take over Adam's moments and their count."""
    continue_step: bool = False
    """Continue at the source's step; needs the same corpus, order, batch and length."""

    def __post_init__(self) -> None:
        if self.continue_step and not self.optimizer:
            raise ValueError(
                "InitFrom.continue_step needs Adam's moments: set InitFrom.optimizer = True"
            )

    @property
    def checkpoints(self) -> pathlib.Path:
        return checkpoints_folder(self.folder)


class InitialState(NamedTuple):
    """What a run takes over from its source."""

    params: Any
    opt: Any
    """None if the run starts with fresh moments."""
    step: int
    """The step of the run's first batch."""
    record: dict[str, Any]
    """JSON for the run's provenance: the source, and how it differs from this run."""


def find_source(init: InitFrom | None, recorded: object = None) -> dict[str, Any] | None:
    """Describe the checkpoint that a run starts from: None, or InitFrom with its step and sha256.

    `recorded` is what the identity of a run that has already started says: if it is of the same
    InitFrom, the source is not looked up again, since it may have changed or been deleted.
    """
    if init is None:
        return None
    requested = describe(init)
    if isinstance(recorded, Mapping) and recorded.get("config") == requested:
        return dict(recorded)
    step, sha256 = from_primary(lambda: _look_up(init))
    return {"config": requested, "step": step, "sha256": sha256}


def _look_up(init: InitFrom) -> tuple[int, str]:
    folder = init.checkpoints
    try:
        steps = available_steps(folder, init.step)
    except ValueError as error:
        raise ValueError(f"InitFrom.folder: {error}") from error
    meta = newest_meta(folder) if init.step is None else read_meta(folder, init.step)
    if meta is None:
        raise ValueError(f"{folder} has no good checkpoint: those of steps {steps} are damaged")
    return meta["step"], meta["sha256"]


def load_source(init: InitFrom, params: Any, opt: Any, ours: Mapping[str, Any]) -> InitialState:
    """Load the source's leaves, laid out like the abstract trees; every process calls it.

    Args:
        ours: the run's identity, with `find_source(...)` as its "init_from".

    Raises:
        ValueError: the source changed, has other shapes or types, or does not fit the run.
    """
    folder = init.checkpoints
    step, sha256 = ours["init_from"]["step"], ours["init_from"]["sha256"]
    with pin(folder, step):
        meta = on_all_processes(lambda: read_meta(folder, step))
        source = f"checkpoint {step} in {folder}"
        if meta["sha256"] != sha256:
            raise ValueError(
                f"{source} is not the one that this run started from (sha256 {meta['sha256']}, not "
                f"{sha256}): put that one back, or use another --workdir"
            )
        if theirs := meta.get("identity", {}):  # an import may have none
            check(source, theirs, {"schema": SCHEMA}, "train or import it again")
        _check_model(source, theirs, ours)
        if init.continue_step:
            _check_stream(source, step, theirs, ours)
        requested = {"params": params, "opt": opt} if init.optimizer else {"params": params}
        trees = read_checkpoint(folder, step, **requested)
    start = step if init.continue_step else 0
    return InitialState(trees["params"], trees.get("opt"), start, _record(init, step, meta, ours))


def describe_start(record: Mapping[str, Any]) -> str:
    """Return a line that says what the run starts from."""
    what = "parameters and moments" if record["optimizer"] else "parameters"
    where = "continues at that step" if record["continue_step"] else "starts at step 0"
    other = f"; differs from it in {', '.join(record['differs'])}" if record["differs"] else ""
    return f"{what} of step {record['step']:,} in {record['folder']}; {where}{other}"


def _record(
    init: InitFrom, step: int, meta: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, Any]:
    theirs = meta.get("identity", {})
    differs = {
        name: {"there": theirs.get(name), "here": value}
        for name, value in ours.items()
        if theirs.get(name) != value and name not in ("init_from", "defaulted")
    }
    return {
        **dataclasses.asdict(init),
        "folder": str(init.checkpoints.resolve()),
        "step": step,
        "sha256": meta["sha256"],
        "identity": theirs,
        "differs": differs,
    }


def _check_model(source: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise ValueError for a model that computes something else from weights of the same shapes."""
    there, here = dict(theirs.get("model", {})), dict(ours["model"])
    for model in (there, here):
        if model.get("kv_heads", 0) is None:
            model["kv_heads"] = model["heads"]
    for name in ("heads", "kv_heads", "rope_theta", "norm_eps"):
        if name in there and there[name] != here.get(name):
            raise ValueError(
                f"{source} is of a model with {name} {there[name]}, this one has "
                f"{here.get(name)}: set DecoderConfig.{name} alike"
            )


def _check_stream(
    source: str, step: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Raise ValueError for another corpus, order, batch or length, and for a run that has ended.

    What the source does not say, as an import may not, is not checked.
    """
    there, here = theirs.get("geometry", {}), ours["geometry"]
    pairs = {name: (theirs.get(name), ours[name]) for name in ("corpus", "order")}
    pairs |= {name: (there.get(name), here[name]) for name in ("batch", "length")}
    for name, (old, new) in pairs.items():
        if old is not None and old != new:
            raise ValueError(
                f"{source} was made with {name} {old}, this run has {new}: InitFrom.continue_step "
                "needs the same; without it the run starts at step 0"
            )
    if here["steps"] <= step:
        raise ValueError(
            f"{source} is at or after the end of this run of {here['steps']} steps: raise "
            "Geometry.steps"
        )
