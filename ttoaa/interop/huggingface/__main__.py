"""Models from Hugging Face and back, without torch, remote code or pickles.

  python -m ttoaa.interop.huggingface import --source=OLMo-2-0425-1B --target=imports/olmo2-1b
  python -m ttoaa.interop.huggingface export --source=runs/x/run --target=x-hf [--step=90000]

An import is a folder that `InitFrom.folder` names, with the decoder's bindings in model.gin. Only
this entry point and its like know the trainer; nothing else under ttoaa.model does.
"""

import pathlib
import sys
from collections.abc import Sequence

import jax
from absl import app, flags

from ttoaa.interop import convert
from ttoaa.interop.safetensors_io import DTYPES

_SOURCE = flags.DEFINE_string("source", None, "folder to read", required=True)
_TARGET = flags.DEFINE_string("target", None, "folder to make", required=True)
_STEP = flags.DEFINE_integer("step", None, "export: by default the newest good checkpoint")
_DTYPE = flags.DEFINE_enum("dtype", "float32", list(DTYPES), "export: of the weights")
_SHARD = flags.DEFINE_float("max_shard_gb", 5.0, "export: largest file, in 10**9 bytes", 1e-6)


def main(argv: Sequence[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    source = pathlib.Path(_SOURCE.value).expanduser().resolve()
    target = pathlib.Path(_TARGET.value).expanduser().resolve()
    try:
        if argv[1:] == ["import"]:
            done = convert.import_huggingface(source, target)
        elif argv[1:] == ["export"]:
            size = int(_SHARD.value * 10**9)
            done = convert.export_huggingface(source, target, _STEP.value, _DTYPE.value, size)
        else:
            raise ValueError(f"say import or export, not {' '.join(argv[1:]) or 'nothing'}")
    except (ValueError, OSError) as error:
        sys.exit(f"huggingface: {error}")
    print(f"huggingface: {done}")


if __name__ == "__main__":
    app.run(main)
