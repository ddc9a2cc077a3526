"""Which tables of a study may be reported: those of its plan, and of its outcomes as they are."""

import pathlib
from collections.abc import Mapping, Sequence

from ttoaa.scoring.tables import source_of
from ttoaa.training.stored import committed_steps
from ttoaa.workdir import RUNS, Workdir


def outdated(folder: Workdir, plan: str, outcomes: Mapping[str, str]) -> list[pathlib.Path]:
    """Tables that are not, and that nobody can make again, as their checkpoints are gone.

    `plan` is the plan's hash, `outcomes` are the fingerprints by experiment. Raises ValueError for
    a table that is not and can be made again.
    """
    found = []
    for kind in RUNS:
        there = committed_steps(folder.run(kind) / "checkpoints")
        for path in sorted((folder.tables / kind).glob("*/*.parquet")):
            if path.stem not in outcomes or not path.parent.name.isdecimal():
                continue
            source = source_of(path) or {}
            if source.get("plan") != plan:
                of = "of another plan"
            elif source.get("outcome") != outcomes[path.stem]:
                of = "of an earlier version of that outcome"
            else:
                continue
            if int(path.parent.name) in there:
                raise ValueError(f"{path} is {of}: run python -m ttoaa.evaluate again")
            found.append(path)
    return found


def described(paths: Sequence[pathlib.Path]) -> str:
    """One line on what is left out."""
    steps: dict[str, set[int]] = {}
    for path in paths:
        steps.setdefault(path.stem, set()).add(int(path.parent.name))
    told = (f"{name} at step {', '.join(map(str, sorted(at)))}" for name, at in steps.items())
    return (
        "tables left out, as they are of another plan or of an earlier version of their outcome, "
        f"and their checkpoints are gone: {'; '.join(told)}"
    )
