"""Cores, devices and versions: what a run's bits depend on in addition to its data and config."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

from ttoaa.model.sharding import Layout


def pin_cores(recorded: int | None = None) -> int:
    """Fix the number of cores that XLA's CPU backend uses, before the backend starts; return it.

    On CPU this number changes the bits, so a resumed run uses the number that it started with
    (`recorded`). NPROC in the environment overrides both.
    """
    if "NPROC" not in os.environ:
        visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        os.environ["NPROC"] = str(recorded or visible or os.cpu_count() or 1)
    return int(os.environ["NPROC"])


def split_cpu(batch: int, layout: Layout, recorded: int | None = None) -> None:
    """Split a CPU into several devices of one core each, before the backend starts.

    Two devices are faster than one device with two threads (tests.performance.devices measures
    it). The number is at most that of the cores, such that each device has two rows per pass; or
    that of the layout, even beyond the cores. A resumed run uses the number that it started with
    (`recorded`). Does nothing if XLA_FLAGS sets the number, or with several processes.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_flag or jax.distributed.is_initialized():
        return
    least = layout.fsdp * layout.tensor * (layout.data or 1)
    cores = int(os.environ.get("NPROC", 1))

    def fits(count: int) -> bool:
        exact = count == least if layout.data else count % least == 0
        return exact and batch % (count // layout.tensor) == 0

    two_rows_each = [
        n for n in range(least, cores + 1) if fits(n) and batch % (2 * n // layout.tensor) == 0
    ]
    count = recorded if recorded and fits(recorded) else max(two_rows_each, default=least)
    with contextlib.suppress(RuntimeError):  # the backend has started already, as in a notebook
        jax.config.update("jax_num_cpu_devices", count)


def topology() -> dict[str, Any]:
    """Describe the hardware and JAX version: a run resumed on the same ones has the same bits.

    On others it agrees to float tolerance.
    """
    return {
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": int(os.environ.get("NPROC", 0)),
        "machine": platform.machine(),
        "jaxlib": importlib.metadata.version("jaxlib"),
    }


def provenance() -> dict[str, Any]:
    """Collect package versions, git commit and topology for the record of a run."""
    return {**code_version(), "topology": topology()}


def code_version() -> dict[str, Any]:
    """Return the versions of Python and of the packages that decide bits, and the git commit."""
    root = _find_checkout()
    names = ("ttoaa", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in names},
        "git_commit": _git(root, "rev-parse", "HEAD") if root else "",
        "git_dirty": bool(root and _git(root, "status", "--porcelain")),
    }


def _find_checkout() -> pathlib.Path | None:
    """Return this package's repository; None if installed, maybe inside another repository."""
    root = pathlib.Path(__file__).resolve().parents[2]
    own = (root / "setup.py").exists() and _git(root, "rev-parse", "--show-toplevel") == str(root)
    return root if own else None


def _git(folder: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
