"""Imported by a test's gin file: notes which places a run comes to, and kills it at one of them.

$TTOAA_TEST_KILL is "<point> <before|after> <visit> <signal>": the visit-th time, from 1, that this
process comes there. <workdir>/places-<process> has a line for every place that it came to.
"""

import collections
import contextlib
import functools
import inspect
import os
import pathlib
import shutil
import signal
import sys
import time
import types

import jax
from orbax.checkpoint._src.handlers import base_pytree_checkpoint_handler as pytrees
from orbax.checkpoint._src.path import atomicity

from ttoaa import checksums
from ttoaa.training import checkpoints, controller_loop, loop
from ttoaa.training import checkpoints as retention
from ttoaa.training.metrics import MetricsLog
from ttoaa.training.recorder import Recorder

_TARGET = os.environ.get("TTOAA_TEST_KILL")
_visits = collections.Counter()


def _come_to(place):
    path = pathlib.Path(_WORKDIR) / f"places-{jax.process_index()}"
    with open(path, "a") as file:
        file.write(f"{place}\n")
    _visits[place] += 1
    if (here := f"{place} {_visits[place]} ") == _TARGET[: len(here)]:
        number = int(_TARGET[len(here) :])
        os.kill(os.getpid(), number)
        if number == signal.SIGKILL:
            time.sleep(60)  # it comes a moment later


@contextlib.contextmanager
def _within(point):
    _come_to(f"{point} before")
    yield
    _come_to(f"{point} after")


def _watch(owner, name, point, only=lambda *args: True):
    """What `owner.name` does is a point of the run, where `only` says so of its arguments."""
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def watched(*args, **options):
        with _within(point) if only(*args) else contextlib.nullcontext():
            return inner(*args, **options)

    @functools.wraps(inner)
    async def awaited(*args, **options):
        with _within(point) if only(*args) else contextlib.nullcontext():
            return await inner(*args, **options)

    setattr(owner, name, awaited if inspect.iscoroutinefunction(inner) else watched)


if _TARGET is not None:
    (_WORKDIR,) = (a.partition("=")[2] for a in sys.argv if a.startswith("--workdir="))
    retention.shutil = types.SimpleNamespace(rmtree=shutil.rmtree)
    _watch(loop._TrainingRun, "_init_state", "init")
    _watch(checkpoints, "read_checkpoint", "restore")
    _watch(Recorder, "_record_provenance", "note")
    _watch(loop._TrainingRun, "_compile", "compile")
    _watch(controller_loop.ControllerLoop, "decide", "decide")
    _watch(MetricsLog, "arms", "step")  # its metrics are written then
    _watch(loop, "row_losses", "evaluate")
    _watch(pytrees.BasePyTreeCheckpointHandler, "finalize", "save")  # once an item, in the back
    _watch(
        atomicity.AtomicRenameTemporaryPath,
        "finalize",
        "commit",
        lambda path: path.get_final().name.isdecimal(),
    )
    _watch(retention.shutil, "rmtree", "delete")
    _watch(checksums, "write_json", "write")  # provenance.json, ledger.json, finished.json
    _watch(Recorder, "write_final_records", "finish")
    if choices := sys.modules.get("ttoaa.choices"):  # of the command choose
        _watch(choices, "write_table", "choice")
