"""What a step would cost on a pod: python -m ttoaa.compile --topology=v5p:4x4x4 --gin_file=…

Compiles the very step that the trainer would run there, without the hardware (libtpu does it), and
prints one JSON line: memory, seconds, implied MFU, collectives, and what bounds the time.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from ttoaa import config
from ttoaa.compilation import pods
from ttoaa.compilation.compiled import compiled
from ttoaa.compilation.estimate import Measures, extrapolate, measure, report
from ttoaa.model.decoder import abstract_params
from ttoaa.model.sharding import make_mesh, shardings, with_shardings
from ttoaa.scoring.likelihood import pass_rows, token_log_probs
from ttoaa.training.program import Program

_TOPOLOGY = flags.DEFINE_string("topology", None, "a pod by libtpu's name, such as v5p:4x4x4")
_EVALUATION = flags.DEFINE_bool("evaluation", False, "the scoring of a batch instead of a step")
_LAYERS = flags.DEFINE_integer(
    "layers", None, "compile so many layers and twice as many, and extrapolate: to rank settings", 1
)
_CACHE = flags.DEFINE_string("cache", None, "folder of what was compiled before")

COMPILED = (
    "the program itself by XLA for this topology: hbm_gib, collective_gib, operations, cycles"
)
MODELLED = (
    "seconds: each operation by its FLOPs or bytes (0.84 of peak, 0.85 of bandwidth); attention by "
    "its FLOPs at 0.5 of peak; collectives that the step waits for, at full link speed, no latency"
    "; pessimistic: XLA's own cycle estimates, attention at 0.4. Not seen: host input, stalls, "
    "traffic between slices, throttling"
)


def estimate(
    study: config.Study,
    topology: str,
    *,
    evaluation: bool = False,
    layers: int | None = None,
    cache: pathlib.Path | None = None,
) -> dict[str, Any]:
    """The JSON object of the command.

    With `layers`, programs of so many layers and of twice as many stand for the whole.

    Raises:
        ValueError: libtpu is missing, the topology unknown, or the study does not fit its devices.
    """
    devices = pods.devices(topology, study.layout.slices)
    mesh, model = make_mesh(study.layout, devices), study.model
    program = Program(model, study.training, study.geometry, study.execution, mesh)

    def measured(count: int) -> tuple[Measures, str]:
        fewer = dataclasses.replace(model, layers=count)
        one = dataclasses.replace(program, model=fewer)
        lowered, options = _evaluation(one) if evaluation else _step(one)
        made = compiled(lowered, options, cache)
        return measure(made, mesh), made.refused

    if layers is None:
        counts, (measures, refused) = [model.layers], measured(model.layers)
    else:
        counts = [layers, 2 * layers]
        (few, first), (more, second) = measured(layers), measured(2 * layers)
        measures, refused = extrapolate(few, more, (layers, 2 * layers, model.layers)), ""
        if first or second:
            raise ValueError(f"{counts} layers do not fit {topology}: {first or second}")
    tokens = study.geometry.batch * study.geometry.length
    flops = model.flops_per_token(study.geometry.length) * tokens / (3 if evaluation else 1)
    return {
        "topology": topology,
        "chips": pods.chips(devices),
        "devices": len(devices),
        **report(measures, mesh, flops),
        "program": "evaluation" if evaluation else "training",
        **_settings(program),
        "layers_compiled": counts,
        **({"refused": refused} if refused else {}),
        "compile_seconds": round(measures["compile_seconds"], 1),
        "compiled": COMPILED,
        "modelled": MODELLED,
    }


def _step(program: Program) -> tuple[jax.stages.Lowered, Mapping[str, str]]:
    return program.lower(), dict(program.resolved.compiler_options)


def _evaluation(program: Program) -> tuple[jax.stages.Lowered, Mapping[str, str]]:
    """Scoring as many rows as a batch has, as the trainer's validation does it."""
    mesh, geometry = program.mesh, program.geometry
    abstract = abstract_params(program.model)
    params = with_shardings(abstract, shardings(mesh, abstract))
    with jax.set_mesh(mesh):
        rows = pass_rows(geometry.length, mesh.devices.flat[0].platform)
        count = -(-geometry.batch // rows) * rows
        tokens = jax.ShapeDtypeStruct((count, geometry.length), jnp.int32)
        lowered = token_log_probs.lower(
            program.model, params, tokens, rows=rows, execution=program.resolved
        )
    return lowered, {}


def _settings(program: Program) -> dict[str, Any]:
    model, geometry = program.model, program.geometry
    execution = dataclasses.asdict(program.resolved)
    return {
        "parameters": model.num_params(),
        "layers": model.layers,
        "batch": geometry.batch,
        "length": geometry.length,
        "layout": dict(program.mesh.shape),
        "execution": execution,
    }


def _study() -> config.Study:
    """Of the gin files, or what a workdir remembers; nothing is written there."""
    files = [pathlib.Path(name) for name in flags.FLAGS.gin_file]
    if not files and not flags.FLAGS.workdir:
        raise ValueError("name the study's config by --gin_file")
    files = files or [config.workdir_from_flags().config]
    return config.load(files, flags.FLAGS.gin_bindings)[0]


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        if not _TOPOLOGY.value:
            raise ValueError("name the pod by --topology, such as --topology=v5p:4x4x4")
        study = _study()
        cache = pathlib.Path(_CACHE.value).expanduser() if _CACHE.value else None
        found = estimate(
            study,
            _TOPOLOGY.value,
            evaluation=_EVALUATION.value,
            layers=_LAYERS.value,
            cache=cache,
        )
        print(json.dumps(found))
    except (ValueError, OSError) as error:
        sys.exit(f"compile: {error}")


if __name__ == "__main__":
    flags.FLAGS.set_default("workdir", "")  # other commands cannot do without
    app.run(main)
