"""Preregistration: what a study fixes before its runs, and whether its report still matches.

`preregistration.json` holds, under the sha256 of its content, the hash of every planned seed, the
primary outcome, sign, smallest effect and placebo of every experiment, the margins between runs,
the rule that decides, and the code. Runs record the sha256 when they begin, so that a file written
later does not pass.
"""

import datetime
import functools
import hashlib
import inspect
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import ttoaa
from ttoaa.checksums import KEY, read_record, write_record
from ttoaa.config import Study
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import outcome_fingerprints
from ttoaa.identity import describe, differences, digest
from ttoaa.planning.plan import Plan
from ttoaa.reporting import replication
from ttoaa.runs import REFERENCE
from ttoaa.training.run_records import ATTEMPTS, FINISHED, PROVENANCE, read_provenance
from ttoaa.training.topology import code_version
from ttoaa.workdir import Workdir

_FIX = "restore it from a copy"
_NOT_COMPARED = ("written", "code")
_BEGUN = (PROVENANCE, ATTEMPTS, FINISHED)
"""Files of a run, each of which shows that it has begun, should another one be missing."""


class Preregistration(TypedDict):
    """preregistration.json."""

    written: str
    """UTC."""
    study: str
    plans: dict[str, str]
    """The hash of each seed's plan: items, places, geometry, corpus and seed."""
    model_and_training: str
    """A digest of what decides the numerics of runs, with the initial weights and reference."""
    experiments: dict[str, Any]
    margins: Any
    rule: str
    alpha: float
    code: dict[str, Any]


def preregister(study: Study, root: pathlib.Path) -> tuple[Preregistration, str]:
    """Write preregistration.json, unless the same one exists; return it with its sha256.

    Raises ValueError if there is no plan, if a run has begun, or if another one exists.
    """
    seeds = _planned(root)
    if not seeds:
        raise ValueError(f"{root} has no plan to preregister: run ttoaa plan for every seed first")
    path, now = Workdir(root).preregistration, declare(study, root, seeds)
    if path.exists():
        made, sha256 = _read(path)
        for line in _differences(made, now):
            raise ValueError(f"{path} exists, with another content ({line}): move it away first")
        return made, sha256
    if begun := [*_begun(root)]:
        raise ValueError(
            f"{begun[0]} has begun training: a preregistration comes before every run of a study"
        )
    write_record(path, now)
    return _read(path)


def declare(study: Study, root: pathlib.Path, seeds: Sequence[int]) -> Preregistration:
    """Return what the study would preregister now for these seeds, which have plans."""
    outcomes = outcome_fingerprints(study.experiments)
    return {
        "written": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC",
        "study": study.name,
        "plans": {str(seed): Plan(Workdir(root, seed).plan).hash for seed in seeds},
        "model_and_training": digest(
            {
                "model": study.model,
                "training": study.training.numerics(),
                "init_from": study.init_from,
                "reference": study.reference,
            }
        ),
        "experiments": {e.name: _experiment(e, outcomes[e.name]) for e in study.experiments},
        "margins": describe(study.comparison),
        "rule": inspect.getdoc(replication) or "",
        "alpha": replication.ALPHA,
        "code": code_version(),
    }


def _experiment(experiment: Experiment, outcome: str) -> dict[str, Any]:
    kind: type = type(experiment)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "source": _source(kind),
        "outcome": outcome,
        "primary": experiment.primary,
        "expected_sign": experiment.expected_sign,
        "smallest_effect": experiment.smallest_effect,
        "placebo": experiment.placebo,
    }


@functools.cache
def _source(kind: type) -> str:
    """Return the sha256 of the files of the class and its bases; empty for one without a file.

    Of a package other than ttoaa, all files count: the class may use any. Of ttoaa, the version and
    commit of the code fix the rest.
    """
    names = dict.fromkeys(each.__module__ for each in kind.__mro__ if each is not Experiment)
    try:
        found = dict.fromkeys(path for name in names for path in _files(name))
        contents = [path.read_bytes() for path in found]
    except (KeyError, OSError, TypeError):
        return ""
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def _files(module: str) -> list[pathlib.Path]:
    """Return the file of a module, or all of its package if that is neither ttoaa nor Python's."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return []
    package = sys.modules[top]
    if top != ttoaa.__name__ and hasattr(package, "__path__"):
        return sorted(
            path for root in package.__path__ for path in pathlib.Path(root).rglob("*.py")
        )
    return [pathlib.Path(inspect.getfile(sys.modules[module]))]


def compare(study: Study, root: pathlib.Path, seeds: Sequence[int]) -> list[str]:
    """Return plain sentences: whether the analysis of these seeds is the preregistered one.

    The first says whether there is a preregistration and whether everything matches. Raises
    ValueError if it is damaged.
    """
    path = Workdir(root).preregistration
    if not path.exists():
        return ["This study was not preregistered (ttoaa preregister, before the first run)."]
    made, sha256 = _read(path)
    now = declare(study, root, seeds)
    found = [*_differences(made, now), *_late(root, sha256)]
    verdict = "the analysis matches it in every point"
    if found:
        verdict = f"the analysis differs from it in {len(found)} point{'s' * (len(found) > 1)}"
    lines = [f"Preregistered on {made['written']} (sha256 {sha256}): {verdict}.", *found]
    versions = [_version(side["code"]) for side in (made, now)]
    if len(set(versions)) > 1:
        lines.append(f"Preregistered with ttoaa {versions[0]}, analysed with {versions[1]}.")
    return lines


def _version(code: Mapping[str, Any]) -> str:
    changed = " with uncommitted changes" if code["git_dirty"] else ""
    return f"{code['packages']['ttoaa']} {code['git_commit'][:12]}".strip() + changed


def _differences(made: Preregistration, now: Preregistration) -> Iterator[str]:
    """Yield a sentence for each point in which a preregistration differs from the study."""
    sides = [{k: v for k, v in side.items() if k not in _NOT_COMPARED} for side in (made, now)]
    for path, there, here in differences(*sides):
        yield f"{path.replace('.', ': ', 1)} was {_short(there)}, and is now {_short(here)}."


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "present"
    text = str(value).partition("\n")[0]
    return text if len(text) <= 60 else f"{text[:12]}…"


def _late(root: pathlib.Path, sha256: str) -> Iterator[str]:
    """Yield a sentence for each run that did not record this preregistration when it began."""
    for folder in _begun(root):
        if read_provenance(folder).get("preregistration") != sha256:
            name = folder.relative_to(root).as_posix()
            yield f"The run {name} began without this preregistration."


def _begun(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the folders of the runs that have begun, the reference model's excepted."""
    for seed in Workdir(root).seeds():
        folder = Workdir(root, seed)
        runs = (folder.run(name) for name in folder.runs() if name != REFERENCE)
        yield from (run for run in runs if any((run / name).exists() for name in _BEGUN))


def _planned(root: pathlib.Path) -> list[int]:
    seeds = Workdir(root).seeds()
    return [seed for seed in seeds if (Workdir(root, seed).plan / "plan.json").exists()]


def _read(path: pathlib.Path) -> tuple[Preregistration, str]:
    record = read_record(path, Preregistration, _FIX)
    if KEY not in record:
        raise ValueError(f"{path} has no checksum: {_FIX}")
    return record, record[KEY]
