"""Public runs of OLMo 2, to go on with: unsharded checkpoints with config.yaml.

  python -m ttoaa.interop.olmo import --source=step90000-unsharded --target=imports/olmo2-1b-90k
  python -m ttoaa.interop.olmo safetensors --source=OLDER --target=CONVERTED   (.pt files; torch)

An import is a folder that `InitFrom.folder` names. With --optimizer (the default) it holds Adam's
moments and is of the step that they are of.
"""

import pathlib
import shutil
import sys
from collections.abc import Sequence

import jax
from absl import app, flags

from ttoaa.interop import convert
from ttoaa.interop.olmo import weights

_SOURCE = flags.DEFINE_string("source", None, "folder to read", required=True)
_TARGET = flags.DEFINE_string("target", None, "folder to make", required=True)
_OPTIMIZER = flags.DEFINE_bool("optimizer", True, "import: Adam's moments too")


def main(argv: Sequence[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    source = pathlib.Path(_SOURCE.value).expanduser().resolve()
    target = pathlib.Path(_TARGET.value).expanduser().resolve()
    try:
        if argv[1:] == ["import"]:
            done = convert.import_olmo(source, target, _OPTIMIZER.value)
        elif argv[1:] == ["safetensors"]:
            with convert.new_folder(target) as folder:
                files = weights.convert(source, folder)
                shutil.copy(source / "config.yaml", folder)
            done = f"{' and '.join(files)} are in {target}"
        else:
            raise ValueError(f"say import or safetensors, not {' '.join(argv[1:]) or 'nothing'}")
    except (ValueError, OSError) as error:
        sys.exit(f"olmo: {error}")
    print(f"olmo: {done}")


if __name__ == "__main__":
    app.run(main)
