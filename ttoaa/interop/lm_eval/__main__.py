"""Run tasks of lm-evaluation-harness on a checkpoint, without torch or an export.

  ttoaa harness --workdir=runs/mine --tasks=arc_easy,piqa [--run=control] [--step=400]
  ttoaa harness --folder=OLMo-2-0425-1B --tasks=hellaswag --output_path=results

--folder is the folder of a run, of an import, or of a Hugging Face Olmo2ForCausalLM. All other
flags go to the harness (see lm-eval --help): --num_fewshot, --limit, --log_samples, …
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from ttoaa import signals
from ttoaa.command_line import one_line

_OURS = {
    "workdir": "folder of the study",
    "run": "run of the study: control, run-s1, …; by default run",
    "folder": "folder of a model, instead of --workdir",
    "step": "step of the checkpoint; by default the newest",
    "max_length": "longest input in tokens; by default the length of training sequences",
    "fsdp": "number of devices to shard parameters over",
    "tensor": "number of devices to shard heads, hidden units, and the vocabulary over",
}


def build_command(arguments: Sequence[str]) -> list[str]:
    """Translate our flags to the harness's `model_args`; pass the other arguments on.

    Raises ValueError for a value with a comma, which separates `model_args`.
    """
    given, rest = _parse(arguments)
    for name, value in given.items():
        if "," in value:
            raise ValueError(f"--{name}={value} has a comma, which separates model_args: rename it")
    if not given.keys() & {"workdir", "folder"}:
        raise ValueError("name a study by --workdir=… or a model by --folder=…")
    model = ",".join(f"{name}={value}" for name, value in given.items())
    return ["--model", "ttoaa", "--model_args", model, *rest]


def _parse(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the given flags of ttoaa, and all other arguments."""
    parser = argparse.ArgumentParser(
        prog="ttoaa harness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, meaning in _OURS.items():
        parser.add_argument(f"--{name}", help=meaning)
    ours, rest = parser.parse_known_args(arguments)
    given = {name: value for name, value in vars(ours).items() if value is not None}
    return given, rest


def check_folders(arguments: Sequence[str]) -> None:
    """Raise ValueError for a missing folder or checkpoint, before the slow import of libraries.

    A stray argument is refused too, because the harness would treat it as a subcommand.
    """
    given, rest = _parse(arguments)
    if rest and not rest[0].startswith("-"):
        raise ValueError(f"unexpected argument {rest[0]!r}: write the value of a flag after '='")
    if "workdir" in given:
        run = pathlib.Path(given["workdir"]).expanduser() / given.get("run", "run")
        steps = [path.name for path in run.glob("checkpoints/*") if path.name.isdecimal()]
        if not steps:
            raise ValueError(f"{run} has no checkpoint: name a trained run by --workdir and --run")
        if given.get("step", steps[0]) not in steps:
            found = ", ".join(sorted(steps, key=int))
            raise ValueError(f"{run} has no checkpoint {given['step']!r}, only {found}")
    elif "folder" in given and not pathlib.Path(given["folder"]).expanduser().is_dir():
        raise ValueError(f"--folder={given['folder']} is not a folder")


def main() -> None:
    try:
        check_folders(sys.argv[1:])
        sys.argv = ["lm-eval", *build_command(sys.argv[1:])]
        import ttoaa.interop.lm_eval.model  # noqa: F401 (registers the model)
        from ttoaa.training.topology import pin_cores

        pin_cores()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"harness: {one_line(error)}")


if __name__ == "__main__":
    signals.install("harness")
    main()
