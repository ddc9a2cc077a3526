"""Any task of lm-evaluation-harness on a checkpoint, without torch or an export.

  python -m ttoaa.interop.lm_eval --workdir=runs/mine --tasks=arc_easy,piqa \
      [--run=control] [--step=90]
  python -m ttoaa.interop.lm_eval --folder=OLMo-2-0425-1B --tasks=hellaswag --output_path=results

--folder is a run's, an import's, or that of a Hugging Face Olmo2ForCausalLM. Whatever else is given
goes to the harness's own command (lm-eval --help): --num_fewshot, --limit, --log_samples, …
"""

import argparse
import sys
from collections.abc import Sequence

from ttoaa.training.topology import pin_cores

_OURS = {
    "workdir": "the study's folder",
    "run": "its run: run by default, control, run-s1, …",
    "folder": "instead of a workdir: of a run, an import or an Olmo2ForCausalLM",
    "step": "by default the newest checkpoint",
    "max_length": "tokens that the model reads at most; by default its training rows'",
    "fsdp": "parts that the parameters are cut into",
    "tensor": "parts that heads, hidden units and the vocabulary are cut into",
}


def command(arguments: Sequence[str]) -> list[str]:
    """The harness's own arguments: ours as its `model_args`, the rest as it is.

    Raises ValueError for a name with a comma, at which the harness would cut it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ttoaa.interop.lm_eval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, meaning in _OURS.items():
        parser.add_argument(f"--{name}", help=meaning)
    ours, rest = parser.parse_known_args(arguments)
    given = {name: value for name, value in vars(ours).items() if value is not None}
    for name, value in given.items():
        if "," in value:
            raise ValueError(f"--{name}={value} has a comma, which the harness cuts at: rename it")
    if not given:
        raise ValueError("name a study by --workdir=… or a model by --folder=…")
    model = ",".join(f"{name}={value}" for name, value in given.items())
    return ["--model", "ttoaa", "--model_args", model, *rest]


def main() -> None:
    try:
        sys.argv = ["lm-eval", *command(sys.argv[1:])]
        import ttoaa.interop.lm_eval.model  # noqa: F401 (registers the model)

        pin_cores()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"harness: {error}")


if __name__ == "__main__":
    main()
