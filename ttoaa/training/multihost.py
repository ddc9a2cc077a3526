"""Agreement among the processes of a run: all take the same branch, or some wait for ever.

Every process must call these, in the same order. With one process they cost nothing.

Several processes as one run: how they find each other, and how each of them ends.

A process that fails alone must not leave Python as usual: its exit would wait for all the others,
which wait for it. It says what happened and is gone; the others learn it from their next exchange.
"""

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils


def from_primary(make: Callable[[], Any]) -> Any:
    """What `make` gives on process 0, as JSON, on every process; where it raises, all do.

    Also a barrier: no process gets here before the primary is done.
    """
    if jax.process_count() == 1:
        return make()
    if jax.process_index():
        told = json.loads(_broadcast(b""))
        if "error" in told:
            raise ValueError(told["error"])
        return told["value"]
    try:
        value = make()
    except Exception as error:
        _broadcast(json.dumps({"error": str(error)}).encode())
        raise
    _broadcast(json.dumps({"value": value}).encode())
    return value


def gather(text: str) -> list[str]:
    """The text of every process, in their order, on every process."""
    if jax.process_count() == 1:
        return [text]
    raw = text.encode()
    sizes = multihost_utils.process_allgather(np.int32(len(raw)))
    padded = np.frombuffer(raw.ljust(int(sizes.max()) or 1, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row)[:size].decode() for row, size in zip(rows, sizes, strict=True)]


def _broadcast(raw: bytes) -> bytes:
    """The bytes of process 0; their number first, as the others cannot know it."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(raw))))
    padded = np.frombuffer(raw.ljust(size, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))


def first_line(error: BaseException) -> str:
    """Orbax's errors run over pages; the first line says what it is."""
    return next(iter(str(error).strip().splitlines()), repr(error))[:200]


_PATIENCE_MS = 15 * 60 * 1000

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; not needed on clusters that JAX detects"
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "number of processes that train together", 1
)
_PROCESS = flags.DEFINE_integer("process_id", None, "index of this process, from 0", 0)
_JOIN = flags.DEFINE_integer(
    "join_timeout", 300, "seconds to wait for the other processes at the start", 1
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_timeout", 60, "seconds without a heartbeat after which a process counts as dead", 10
)


class Agreed(ValueError):
    """What all processes come to together: they leave as usual, the coordinator as the last."""


def start(command: str = "train") -> None:
    """Joins the other processes of this run, where there are any; call it before all else of JAX.

    They are told by `--coordinator --num_processes --process_id`, or found by JAX in what Open MPI,
    SLURM, GKE or a Cloud TPU VM's metadata say (under SLURM: a task for each GPU, started by srun).
    One process alone is left as it is, so that it may handle SIGTERM itself; `--num_processes=1`
    says so where the cluster says otherwise. A second call does nothing.

    Raises ValueError for flags that do not belong together. Where the others do not come in
    time, the process ends with one line: JAX would abort it with a stack trace.
    """
    if jax.distributed.is_initialized() or _PROCESSES.value == 1:
        return
    asked = _asked() or _detected()
    if asked is None:
        return
    address, count, process = asked
    whom = f"process {process} of {count} at {address or 'the address that the cluster gives'}"
    waited = f"the others did not come within {_JOIN.value} s"
    late = f"{command}: {whom}: {waited}: are all of them started?"
    with _deadline(_JOIN.value, late):
        try:
            jax.distributed.initialize(
                *((address, count, process) if address else ()),
                # Ours must come first; on a timeout of its own JAX aborts.
                initialization_timeout=_JOIN.value + 60,
                heartbeat_timeout_seconds=_HEARTBEAT.value,
                cluster_detection_method="deactivate" if address else None,
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{whom}: {first_line(error)}") from error


def _asked() -> tuple[str, int, int] | None:
    """(coordinator, processes, this one) by the flags."""
    given = {
        "--coordinator": _COORDINATOR.value,
        "--num_processes": _PROCESSES.value,
        "--process_id": _PROCESS.value,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise ValueError(f"{', '.join(given)} belong together: {' and '.join(missing)} not given")
    address, count, process = given.values()
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--coordinator is host:port, such as node-0:8476, not {address!r}")
    if process >= count:
        raise ValueError(f"--process_id {process} is not one of 0 to {count - 1} (--num_processes)")
    return address, count, process


def _detected() -> tuple[str, int, int] | None:
    """The same as the cluster has it, if it is of several processes; the address is JAX's affair.

    Kubernetes alone tells JAX only through a package of its own: that needs the flags.
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
    return None


def primary_first(action: Callable[[], None]) -> None:
    """The primary does it while all others wait, for minutes if need be; called once a process.

    Where it raises ValueError or OSError, all raise Agreed with that text. It goes by the
    coordinator alone: an exchange between devices gives up waiting sooner.
    """
    if not jax.distributed.is_initialized():
        return action()
    client, told = _joined().client, ""
    if primary():
        try:
            action()
        except (ValueError, OSError) as error:
            told = first_line(error)
        client.key_value_set("ttoaa/primary_first", f"told: {told}")
    told = client.blocking_key_value_get("ttoaa/primary_first", _PATIENCE_MS)
    if text := told.removeprefix("told: "):
        raise Agreed(text)


def primary() -> bool:
    """Whether this process is the one that writes what is written once; touches no backend."""
    return not jax.distributed.is_initialized() or _joined().process_id == 0


def _joined() -> Any:
    """The client and the process id that JAX has once this process has joined others.

    Neither is public: jax.process_index() would start the backend, and the exchanges of
    jax.experimental.multihost_utils go through devices.
    """
    from jax._src import distributed

    return distributed.global_state


@contextlib.contextmanager
def exiting(command: str, *agreed: type[BaseException]) -> Iterator[None]:
    """Ends this process at once where it fails alone among several: one line, status 1.

    What all processes come to together goes on as usual: Agreed, exceptions of the types `agreed`
    and exits with a number. To be entered inside whatever would wait for the others when it is
    left, such as a checkpoint's last save. One process alone is not touched.
    """
    try:
        yield
    except BaseException as error:
        together = isinstance(error, SystemExit) and not isinstance(error.code, str)
        if not jax.distributed.is_initialized() or together or isinstance(error, (Agreed, *agreed)):
            raise
        _leave(_told(command, error))


def _told(command: str, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        text = str(error.code).removeprefix(f"{command}: ")
    else:
        text = first_line(error)
    if any(sign in text for sign in ("Gloo", "UNAVAILABLE", "Connection closed by peer")):
        text = f"lost another process of the run ({text}): start all of them again, they resume"
    elif not isinstance(error, SystemExit | ValueError | OSError):
        traceback.print_exception(error)
    return f"{command}: process {_joined().process_id}: {text}"


@contextlib.contextmanager
def _deadline(seconds: float, late: str) -> Iterator[None]:
    timer = threading.Timer(seconds, _leave, [late])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _leave(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    os._exit(1)
