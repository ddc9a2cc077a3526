"""Show what is done, running, missing or damaged in a study, and what to run next.

  ttoaa status runs/mine

The command only reads, and uses no accelerator.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ttoaa import bucket, signals
from ttoaa.workdir import Workdir

_MOST = 12
"""Maximum number of lines about missing tables."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="ttoaa status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", nargs="?", help="the study's folder, or gs://BUCKET/FOLDER")
    parser.add_argument("--workdir", dest="named", help="the same, as a flag")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    asked = parser.parse_args(argv)
    if asked.workdir and asked.named:
        parser.error("name the study's folder once")
    folder = asked.workdir or asked.named
    if folder is None:
        parser.error("name the study's folder")
    try:
        state = read(bucket.expand(folder))
    except (ValueError, OSError) as error:
        sys.exit(f"status: {error}")
    print(json.dumps(state) if asked.json else "\n".join(lines(state)))


def read(root: pathlib.Path) -> dict[str, Any]:
    """Return the state of the study in a folder; ValueError if it has no study or a bad config."""
    root = root.expanduser().resolve()
    if not Workdir(root).config.exists():
        raise ValueError(
            f"{root} holds no study: start one with python -m ttoaa.study --workdir={root} "
            "--gin_file=…"
        )
    from ttoaa import config  # imported late, so that the error above is immediate
    from ttoaa.evaluation.study_status import study_status
    from ttoaa.gin_files import sources_of

    sources = sources_of(Workdir(root).config)
    state = study_status(config.load([Workdir(root).config])[0], root)
    state["next"] = [bucket.named_by_url(command) for command in state["next"]]
    return {**state, "config": [source._asdict() for source in sources]}


def lines(state: dict[str, Any]) -> Iterator[str]:
    """Yield the state as lines of text."""
    yield f"{state['study']} in {bucket.named_by_url(state['workdir'])}"
    sources = [f"{source['path']} ({source['sha256'][:12]})" for source in state["config"]]
    yield f"config     {', '.join(sources)}"
    yield f"corpus     {'made' if state['corpus'] else 'missing'}"
    if state["reference"]:
        yield f"reference  {_run(state['reference'], state['reference']['steps'])}"
    for of in state["seeds"]:
        yield f"seed {of['seed']}"
        if of["unchosen"]:
            yield f"  choices  missing: {', '.join(of['unchosen'])}"
        yield f"  plan     {'made (' + of['plan'][:12] + ')' if of['plan'] else 'missing'}"
        width = max(map(len, of["runs"])) + 2
        yield from (
            f"  {name:{max(width, 9)}}{_run(of[name], state['steps'])}" for name in of["runs"]
        )
        yield from _tables(of)
    yield f"report     {state['report']}"
    if state["next"]:
        yield from ("next:", *(f"  {command}" for command in state["next"]))
    if any(of["tables"]["damaged"] for of in state["seeds"]):
        yield "next: repair the damaged files as their lines say"
    elif state["done"]:
        report = Workdir(pathlib.Path(state["workdir"])).report
        yield f"next: nothing, everything is done; open {report}"
    elif not state["next"]:
        yield "next: nothing to run, the missing parts are in progress"


def _run(run: dict[str, Any], steps: int) -> str:
    from ttoaa.evaluation.watch import span

    phase = "training" if run["training"] else "interrupted"
    if run["finished"]:
        phase = f"finished at step {steps:,}"
    elif run["step"] is not None:
        phase += f", at step {run['step']:,} of {steps:,} {span(run['quiet_seconds'])} ago"
    elif not run["training"]:
        return "not begun"
    there = " ".join(str(step) for step in run["checkpoints"])
    return f"{phase}; checkpoints {there}" if there else f"{phase}; no checkpoint"


def _tables(of: dict[str, Any]) -> Iterator[str]:
    from ttoaa.evaluation.watch import span

    tables = of["tables"]
    yield f"  tables   {tables['made']} of {tables['asked']} for the existing checkpoints"
    yield from (f"    {line}" for line in of["strays"])
    for name in tables["later"]:
        yield f"    {name} is not in the plan: it inserts nothing and was added later"
    for lease in of["running"]:
        what = f"{lease['run']} step {lease['step']}: {lease['experiment']}"
        since, quiet = span(lease["seconds"]), span(lease["quiet_seconds"])
        yield f"    running  {what}, by {lease['owner']} for {since}, seen {quiet} ago"
    for owner in of["jobs"]:
        yield f"    job      {owner}"
    for work in tables["missing"][:_MOST]:
        yield f"    missing  {work['run']} step {work['step']}: {', '.join(work['experiments'])}"
    if len(tables["missing"]) > _MOST:
        yield f"    missing  … and tables of {len(tables['missing']) - _MOST} more checkpoints"
    yield from (f"    damaged  {text}" for text in tables["damaged"])
    for path in (path for name in of["runs"] for path in of[name]["set_aside"]):
        yield f"    damaged  {path} was set aside by the trainer, which continued without it"


if __name__ == "__main__":
    signals.install("status")
    main()
    signals.succeeded()
