"""Import or export Hugging Face models, without torch, remote code, or pickles.

  ttoaa huggingface import --source=OLMo-2-0425-1B --target=imports/olmo2-1b
  ttoaa huggingface export --source=runs/mine/run --target=mine-hf --step=90000

`InitFrom.folder` in a config names an imported folder. Its model.gin holds the decoder's bindings.
"""

import pathlib
from collections.abc import Sequence

import jax
from absl import flags

from ttoaa import command_line
from ttoaa.interop import convert
from ttoaa.interop.safetensors_io import DTYPES

_SOURCE = flags.DEFINE_string("source", None, "folder to read", required=True)
_TARGET = flags.DEFINE_string("target", None, "folder to create", required=True)
_STEP = flags.DEFINE_integer(
    "step", None, "export: step of the checkpoint; by default the newest valid one"
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", list(DTYPES), "export: data type of the weights")
_SHARD = flags.DEFINE_float(
    "max_shard_gb", 5.0, "export: largest size of a weight file, in 10**9 bytes", 1e-6
)


def main(argv: Sequence[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    source = pathlib.Path(_SOURCE.value).expanduser().resolve()
    target = pathlib.Path(_TARGET.value).expanduser().resolve()
    if argv[1:] == ["import"]:
        done = convert.import_huggingface(source, target)
    elif argv[1:] == ["export"]:
        size = int(_SHARD.value * 10**9)
        done = convert.export_huggingface(source, target, _STEP.value, _DTYPE.value, size)
    else:
        raise ValueError(f"name the task, import or export, not {' '.join(argv[1:]) or 'nothing'}")
    print(f"huggingface: {done}")


if __name__ == "__main__":
    command_line.run("huggingface", main, arguments=True)
