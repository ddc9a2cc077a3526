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


def microbatch_rows(asked: int | None, batch: int) -> int:
    """Rows of one pass inside a step: what was asked, else 2 on CPU and all elsewhere."""
    rows = asked or (2 if jax.default_backend() == "cpu" and batch % 2 == 0 else batch)
    if batch % rows:
        raise ValueError(f"Training.microbatch {rows} does not divide the batch of {batch} rows")
    return rows


PEAK_FLOPS = {
    # bf16 peaks published by the vendors, per device as JAX counts them.
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
}


def peak_flops() -> float | None:
    """Of all devices together; None where the device is not known, never a guess."""
    one = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return one and one * jax.device_count()


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
