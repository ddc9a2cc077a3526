"""What the bits of a run depend on beside its data and config: cores, devices, versions."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax


def pin_cores(recorded: int | None = None) -> int:
    """Pins how many cores XLA's CPU backend splits its work over, before the backend starts.

    On CPU that number changes the bits. A run that is continued takes the number that it began
    with; NPROC in the environment overrides.
    """
    if "NPROC" not in os.environ:
        visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        os.environ["NPROC"] = str(recorded or visible or os.cpu_count() or 1)
    return int(os.environ["NPROC"])


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
