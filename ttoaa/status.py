"""Say what of a study is done, running, missing, or damaged, and what to run next.

  ttoaa status runs/mine

The command only reads, and uses no accelerator.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ttoaa.evaluation.watch import span
from ttoaa.workdir import Workdir

_MOST = 12
"""Lines about what lacks."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="ttoaa status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", type=pathlib.Path, nargs="?", help="the study's folder")
    parser.add_argument(
        "--workdir", type=pathlib.Path, dest="named", help="another way to name the folder"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    asked = parser.parse_args(argv)
    folder = asked.workdir or asked.named
    if folder is None:
        parser.error("name the study's folder")
    try:
        told = read(folder)
    except (ValueError, OSError) as error:
        sys.exit(f"status: {error}")
    print(json.dumps(told) if asked.json else "\n".join(lines(told)))


def read(root: pathlib.Path) -> dict[str, Any]:
    """The state of the study in that folder; ValueError where there is none, or a bad config."""
    root = root.expanduser().resolve()
    if not Workdir(root).config.exists():
        raise ValueError(
            f"{root} holds no study: begin one with python -m ttoaa.study --workdir={root} "
            "--gin_file=…"
        )
    from ttoaa import config  # what is above says its error at once
    from ttoaa.evaluation.study_status import study_status

    return study_status(config.load([Workdir(root).config])[0], root)


def lines(told: dict[str, Any]) -> Iterator[str]:
    """The state as text."""
    yield f"{told['study']} in {told['workdir']}"
    yield f"corpus     {'made' if told['corpus'] else 'missing'}"
    for of in told["seeds"]:
        yield f"seed {of['seed']}"
        yield f"  control  {_run(of['control'], told['steps'])}"
        yield f"  plan     {'made (' + of['plan'][:12] + ')' if of['plan'] else 'missing'}"
        yield f"  run      {_run(of['run'], told['steps'])}"
        yield from _tables(of)
    yield f"report     {told['report']}"
    if told["next"]:
        yield from ("next:", *(f"  {command}" for command in told["next"]))
    if any(of["tables"]["damaged"] for of in told["seeds"]):
        yield "next: mend what is damaged, as its line says"
    elif told["done"]:
        yield f"next: nothing, all is done; open {Workdir(pathlib.Path(told['workdir'])).report}"
    elif not told["next"]:
        yield "next: nothing to type, what lacks is under way"


def _run(run: dict[str, Any], steps: int) -> str:
    told = "training" if run["training"] else "interrupted"
    if run["finished"]:
        told = f"finished at step {steps:,}"
    elif run["step"] is not None:
        told += f", at step {run['step']:,} of {steps:,} {span(run['quiet_seconds'])} ago"
    elif not run["training"]:
        return "not begun"
    there = " ".join(str(step) for step in run["checkpoints"])
    return f"{told}; checkpoints {there}" if there else f"{told}; no checkpoint"


def _tables(of: dict[str, Any]) -> Iterator[str]:
    tables = of["tables"]
    yield f"  tables   {tables['made']} of {tables['asked']} for the checkpoints that are there"
    for name in tables["later"]:
        yield f"    {name} is not in the plan: it inserts nothing and was added afterwards"
    for lease in of["running"]:
        what = f"{lease['run']} step {lease['step']}: {lease['experiment']}"
        since, quiet = span(lease["seconds"]), span(lease["quiet_seconds"])
        yield f"    running  {what}, by {lease['owner']} for {since}, seen {quiet} ago"
    for owner in of["jobs"]:
        yield f"    job      {owner}"
    for work in tables["missing"][:_MOST]:
        yield f"    missing  {work['run']} step {work['step']}: {', '.join(work['experiments'])}"
    if len(tables["missing"]) > _MOST:
        yield f"    missing  … and of {len(tables['missing']) - _MOST} checkpoints more"
    yield from (f"    damaged  {text}" for text in tables["damaged"])
    for path in (*of["control"]["set_aside"], *of["run"]["set_aside"]):
        yield f"    damaged  {path} was set aside by the trainer, which went on without it"


if __name__ == "__main__":
    main()
