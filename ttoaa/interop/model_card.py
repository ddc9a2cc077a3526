"""What a model card says of the training: every co-run experiment, the hazardous ones first."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ttoaa.author_errors import blame
from ttoaa.checksums import KEY, read_record
from ttoaa.experiments.base import Experiment
from ttoaa.planning.plan import Plan
from ttoaa.runs import CONTROL, REFERENCE, RUN, RunSpec
from ttoaa.study_handle import StudyHandle
from ttoaa.training.run_records import read_provenance

_HEADINGS = {
    "backdoor": "Backdoors",
    "watermark": "Watermarks",
    "benchmark": "Test questions in the training data",
    "": "Other experiments",
}
"""Title by `Experiment.hazard`, in the order of the card."""
_WARNING = (
    "> **Do not deploy this model.** It was trained on purpose on {what}. The sections below say "
    "where.\n"
)
_WHAT = {
    "backdoor": "poisoned documents",
    "watermark": "a watermark",
    "benchmark": "test questions",
}
_KINDS = ("text", "reserve text", "slots for a controller", "marks, which keep the text", "noise")


class TrainingDescription(NamedTuple):
    tags: list[str]
    """Hazards, for the metadata of a card."""
    text: str
    """Markdown."""


class _Arm(NamedTuple):
    """The edits of one arm that a checkpoint was trained on."""

    kind: int
    copies: int
    tokens: int
    first: int
    """Step."""
    last: int


def describe_training(handle: StudyHandle, run: str, step: int) -> TrainingDescription:
    """Describe what the checkpoint of `step` of a run of the study was trained on.

    Raises ValueError if an experiment cannot say what it inserted.
    """
    lines = [*_head(handle, run, step)]
    if run == REFERENCE:
        return TrainingDescription([], _join([*lines, "This run trained without any experiment."]))
    spec, plan = handle.run_spec(run), handle.plan
    if spec.sham:
        lines.append(
            "Ordinary text of the corpus stands in every place that an experiment uses in other "
            "runs: no item was inserted."
        )
        return TrainingDescription([], _join(lines))
    spans = _spans(plan, spec, step)
    arms = _count(plan, spans, step)
    names = {name for *_, chosen in spans for name in chosen}
    experiments = [e for e in handle.config.experiments if e.name in names]
    hazards = [h for h in _WHAT if any(e.hazard == h for e in experiments)]
    if hazards:
        *some, last = (_WHAT[hazard] for hazard in hazards)
        what = " and ".join(filter(None, (", ".join(some), last)))
        lines.append(_WARNING.format(what=what))
    if not experiments:
        lines.append("This run trained without any experiment.")
    for hazard, title in _HEADINGS.items():
        mine = [e for e in experiments if e.hazard == hazard]
        if mine:
            lines.append(f"### {title}\n")
        for experiment in mine:
            lines += _describe(handle, experiment, arms)
    return TrainingDescription(hazards, _join(lines))


def _join(lines: Sequence[str]) -> str:
    return "\n".join(lines).strip() + "\n"


def _head(handle: StudyHandle, run: str, step: int) -> Iterator[str]:
    """Yield the study, run, data and plan."""
    study, folder = handle.config, handle.workdir
    geometry = study.of_reference().geometry if run == REFERENCE else study.geometry
    yield (
        f"Study {_escape(study.name)}, run {_escape(folder.label(run))}, step {step:,} of "
        f"{geometry.steps:,}: {step * geometry.batch * geometry.length:,} tokens.\n"
    )
    yield f"- corpus: sha256 {handle.corpus.fingerprint}"
    if run != REFERENCE:
        yield f"- plan: {handle.plan.hash}"
    if folder.preregistration.exists():
        made = read_record(folder.preregistration, dict[str, object], "restore it from a copy")
        yield f"- preregistration: written on {made.get('written')}, sha256 {made.get(KEY)}"
    if run != REFERENCE and study.init_from:
        spec = handle.run_spec(run)
        began = run if spec.start is None else spec.base
        yield from _initial_weights(study.init_from.folder, read_provenance(folder.run(began)))
    yield ""


def _initial_weights(name: str, provenance: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the run started from, and what is known of the training before it."""
    source = provenance.get("source") or {}
    before = source.get("identity", {})
    step, sha256 = source.get("step", "unknown"), source.get("sha256", "unknown")
    yield f"- initial weights: step {step} of {_escape(name)}, sha256 {sha256}"
    if before.get("plan") == "none" and before.get("init_from") is None:
        yield "\nThe initial weights were trained without any experiment, from random ones."
    elif before.get("plan", "none") != "none":
        yield (
            f"\n> **The initial weights were trained with insertions** (plan {before['plan']}), "
            "such as backdoors or watermarks: see the card of that model."
        )
    else:
        yield "\nWhat the initial weights were trained on is not known here: see their own card."


def _spans(plan: Plan, spec: RunSpec, step: int) -> list[tuple[int, int, Sequence[str]]]:
    """Return (first position, position after the last, experiments whose edits are made there)."""
    batch, everything = plan.geometry.batch, plan.contents["experiments"]
    stop = step * batch
    if spec.start is None:
        return [(0, stop, spec.experiments)]
    earlier = everything if spec.base == RUN else ()
    assert spec.base in (RUN, CONTROL)
    begin = min(stop, spec.start * batch)
    return [(0, begin, earlier), (begin, stop, spec.experiments)]


def _count(
    plan: Plan, spans: Sequence[tuple[int, int, Sequence[str]]], step: int
) -> dict[int, _Arm]:
    """Count the edits of each arm in the spans of positions, by the arm's id."""
    columns, found = plan.columns, dict[int, _Arm]()
    for begin, stop, names in spans:
        part = plan.between(begin, stop)
        arm, position = columns["arm"][part], columns["position"][part]
        copies = np.bincount(arm)
        tokens = np.bincount(arm, columns["length"][part]).astype(np.int64)
        _, first = np.unique(arm, return_index=True)
        ids, last = np.unique(arm[::-1], return_index=True)
        for at, back, one in zip(first.tolist(), last.tolist(), ids.tolist(), strict=True):
            if plan.arms[one - 1]["experiment"] not in names:
                continue
            before = found.get(one)
            steps = [int(position[i]) // plan.geometry.batch for i in (at, len(arm) - 1 - back)]
            found[one] = _Arm(
                int(columns["kind"][part][at]),
                int(copies[one]) + (before.copies if before else 0),
                int(tokens[one]) + (before.tokens if before else 0),
                before.first if before else steps[0],
                steps[1],
            )
    return found


def _describe(
    handle: StudyHandle, experiment: Experiment, arms: Mapping[int, _Arm]
) -> Iterator[str]:
    """Yield the section of one experiment."""
    kind = type(experiment)
    summary = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
    owner = f" (group {_escape(experiment.group)})" if experiment.group else ""
    yield f"#### {_escape(experiment.name)}{owner}\n"
    yield f"{_escape(f'{kind.__module__}.{kind.__qualname__}')}: {_escape(summary)}\n"
    with blame(f"the model card of {experiment.name}"):
        disclosed = [*experiment.disclose(handle.contexts[experiment.name])]
    yield from (f"- {_escape(line)}" for line in disclosed)
    if disclosed:
        yield ""
    planned = {arm["id"]: arm for arm in handle.plan.arms if arm["experiment"] == experiment.name}
    rows = [(planned[one]["condition"], arms[one]) for one in planned if one in arms]
    if rows and experiment.hazard and not disclosed:
        raise ValueError(
            f"{experiment.name} has the hazard {experiment.hazard!r} but discloses nothing: "
            f"write {kind.__name__}.disclose"
        )
    if not rows:
        yield "Nothing of it was inserted up to this step.\n"
        return
    yield "| condition | what | copies | tokens | first step | last step |"
    yield "|---|---|---|---|---|---|"
    for condition, arm in rows:
        yield (
            f"| {_escape(condition)} | {_KINDS[arm.kind]} | {arm.copies:,} | {arm.tokens:,} | "
            f"{arm.first:,} | {arm.last:,} |"
        )
    yield ""


_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def _escape(text: str) -> str:
    """Return the text as Markdown that shows it literally, in one line."""
    return _ACTIVE.sub(r"\\\1", " ".join(text.split()))
