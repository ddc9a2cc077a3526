"""Checkpoints that something begins from: which there are, and what they say of themselves.

What a run begins from: another run's parameters, or those of an import, and perhaps its moments.

Without `continue_step` the run is a new one: step 0, batch 0, its own schedule from its start.
With `optimizer` Adam's moments go on, and its count, which corrects their bias, while the learning
rate follows the new run's step. With `continue_step` the run goes on at the source's step, with
that step's batch and its rate by the new schedule: a longer run from an old one, say.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import gin

from ttoaa.identity import describe
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
    """Of the finished checkpoints; ValueError where there is none, or not the one asked for."""
    known = committed_steps(folder)
    if not known:
        raise ValueError(f"{folder} has no checkpoint: name a folder of a run or an import")
    if step not in (None, *known):
        raise ValueError(f"{folder} has no checkpoint {step}, only {known}")
    return known


@gin.configurable
@dataclasses.dataclass(frozen=True)
class InitFrom:
    """A checkpoint that a run begins from, instead of random weights."""

    folder: str
    """A run's folder, or one of checkpoints."""
    step: int | None = None
    """By default the newest when the run begins."""
    optimizer: bool = False
    """Also Adam's moments and count."""
    continue_step: bool = False
    """Go on at the source's step, on the same corpus, order, batch and length."""

    def __post_init__(self) -> None:
        if self.continue_step and not self.optimizer:
            raise ValueError("InitFrom.continue_step goes on with the moments: set optimizer too")

    @property
    def checkpoints(self) -> pathlib.Path:
        root = pathlib.Path(self.folder).expanduser()
        return root / "checkpoints" if (root / "checkpoints").is_dir() else root


class Initial(NamedTuple):
    params: Any
    opt: Any
    """None where the run begins with moments of its own."""
    step: int
    """Updates done: the first batch is that of this step."""
    record: dict[str, Any]
    """JSON for the run's provenance: the source, and in what it differs from this run."""


def found_source(
    init: InitFrom | None, recorded: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Describe the checkpoint that a run begins from: None, or InitFrom with its step and sha256.

    `recorded` is what the identity of a run that has already begun says: if it is of the same
    InitFrom, the source is not looked up again, since it may have changed or be gone.
    """
    if init is None:
        return None
    asked = describe(init)
    if recorded and recorded.get("config") == asked:
        return dict(recorded)
    step, sha256 = from_primary(lambda: _look_up(init))
    return {"config": asked, "step": step, "sha256": sha256}


def _look_up(init: InitFrom) -> tuple[int, str]:
    folder = init.checkpoints
    try:
        known = available_steps(folder, init.step)
    except ValueError as error:
        raise ValueError(f"InitFrom.folder: {error}") from error
    meta = newest_meta(folder) if init.step is None else read_meta(folder, init.step)
    if meta is None:
        raise ValueError(f"{folder} has no good checkpoint: those of steps {known} are damaged")
    return meta["step"], meta["sha256"]


def state(init: InitFrom, params: Any, opt: Any, ours: Mapping[str, Any]) -> Initial:
    """The source's leaves, laid out like the abstract trees; every process calls it.

    `ours` is the run's identity, with `found_source(...)` as its "init_from". Raises ValueError if
    the source is another than that, has other shapes or types, or does not go with the run.
    """
    folder = init.checkpoints
    step, sha256 = ours["init_from"]["step"], ours["init_from"]["sha256"]
    with pin(folder, step):
        meta = on_all_processes(lambda: read_meta(folder, step))
        if meta["sha256"] != sha256:
            raise ValueError(f"checkpoint {step} in {folder} is another than this run began with")
        source = f"checkpoint {step} in {folder}"
        _check_model(source, meta.get("identity", {}), ours)
        if init.continue_step:
            _check_stream(source, step, meta.get("identity", {}), ours)
        wanted = {"params": params, "opt": opt} if init.optimizer else {"params": params}
        found = read_checkpoint(folder, step, **wanted)
    start = step if init.continue_step else 0
    return Initial(found["params"], found.get("opt"), start, _record(init, step, meta, ours))


def described(record: Mapping[str, Any]) -> str:
    """One line for whoever starts the run."""
    what = "parameters and moments" if record["optimizer"] else "parameters"
    how = "goes on there" if record["continue_step"] else "starts at step 0"
    other = f"; other than there: {', '.join(record['differs'])}" if record["differs"] else ""
    return f"with {what} of step {record['step']:,} in {record['folder']}; {how}{other}"


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
    """Refuses what no shape shows, and what would make the same weights another function."""
    there, here = dict(theirs.get("model", {})), dict(ours["model"])
    for one in (there, here):
        if one.get("kv_heads", 0) is None:
            one["kv_heads"] = one["heads"]
    for name in ("heads", "kv_heads", "rope_theta", "norm_eps"):
        if name in there and there[name] != here.get(name):
            raise ValueError(
                f"{source} is of a model with {name} {there[name]}, this one has {here.get(name)}"
            )


def _check_stream(
    source: str, step: int, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> None:
    """Refuses another corpus, order, batch or length, as far as the source tells (an import may
    not), and a run that would already be over."""
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
        raise ValueError(f"{source} is as far as this run of {here['steps']} steps: raise them")
