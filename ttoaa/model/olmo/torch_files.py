"""OLMo's older checkpoints, torch's .pt files, to safetensors: the only place that needs torch."""

import pathlib
from typing import Any

import numpy as np

from ttoaa.model.olmo.weights import MODEL, MOMENTS, OPTIMIZER
from ttoaa.model.tensors import write


def convert(source: pathlib.Path, target: pathlib.Path) -> list[str]:
    """Writes model.pt and, where there is one, optim.pt as float32; returns the files' names.

    Files are mapped into memory and loaded as weights only: nothing in them is executed, and of
    the optimizer Adam's moments and its count are kept.
    """
    model = _load(source / "model.pt")
    _write(target / MODEL, model)
    if not (source / "optim.pt").is_file():
        return [MODEL]
    optimizer = _load(source / "optim.pt")
    _write(target / OPTIMIZER, _moments(source / "optim.pt", optimizer))
    return [MODEL, OPTIMIZER]


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise ValueError("reading .pt files needs torch: pip install 'ttoaa[hf]'") from error
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds
        line = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be loaded as weights only: {line}") from error


def _moments(path: pathlib.Path, optimizer: dict[str, Any]) -> dict[str, Any]:
    """Tensors by 'state/<weight>/<exp_avg>'; a run on one device numbers them instead."""
    numbered: dict[Any, str] = {}
    for group in optimizer.get("param_groups", []):
        numbered |= dict(
            zip(group["params"], group.get("param_names", group["params"]), strict=True)
        )
    found = {}
    for key, state in optimizer["state"].items():
        name = numbered.get(key, key)
        if not isinstance(name, str):
            raise ValueError(f"{path} numbers its tensors and does not name them")
        for kind in (*MOMENTS.values(), "step"):
            found[f"state/{name}/{kind}"] = state[kind]
    return found


def _write(path: pathlib.Path, tensors: dict[str, Any]) -> None:
    dtype = np.dtype(np.float32)
    write(
        path,
        {name: (tuple(tensor.shape), dtype) for name, tensor in tensors.items()},
        lambda name: tensors[name].float().numpy(),
    )
