"""Compiles once: text, memory and cost analysis of a lowered program, kept in a folder."""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from ttoaa.workdir import write_bytes


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is left of a compiled program when its devices are not there."""

    text: str
    """HLO; empty where the program did not fit."""
    gib: float
    """Arguments, results and temporaries of one device, the larger of any moment."""
    optimal_seconds: float
    """XLA's own estimate; 0 where it gives none."""
    seconds: float
    """Taken by the compiler."""
    refused: str = ""
    """Its words where the program needs more memory than there is."""


def compiled(
    lowered: jax.stages.Lowered, options: Mapping[str, str], cache: pathlib.Path | None
) -> Compiled:
    """The same program under the same options and versions is compiled once, given a folder."""
    versions = [importlib.metadata.version(name) for name in ("jaxlib", *_libtpu())]
    text = lowered.as_text()
    key = hashlib.sha256(json.dumps([text, sorted(options.items()), versions]).encode())
    path = cache and cache / f"{key.hexdigest()[:32]}.json.gz"
    if path and path.exists():
        return Compiled(**json.loads(gzip.decompress(path.read_bytes())))
    made = _compile(lowered, options)
    if path:
        write_bytes(path, gzip.compress(json.dumps(dataclasses.asdict(made)).encode()))
    return made


def _libtpu() -> list[str]:
    return ["libtpu"] if importlib.util.find_spec("libtpu") else []


def _compile(lowered: jax.stages.Lowered, options: Mapping[str, str]) -> Compiled:
    started = time.perf_counter()
    try:
        program = lowered.compile(compiler_options=dict(options) or None)
    except jax.errors.JaxRuntimeError as error:
        needed = _needed_gib(str(error))
        if needed is None:
            raise ValueError(f"XLA refuses: {str(error).splitlines()[0]}") from error
        took = time.perf_counter() - started
        return Compiled("", needed, 0.0, took, str(error).splitlines()[0])
    memory: Any = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += memory.temp_size_in_bytes - memory.alias_size_in_bytes
    held += memory.generated_code_size_in_bytes
    costs = program.cost_analysis() or {}
    return Compiled(
        program.as_text() or "",
        held / 2**30,
        float(costs.get("optimal_seconds", 0.0)),
        time.perf_counter() - started,
    )


def _needed_gib(message: str) -> float | None:
    """XLA:TPU says `Used 104.03G of 95.74G hbm` or `… HLO temporaries (800.00G) exceeds …`."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"(?:Used |\()([\d.]+)([KMGT])", message)
    units = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}
    return float(found.group(1)) * units[found.group(2)] if found else None
