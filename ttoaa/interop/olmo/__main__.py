"""Import unsharded checkpoints of the public OLMo 2 runs.

  ttoaa olmo import --source=step90000-unsharded --target=imports/olmo2-1b-90k
  ttoaa olmo safetensors --source=OLDER --target=CONVERTED    convert .pt files; needs torch

`InitFrom.folder` in a config names an imported folder. With --optimizer (the default) it also holds
Adam's moments and the step that they belong to.
"""

import pathlib
import shutil
from collections.abc import Sequence

import jax
from absl import flags

from ttoaa import command_line
from ttoaa.interop import convert
from ttoaa.interop.olmo import weights

_SOURCE = flags.DEFINE_string("source", None, "folder to read", required=True)
_TARGET = flags.DEFINE_string("target", None, "folder to create", required=True)
_OPTIMIZER = flags.DEFINE_bool("optimizer", True, "import: also import Adam's moments")


def main(argv: Sequence[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    source = pathlib.Path(_SOURCE.value).expanduser().resolve()
    target = pathlib.Path(_TARGET.value).expanduser().resolve()
    if argv[1:] == ["import"]:
        done = convert.import_olmo(source, target, _OPTIMIZER.value)
    elif argv[1:] == ["safetensors"]:
        with convert.new_folder(target) as folder:
            files = weights.convert(source, folder)
            shutil.copy(source / "config.yaml", folder)
        done = f"{' and '.join(files)} are in {target}"
    else:
        given = " ".join(argv[1:]) or "nothing"
        raise ValueError(f"name the task, import or safetensors, not {given}")
    print(f"olmo: {done}")


if __name__ == "__main__":
    command_line.run("olmo", main, arguments=True)
