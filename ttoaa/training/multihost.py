"""Several processes as one run: how they find each other, agree, stop, and end.

All processes must take the same branch, or some wait forever. Therefore every process calls
`from_primary` and `gather` in the same order; with one process they cost nothing.

A process that fails alone must not exit as usual: Python's exit would wait for the others, which
wait for it. `exit_on_lone_failure` prints the error and ends it; the others notice at their next
exchange.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ttoaa import signals
from ttoaa.training import compute_engine, train_flags


def from_primary(make: Callable[[], Any]) -> Any:
    """Call `make` on process 0 and return its JSON value on every process; if it raises, all raise.

    It is also a barrier: no process returns before process 0 is done.
    """
    if jax.process_count() == 1:
        return make()
    if jax.process_index():
        result = json.loads(_broadcast(b""))
        if "error" in result:
            raise ValueError(result["error"])
        return result["value"]
    try:
        value = make()
    except Exception as error:
        _broadcast(json.dumps({"error": str(error)}).encode())
        raise
    _broadcast(json.dumps({"value": value}).encode())
    return value


def gather(text: str) -> list[str]:
    """Return the texts of all processes, in their order, on every process."""
    if jax.process_count() == 1:
        return [text]
    raw = text.encode()
    sizes = multihost_utils.process_allgather(np.int32(len(raw)))
    padded = np.frombuffer(raw.ljust(int(sizes.max()) or 1, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row)[:size].decode() for row, size in zip(rows, sizes, strict=True)]


def _broadcast(raw: bytes) -> bytes:
    """Return the bytes of process 0; their number goes first, as the others do not know it."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(raw))))
    padded = np.frombuffer(raw.ljust(size, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: Orbax's errors run over pages."""
    return next(iter(str(error).strip().splitlines()), repr(error))[:200]


_PRIMARY_TIMEOUT_MS = 15 * 60 * 1000


class SharedError(ValueError):
    """An error that all processes raise together: they exit as usual, the coordinator last."""


def initialize(command: str = "train") -> None:
    """Join the other processes of this run, if there are any; call it before any other use of JAX.

    The flags `--coordinator --num_processes --process_id` describe them, or JAX finds them through
    Open MPI, SLURM, GKE or a Cloud TPU VM's metadata (under SLURM: one task per GPU, started by
    srun). A single process is left alone, so that it handles SIGTERM itself; `--num_processes=1`
    overrides what the cluster says. A second call does nothing. If the others do not join in time,
    the process exits with one line, where JAX would abort with a stack trace.

    Raises:
        ValueError: flags are missing or wrong, or JAX cannot join.
    """
    if jax.distributed.is_initialized() or train_flags.PROCESSES.value == 1:
        return
    place = _place_from_flags() or _place_in_cluster()
    if place is None:
        return
    address, count, process = place
    who = f"process {process} of {count} at {address or 'the address that the cluster gives'}"
    limit = train_flags.JOIN_TIMEOUT.value
    late = f"{command}: {who}: the others did not join within {limit} s: check that all are started"
    with _deadline(limit, late):
        try:
            jax.distributed.initialize(
                *((address, count, process) if address else ()),
                # Longer than our deadline: on its own timeout JAX aborts.
                initialization_timeout=limit + 60,
                heartbeat_timeout_seconds=train_flags.HEARTBEAT_TIMEOUT.value,
                cluster_detection_method="deactivate" if address else None,
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{who}: {first_line(error)}") from error


def _place_from_flags() -> tuple[str, int, int] | None:
    """Return (coordinator, number of processes, index of this one); None without flags."""
    given = {
        "--coordinator": train_flags.COORDINATOR.value,
        "--num_processes": train_flags.PROCESSES.value,
        "--process_id": train_flags.PROCESS.value,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise ValueError(f"{', '.join(given)} belong together: {' and '.join(missing)} not given")
    address, count, process = given.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator must be host:port, such as node-0:8476, not {address!r}")
    if process >= count:
        raise ValueError(f"--process_id {process} is not one of 0 to {count - 1} (--num_processes)")
    return address, count, process


def _place_in_cluster() -> tuple[str, int, int] | None:
    """Return the same as the cluster says; None if alone. Mostly JAX finds the address itself.

    Plain Kubernetes needs the flags: JAX reads it only through another package.
    """
    try:  # no public function says which cluster this is: these are what initialize() asks
        from jax._src.clusters import GceTpuCluster, GkeTpuCluster, OmpiCluster, SlurmCluster
    except ImportError as error:
        raise ValueError(
            f"JAX {jax.__version__} does not say which cluster this is: pass --num_processes=1, or "
            "--coordinator, --num_processes and --process_id"
        ) from error
    for cluster in (OmpiCluster, SlurmCluster, GkeTpuCluster, GceTpuCluster):
        if cluster.is_env_present():
            count = cluster.get_process_count()
            return ("", count, cluster.get_process_id()) if count > 1 else None
    return compute_engine.find_place()


class StopRequest:
    """Return whether the run should save and stop: the same on every process at the same step.

    One process stops at its next step. With several, JAX handles SIGTERM, and our SIGINT becomes
    one: JAX notices it on any of them and chooses a step, about a second later, that none has
    reached yet.

    A preemption is noticed if it arrives as SIGTERM: from GKE when it evicts a pod, from SLURM with
    `--signal=TERM@<seconds>`, from `gcloud` and systemd when they stop a machine's services. A bare
    Cloud TPU VM whose program was started over ssh gets no signal before maintenance; the run then
    ends as if killed. Tested with signals to processes on one machine, not with a cloud's notices.
    """

    def __init__(self) -> None:
        self._several_processes = jax.distributed.is_initialized()
        self._received = signals.StopSignal()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> "StopRequest":
        several = self._several_processes
        deferred = signals.deferred(_pass_on, (signal.SIGINT,)) if several else signals.deferred()
        self._received = self._held.enter_context(deferred)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def received(self, step: int) -> bool:
        """Return whether to stop now; every process calls it once before every step."""
        if self._several_processes:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return bool(self._received.number)

    @property
    def exit_code(self) -> int:
        return 128 + (self._received.number or signal.SIGTERM)


def _pass_on(number: int) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def primary_first(action: Callable[[], None]) -> None:
    """Run the action on the primary while all others wait, for minutes; once in a process's life.

    If it raises ValueError or OSError, all processes raise SharedError with its text. It uses the
    coordinator and no devices, whose exchanges time out sooner.
    """
    if not jax.distributed.is_initialized():
        return action()
    client, failure = _joined().client, ""
    if primary():
        try:
            action()
        except (ValueError, OSError) as error:
            failure = first_line(error)
        client.key_value_set("ttoaa/primary_first", f"failure: {failure}")
    reply = client.blocking_key_value_get("ttoaa/primary_first", _PRIMARY_TIMEOUT_MS)
    if text := reply.removeprefix("failure: "):
        raise SharedError(text)


def is_joined() -> bool:
    """Return whether this process is one of several."""
    return jax.distributed.is_initialized()


def primary() -> bool:
    """Return whether this process joined as the first one; does not start the backend."""
    return not jax.distributed.is_initialized() or _joined().process_id == 0


def writes_records() -> bool:
    """Return whether this process writes records; it is the one that from_primary calls.

    Not always `primary()`: on slices of TPU machines, the order of the devices can differ from
    the order in which the processes joined.
    """
    return jax.process_index() == 0


def _joined() -> Any:
    """Return JAX's record of the processes that joined: its client and its process id.

    Neither is public: jax.process_index() would start the backend, and the exchanges of
    jax.experimental.multihost_utils go through devices.
    """
    from jax._src import distributed

    return distributed.global_state


@contextlib.contextmanager
def exit_on_lone_failure(command: str, *shared: type[BaseException]) -> Iterator[None]:
    """End this process at once if it fails alone among several: one line, status 1.

    Errors that all processes raise together pass: SharedError, the types in `shared`, and exits
    with a number. Enter it inside any context that waits for the others at its end, such as a
    checkpoint's last save. A single process is not affected.
    """
    try:
        yield
    except BaseException as error:
        if not jax.distributed.is_initialized() or isinstance(error, (SharedError, *shared)):
            raise
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            raise
        _exit_now(_describe_failure(command, error))


def _describe_failure(command: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        text = str(error.code).removeprefix(f"{command}: ")
    else:
        text = first_line(error)
    if any(sign in text for sign in ("Gloo", "UNAVAILABLE", "Connection closed by peer")):
        text = f"lost another process of the run ({text}): start all of them again to resume"
    elif not isinstance(error, SystemExit | ValueError | OSError):
        traceback.print_exception(error)
    return f"{command}: process {_joined().process_id}: {text}"


@contextlib.contextmanager
def _deadline(seconds: float, late: str) -> Iterator[None]:
    timer = threading.Timer(seconds, _exit_now, [late])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _exit_now(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    os._exit(1)
