"""Convert checkpoints from and to Hugging Face and OLMo, without remote code or pickles.

  ttoaa convert import --source=OLMo-2-0425-1B --target=imports/olmo2-1b
  ttoaa convert import --source=step90000-unsharded --target=imports/olmo2-1b-90k
  ttoaa convert export --source=runs/mine/run --target=mine-hf --step=90000
  ttoaa convert safetensors --source=OLDER --target=CONVERTED    OLMo's .pt files; needs torch

`import` reads an `Olmo2ForCausalLM` of Hugging Face, or an unsharded checkpoint of OLMo 2 with
Adam's moments and the step that they belong to. `InitFrom.folder` in a config names an imported
folder. Its model.gin holds the decoder's bindings. `export` writes an `Olmo2ForCausalLM`.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from ttoaa import command_line

_SOURCE = flags.DEFINE_string("source", None, "folder to read", required=True)
_TARGET = flags.DEFINE_string("target", None, "folder to create", required=True)
_OPTIMIZER = flags.DEFINE_bool(
    "optimizer", None, "import from OLMo: also import Adam's moments (default: true)"
)
_STEP = flags.DEFINE_integer(
    "step", None, "export: step of the checkpoint; by default the newest valid one"
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "export: data type of the weights (default: float32)"
)
_SHARD = flags.DEFINE_float(
    "max_shard_gb",
    None,
    "export: largest size of a weight file, in 10**9 bytes (default: 5)",
    1e-6,
)
_TASKS = {"import": (_OPTIMIZER,), "export": (_STEP, _DTYPE, _SHARD), "safetensors": ()}
"""The flags of each task, in addition to --source and --target."""


def main(argv: Sequence[str]) -> None:
    task = " ".join(argv[1:])
    if task not in _TASKS:
        raise ValueError(f"the task must be one of {', '.join(_TASKS)}, not {task or 'nothing'}")
    for other, theirs in _TASKS.items():
        for flag in theirs:
            if flag.value is not None and other != task:
                raise ValueError(f"--{flag.name} is a flag of {other}: leave it out of {task}")
    source = pathlib.Path(_SOURCE.value).expanduser().resolve()
    target = pathlib.Path(_TARGET.value).expanduser().resolve()
    if not source.is_dir():
        raise ValueError(f"--source={source} is not a folder")
    import jax

    from ttoaa.interop import convert

    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    if task == "import":
        done = convert.import_folder(source, target, _OPTIMIZER.value)
    elif task == "export":
        dtype, size = _DTYPE.value or "float32", int((_SHARD.value or 5.0) * 10**9)
        done = convert.export_huggingface(source, target, _STEP.value, dtype, size)
    else:
        done = convert.convert_olmo(source, target)
    print(f"convert: {done}")


if __name__ == "__main__":
    command_line.run("convert", main, arguments=True)
