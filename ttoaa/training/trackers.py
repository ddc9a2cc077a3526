"""Show a run live in TensorBoard, Weights & Biases or trackio.

A tracker gets one row of scalars per step (`ttoaa.training.tracker_rows`). The files of the run are
the record: a tracker is filled up from them at every start.
"""

import dataclasses
import importlib
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

from ttoaa.checksums import read_record, write_record
from ttoaa.training.multihost import first_line

TRACKER = "tracker.json"
"""File of a run: its id in trackers, so that a resume continues the same run there."""
_FLUSH_SECONDS = 30.0
"""Between two updates of TensorBoard."""
_FINISH_SECONDS = 60
"""For the upload at the end of a run; the next start sends what is left."""


class Tracker(Protocol):
    """Where rows of scalars are shown; opened on the primary process only."""

    last: int
    """The newest step that it has when it is opened; -1 for none."""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        """Show the scalars of a step, which come in ascending order, each once."""
        ...

    def sync(self) -> None:
        """Put on disk what cannot be sent again after a kill."""
        ...

    def close(self, finished: bool) -> None:
        """Send what is left; `finished` says whether the run has ended."""
        ...


@dataclasses.dataclass(frozen=True)
class Tracking:
    """What a tracker is to show of a run."""

    kind: str | None = None
    """Of `TRACKERS`, in addition to TensorBoard."""
    project: str = "ttoaa"
    group: str = ""
    arms: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """The name of each arm's loss, such as 'canaries/loss/plain-16x'."""


def check(kind: str | None) -> None:
    """Raise ValueError if the package of a tracker or the login that it needs is missing."""
    if kind is None:
        return
    try:
        importlib.import_module(kind)
    except ImportError as error:
        raise ValueError(
            f"--tracker={kind} needs the package {kind}: pip install 'ttoaa[{kind}]' ({error})"
        ) from error
    if problem := TRACKERS[kind].problem():
        raise ValueError(f"--tracker={kind}: {problem}")


class TensorBoard:
    """Event files in `<run>/tensorboard`, a folder for every start.

    Events are written at once: the queue of tensorboardX's SummaryWriter cannot be waited for, and
    takes many times as long.
    """

    def __init__(self, folder: pathlib.Path, step: int) -> None:
        """`step` is that of the checkpoint that the run resumes from; -1 for a fresh run."""
        from tensorboardX.event_file_writer import EventsWriter  # imports torch if installed

        starts = len(list(folder.glob("*")))
        self.last = step if starts else -1
        name = f"{starts:02d}" + (f"-from-{self.last}" if self.last > 0 else "")
        path = folder / name  # short, as TensorBoard shows "run/tensorboard/<name>" next to curves
        path.mkdir(parents=True, exist_ok=True)  # the user may have removed an earlier start's
        self._writer = EventsWriter(str(path / "events"))
        self._flushed = time.monotonic()

    def log(self, step: int, row: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [{"tag": name, "simple_value": value} for name, value in row.items()]
        event = Event(step=step, wall_time=time.time(), summary=Summary(value=values))
        self._writer.write_event(event)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.sync()

    def sync(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self, finished: bool) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, online or offline ($WANDB_MODE).

    Files of an offline run cannot be continued, so each start writes them again from step 0.
    """

    def __init__(self, folder: pathlib.Path, name: str, config: Any, tracking: Tracking) -> None:
        import wandb

        run_id = _run_id(folder)
        for path in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
            shutil.rmtree(path)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or tracking.project,
            group=tracking.group,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=config,
            settings=wandb.Settings(console="off", finish_timeout=_FINISH_SECONDS),
        )
        self.last = self._run.starting_step - 1

    @staticmethod
    def problem() -> str:
        """Return why no run can be made, in one line; '' if nothing is known to be wrong."""
        import wandb

        online = wandb.setup().settings.mode not in ("offline", "dryrun", "disabled")
        if online and not wandb.login(prompt=False, verify=False):
            return "there is no login: run wandb login, or set WANDB_API_KEY or WANDB_MODE=offline"
        return ""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step, commit=True)

    def sync(self) -> None:
        """Do nothing: the next start asks the server what it has."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Trackio:
    """A run of trackio, on this machine or in a Space of Hugging Face ($TRACKIO_SPACE_ID)."""

    def __init__(self, folder: pathlib.Path, name: str, config: Any, tracking: Tracking) -> None:
        import trackio

        self._run = trackio.init(
            tracking.project,
            name=f"{name} {_run_id(folder)}",  # trackio continues runs by name
            group=tracking.group,
            config=config,
            resume="allow",
            embed=False,
        )
        self.last = self._run._next_step - 1

    @staticmethod
    def problem() -> str:
        """Return why no run can be made, in one line; '' if nothing is known to be wrong."""
        from huggingface_hub import get_token

        if os.environ.get("TRACKIO_SPACE_ID") and not get_token():
            return "TRACKIO_SPACE_ID is set without a login: run hf auth login, or set HF_TOKEN"
        return ""

    def log(self, step: int, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=step)

    def sync(self) -> None:
        """Do nothing: the next start asks trackio what it has."""

    def close(self, finished: bool) -> None:
        self._run.finish()


TRACKERS: dict[str, type[WandB] | type[Trackio]] = {"wandb": WandB, "trackio": Trackio}


def open_tracker(
    folder: pathlib.Path, name: str, config: Mapping[str, Any], tracking: Tracking
) -> list[Tracker]:
    """Open the tracker that was asked for, if one was.

    Args:
        folder: of the run.
        name: of the run in its study.
        config: what the tracker shows about the run, JSON.

    Raises:
        ValueError: it does not open.
    """
    if tracking.kind is None:
        return []
    try:
        return [TRACKERS[tracking.kind](folder, name, config, tracking)]
    except Exception as error:  # of any kind: the packages differ
        raise ValueError(f"--tracker={tracking.kind} fails: {first_line(error)}") from error


class _Id(TypedDict):
    id: str


def _run_id(folder: pathlib.Path) -> str:
    path = folder / TRACKER
    if not path.exists():
        write_record(path, {"id": secrets.token_hex(4)})
    fix = "remove it, and the run appears in the tracker a second time"
    return str(read_record(path, _Id, fix)["id"])
