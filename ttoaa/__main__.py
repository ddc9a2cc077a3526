"""Run one command of ttoaa: `ttoaa train --workdir=…` does what `python -m ttoaa.train` does."""

import os
import sys

from ttoaa import __version__, signals

COMMANDS = {
    "prepare": "ttoaa.prepare",
    "choose": "ttoaa.choose",
    "plan": "ttoaa.plan",
    "preregister": "ttoaa.preregister",
    "train": "ttoaa.train",
    "evaluate": "ttoaa.evaluate",
    "report": "ttoaa.report",
    "dependence": "ttoaa.dependence",
    "export": "ttoaa.export",
    "status": "ttoaa.status",
    "study": "ttoaa.study",
    "config": "ttoaa.config_diff",
    "new-experiment": "ttoaa.new_experiment",
    "compile": "ttoaa.compile",
    "beam": "ttoaa.beam",
    "harness": "ttoaa.interop.lm_eval",
    "convert": "ttoaa.interop",
    "olmo-corpus": "ttoaa.interop.olmo.corpus",
}
"""Command to the module that `python -m` runs."""


def main() -> None:
    """Run the command that sys.argv names; without one, list the commands."""
    arguments = sys.argv[1:]
    signals.install(" ".join(arguments[:1]) or "ttoaa")
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        with signals.reader_may_leave():
            print(overview())
    elif arguments[0] == "--version":
        print(f"ttoaa {__version__}")
    elif arguments[0] not in COMMANDS:
        print(
            f"ttoaa: {arguments[0]!r} is not a command; use one of {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    else:
        if not sys.flags.safe_path:
            # A console script puts its own folder here, `python -m` the current one, from which
            # configs may import experiments.
            sys.path[0] = os.getcwd()
        sys.argv[:2] = [" ".join(sys.argv[:2])]
        import runpy  # late, so that signals are handled early

        runpy.run_module(COMMANDS[arguments[0]], run_name="__main__", alter_sys=True)


def overview() -> str:
    """List the commands with the first line of their docstrings, importing none of them."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: ttoaa COMMAND [flags]",
            "",
            *(f"  {name:{width}}  {_summary(module)}" for name, module in COMMANDS.items()),
            "",
            "`ttoaa COMMAND --help` lists the flags of a command.",
        ]
    )


def _summary(module: str) -> str:
    import pathlib

    path = pathlib.Path(__file__).parent.joinpath(*module.split(".")[1:])
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8").split('"""')[1].splitlines()[0].rstrip(".")


if __name__ == "__main__":
    main()
