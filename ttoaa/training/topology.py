"""What the bits of a run depend on beside its data and config: cores, devices, versions."""

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
    """Pins how many cores XLA's CPU backend splits its work over, before the backend starts.

    On CPU that number changes the bits. A run that is continued takes the number that it began
    with; NPROC in the environment overrides.
    """
    if "NPROC" not in os.environ:
        visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        os.environ["NPROC"] = str(recorded or visible or os.cpu_count() or 1)
    return int(os.environ["NPROC"])


def split_cpu(batch: int, layout: Layout, recorded: int | None = None) -> None:
    """Makes a CPU several devices, of a core each, before the backend starts.

    A step is faster with its rows over two devices than on one with two threads
    (tests.performance.devices measures it). As many as cores, but so that each has
    two rows a pass; or as the layout asks, even beyond the cores. A run that is continued takes the
    number that it began with. What XLA_FLAGS says, and several processes, are left alone.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if told or jax.distributed.is_initialized():
        return
    least = layout.fsdp * layout.tensor * (layout.data or 1)
    cores = int(os.environ.get("NPROC", 1))

    def fits(count: int) -> bool:
        exact = count == least if layout.data else count % least == 0
        return exact and batch % (count // layout.tensor) == 0

    twice = [
        n for n in range(least, cores + 1) if fits(n) and batch % (2 * n // layout.tensor) == 0
    ]
    count = recorded if recorded and fits(recorded) else max(twice, default=least)
    with contextlib.suppress(RuntimeError):  # the backend runs already, as in a notebook
        jax.config.update("jax_num_cpu_devices", count)


def topology() -> dict[str, Any]:
    """Same values, same bits; another one continues a run only to float tolerance."""
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
    """Versions and commit, for the record of a run."""
    root = _checkout()
    names = ("ttoaa", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in names},
        "git_commit": _git(root, "rev-parse", "HEAD") if root else "",
        "git_dirty": bool(root and _git(root, "status", "--porcelain")),
        "topology": topology(),
    }


def _checkout() -> pathlib.Path | None:
    """The repository of this package; None where installed, perhaps inside another repository."""
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
