"""Import checkpoints of Hugging Face and OLMo, without remote code or pickles.

  ttoaa convert import --source=OLMo-2-0425-1B --target=imports/olmo2-1b
  ttoaa convert import --source=step90000-unsharded --target=imports/olmo2-1b-90k
  ttoaa convert safetensors --source=OLDER --target=CONVERTED    OLMo's .pt files; needs torch

`import` reads an `Olmo2ForCausalLM` of Hugging Face, or an unsharded checkpoint of OLMo 2 with
Adam's moments and the step that they belong to. `InitFrom.folder` in a config names an imported
folder. Its model.gin holds the decoder's bindings. `ttoaa export model` writes an
`Olmo2ForCausalLM`.
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
_TASKS = ("import", "safetensors")


def main(argv: Sequence[str]) -> None:
    task = " ".join(argv[1:])
    if task not in _TASKS:
        raise ValueError(f"the task must be one of {', '.join(_TASKS)}, not {task or 'nothing'}")
    if _OPTIMIZER.value is not None and task != "import":
        raise ValueError(f"--optimizer is a flag of import: leave it out of {task}")
    source = pathlib.Path(_SOURCE.value).expanduser().resolve()
    target = pathlib.Path(_TARGET.value).expanduser().resolve()
    if not source.is_dir():
        raise ValueError(f"--source={source} is not a folder")
    import jax

    from ttoaa.interop import convert

    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    if task == "import":
        done = convert.import_folder(source, target, _OPTIMIZER.value)
    else:
        done = convert.convert_olmo(source, target)
    print(f"convert: {done}")


if __name__ == "__main__":
    command_line.run("convert", main, arguments=True)
