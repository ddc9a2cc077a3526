"""Estimate what a training step or an evaluation pass costs on a TPU pod, without the pod.

  ttoaa compile --topology=v5p:4x4x4 --gin_file=configs/paper.gin
  ttoaa compile --topology=v5p:4x4x4 --workdir=runs/mine --evaluation

The command compiles the program with libtpu and prints one JSON line: memory, seconds, implied MFU,
collectives, and what bounds the time.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from ttoaa import command_line, study_flags

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from ttoaa.compilation.estimate import Measures
    from ttoaa.config import Study
    from ttoaa.scoring.likelihood import Lowered

_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "pod to compile for, by the name that libtpu uses, such as v5p:4x4x4"
)
_EVALUATION = flags.DEFINE_bool(
    "evaluation", False, "compile an evaluation pass instead of a training step"
)
_NOISE = flags.DEFINE_bool(
    "noise", False, "also compile the step of batches with noise, and report what it adds"
)
_LAYERS = flags.DEFINE_integer(
    "layers",
    None,
    "compile this many layers and twice as many, and extrapolate: a fast way to rank settings",
    1,
)
_CACHE = flags.DEFINE_string("cache", None, "folder that caches compiled programs")

COMPILED = (
    "the program itself by XLA for this topology: hbm_gib, collective_gib, operations, cycles"
)
MODELLED = (
    "seconds: each operation by its FLOPs or bytes (0.84 of peak, 0.85 of bandwidth); attention by "
    "its FLOPs at 0.5 of peak; collectives that the step waits for, at full link speed without "
    "latency; pessimistic: XLA's cycle estimates, attention at 0.4. Not modelled: host input, "
    "stalls, traffic between slices, throttling"
)


def estimate(
    study: "Study",
    topology: str,
    *,
    evaluation: bool = False,
    noise: bool = False,
    layers: int | None = None,
    cache: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Compile a study's step for a topology and return the JSON object that the command prints.

    Args:
        evaluation: compile a scoring pass instead of the training step.
        noise: also compile the step of batches whose rows have noise, as "with_noise".
        layers: compile models with this many layers and with twice as many, and extrapolate.
        cache: folder of compiled programs.

    Raises:
        ValueError: libtpu is missing, the topology is unknown, or the study does not fit it.
    """
    from ttoaa.compilation import pods
    from ttoaa.compilation.estimate import compare, compile_cached, extrapolate, measure, report
    from ttoaa.evaluation.checkpoint_outcomes import layout_for
    from ttoaa.model.sharding import make_mesh

    devices = pods.devices(topology, 1 if evaluation else study.layout.slices)
    layout = layout_for(study.layout, len(devices)) if evaluation else study.layout
    mesh, model = make_mesh(layout, devices), study.model
    if evaluation and noise:
        raise ValueError("noise is added in training: --evaluation and --noise exclude each other")

    def compile_layers(count: int, noisy: bool) -> tuple["Measures", str, "Lowered"]:
        resized = dataclasses.replace(study, model=dataclasses.replace(model, layers=count))
        lowered = (
            _lower_scoring_pass(resized, mesh) if evaluation else _lower_step(resized, mesh, noisy)
        )
        options = dict(lowered.execution.compiler_options)
        program = compile_cached(lowered.program, options, cache)
        return measure(program, mesh), program.refused, lowered

    counts = [model.layers] if layers is None else [layers, 2 * layers]

    def compile_program(noisy: bool = False) -> tuple["Measures", str, "Lowered"]:
        found = [compile_layers(count, noisy) for count in counts]
        if layers is None:
            return found[0]
        if refused := found[0][1] or found[1][1]:
            raise ValueError(f"{counts} layers do not fit {topology}: {refused}")
        whole = extrapolate(found[0][0], found[1][0], (layers, 2 * layers, model.layers))
        return whole, "", found[0][2]

    measures, refused, lowered = compile_program()
    length = study.geometry.length
    flops = model.flops_per_token(length) * lowered.rows * length / (3 if evaluation else 1)
    added: dict[str, Any] = {}
    if noise:
        noisy, noisy_refused, _ = compile_program(noisy=True)
        added = {"with_noise": compare(measures, noisy, mesh, flops)}
        refused = refused or noisy_refused
    return {
        "topology": topology,
        "chips": pods.count_chips(devices),
        "devices": len(devices),
        **report(measures, mesh, flops),
        "program": "evaluation" if evaluation else "training",
        "parameters": model.num_params(),
        "layers": model.layers,
        "batch": lowered.rows,
        "length": length,
        "layout": dict(mesh.shape),
        "execution": dataclasses.asdict(lowered.execution),
        "layers_compiled": counts,
        **added,
        **({"refused": refused} if refused else {}),
        "compile_seconds": round(measures["compile_seconds"], 1),
        "compiled": COMPILED,
        "modelled": MODELLED,
    }


def _lower_step(study: "Study", mesh: "Mesh", noisy: bool) -> "Lowered":
    from ttoaa.scoring.likelihood import Lowered
    from ttoaa.training.step import CompiledStep

    program = CompiledStep(study.model, study.training, study.geometry, study.execution, mesh)
    return Lowered(program.lower(noisy), study.geometry.batch, program.resolved)


def _lower_scoring_pass(study: "Study", mesh: "Mesh") -> "Lowered":
    """Lower a pass that scores rows as long as those of training."""
    from ttoaa.evaluation.checkpoint_outcomes import abstract_on, within
    from ttoaa.scoring.likelihood import lower_scoring

    platform = mesh.devices.flat[0].platform
    with within(mesh):
        return lower_scoring(
            study.model, abstract_on(study.model, mesh), study.geometry.length, platform
        )


def _load_study() -> "Study":
    """Load the study from the gin files or from the workdir's config; write nothing."""
    from ttoaa import config

    files = [pathlib.Path(name) for name in flags.FLAGS.gin_file]
    files = files or [config.workdir_from_flags().config]
    return config.load(files, flags.FLAGS.gin_bindings)[0]


def main(argv: Sequence[str]) -> None:
    del argv
    if not _TOPOLOGY.value:
        raise ValueError("name the pod by --topology, such as --topology=v5p:4x4x4")
    if not (flags.FLAGS.gin_file or flags.FLAGS.workdir):
        raise ValueError("name the study's config by --gin_file")
    if flags.FLAGS.workdir:
        study_flags.check_study()
    result = estimate(
        _load_study(),
        _TOPOLOGY.value,
        evaluation=_EVALUATION.value,
        noise=_NOISE.value,
        layers=_LAYERS.value,
        cache=pathlib.Path(_CACHE.value).expanduser() if _CACHE.value else None,
    )
    print(json.dumps(result))


if __name__ == "__main__":
    flags.FLAGS.set_default("workdir", "")  # optional here only
    command_line.run("compile", main, study_flags, without={"seed": "it changes no result"})
