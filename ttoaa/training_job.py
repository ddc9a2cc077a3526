"""Build a run of a study and train it: the work of `ttoaa train` after parsing its flags."""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from ttoaa import config, identity
from ttoaa.checksums import read_record
from ttoaa.data.loader import Transform, batches
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.experiments import controllers
from ttoaa.experiments.context import probes_fingerprint
from ttoaa.locks import exclusive_trainer
from ttoaa.model.sharding import make_mesh
from ttoaa.planning.build import check_arms
from ttoaa.planning.injection import Overlay, SlotOverlay, write_sham_windows
from ttoaa.planning.noise import NoiseRows
from ttoaa.runs import CONTROL, REFERENCE, RUN, RunSpec
from ttoaa.study_handle import StudyHandle
from ttoaa.training import init_from, multihost, throughput, trackers
from ttoaa.training.branch import Branch, find_branch
from ttoaa.training.checkpoint_io import newest_meta
from ttoaa.training.controller_loop import ControllerSet
from ttoaa.training.device_feed import apply_transforms
from ttoaa.training.job import Job
from ttoaa.training.loop import train
from ttoaa.training.run_records import Finished, read_finished
from ttoaa.training.step import CompiledStep
from ttoaa.training.topology import pin_cores, split_cpu
from ttoaa.training.tracker_rows import TrackerRows
from ttoaa.training.trackers import Tracking, open_tracker
from ttoaa.workdir import Workdir


def check_run(handle: StudyHandle, spec: RunSpec) -> None:
    """Raise ValueError, before any device is used, if the run cannot be trained."""
    handle.check_possible(spec.name)
    if spec.experiments:
        handle.check_plan_fits()
        check_arms(handle.plan, handle.config.training.max_arms)


def identity_of(handle: StudyHandle, spec: RunSpec, controls: ControllerSet) -> dict[str, Any]:
    """Describe all that decides the run's batches and numerics.

    Raises ValueError where the control run of this study was made with other settings.
    """
    study, workdir = handle.config, handle.workdir
    begun = [made for each in (spec.name, CONTROL) if (made := _made(workdir.run(each)))]
    branch = branch_of(handle, spec)
    probes = probes_fingerprint(handle.probes), controls.measured_fingerprint
    ours = identity.identity(
        corpus=handle.corpus.fingerprint,
        order=handle.order_of(spec).fingerprint,
        plan=handle.plan.hash if spec.experiments else "none",
        probes="-".join(filter(None, probes)),
        controllers=controls.fingerprint if controls.overlay else "none",
        geometry=study.geometry,
        model=study.model,
        training=study.training.numerics(),
        seed=spec.init_seed(workdir.seed),
        **({"subset": spec.subset} if spec.subset else {}),
        **({"sham": handle.sham_windows} if spec.sham else {}),
        **({"branch": branch} if branch else {}),
        init_from=init_from.find_source(
            study.init_from, begun[0].get("init_from") if begun else None
        ),
    )
    if spec.name not in (CONTROL, REFERENCE) and (control := _made(workdir.run(CONTROL))):
        alike = {name: value for name, value in ours.items() if name not in spec.differs}
        identity.check(workdir.run(CONTROL), control, alike, identity.RETRAIN)
    if branch and not _made(workdir.run(spec.name)):
        branch.check(ours, edited=spec.base == RUN)
    return ours


def branch_of(handle: StudyHandle, spec: RunSpec) -> Branch | None:
    """Return the checkpoint that a what-if run continues; None for other runs.

    Once the run has a checkpoint, it needs that of the other run no more. Raises ValueError if the
    other run has no such checkpoint.
    """
    if spec.start is None:
        return None
    folder, made = handle.workdir.run(spec.base), _made(handle.workdir.run(spec.name))
    if made:
        return Branch(spec.base, spec.start, made["branch"]["sha256"], folder)
    return find_branch(spec.base, spec.start, folder, handle.config.geometry.steps)


def make_job(
    handle: StudyHandle,
    spec: RunSpec,
    controls: ControllerSet,
    made_of: Mapping[str, Any],
    ours: Callable[[], bool],
    program: CompiledStep,
    config: str,
) -> Job:
    """Put together the training job of a compiled step; `ours` and `config` as in `Job`."""
    study, workdir = handle.config, handle.workdir
    sham = handle.sham_windows if spec.sham else None
    overlay: list[Transform] = []
    noisy = False
    if spec.experiments:
        overlay.append(Overlay(handle.plan, handle.corpus, spec.experiments, sham))
        noise = NoiseRows(handle.plan, () if spec.sham else spec.experiments)
        if noisy := bool(noise):
            overlay.append(noise)
    early, late = _transforms(overlay, controls.overlay, study.training.repetition_filter)
    corpus, order, geometry = handle.corpus, handle.order_of(spec), study.geometry
    return Job(
        folder=workdir.run(spec.name),
        seed=spec.init_seed(workdir.seed),
        program=program,
        identity=made_of,
        batches=lambda start, rows: apply_transforms(
            batches(corpus, order, geometry, early, rows=rows, start=start), late
        ),
        controls=controls,
        probes=handle.probes,
        validation_NxL=handle.validation_NxL,
        label=workdir.label(spec.name),
        noisy=noisy,
        init_from=study.init_from,
        branch=branch_of(handle, spec),
        config=config,
        ours=ours,
        tracking=make_tracking(handle, spec),
    )


def make_tracking(handle: StudyHandle, spec: RunSpec, kind: str | None = None) -> Tracking:
    """Return what trackers show of a run; `kind` is one in addition to TensorBoard."""
    arms = handle.plan.arms if spec.experiments else []
    names = {arm["id"]: f"{arm['experiment']}/loss/{arm['condition']}" for arm in arms}
    project = re.sub(r"[^\w.-]+", "-", handle.config.name)
    return Tracking(kind, project, handle.workdir.root.name, {0: "corpus/loss", **names})


def _send_records(folder: pathlib.Path, label: str, made: Finished, to: Tracking) -> str:
    """Send a finished run's records to a tracker, which may have a part; return how it went."""
    trackers.check(to.kind)
    with exclusive_trainer(folder):  # two commands at once would send the same rows
        rows = TrackerRows(open_tracker(folder, label, made["identity"], to), to.arms)
        rows.fill_up(folder, made["step"])
        rows.close(finished=True)
    return f"its records are {'not all ' if rows.failed else ''}in {to.kind}"


def make_controls(handle: StudyHandle, spec: RunSpec) -> ControllerSet:
    """Return the controllers; without their experiment, and in the sham run, they only measure."""
    found = handle.controllers
    if not found:
        return ControllerSet()
    measured = controllers.measured_fingerprint(found)
    filling = {name for name, _ in found} & {*spec.experiments}
    if spec.sham or not filling:
        return ControllerSet(found, measured, measured)
    deciding = [pair for pair in found if pair[0] in filling]
    filled = SlotOverlay(handle.plan, controllers.slot_texts(deciding))
    root = controllers.controllers_fingerprint(deciding)
    others = [pair for pair in found if pair[0] not in filling]
    return ControllerSet([*deciding, *others], root, measured, filled)


def _transforms(
    overlay: Sequence[Transform], filled: SlotOverlay | None, repetition: RepetitionFilter | None
) -> tuple[list[Transform], list[Transform]]:
    """Those that the loader may do ahead of time, and those that must wait for decisions."""
    edits: list[Transform] = [*overlay, filled] if filled else [*overlay]
    every = repetition.among(edits) if repetition else edits
    first = every.index(filled) if filled else len(every)
    return every[:first], every[first:]


class _Preregistered(TypedDict):
    sha256: str


def _preregistered(workdir: Workdir) -> str:
    """Return the sha256 of the study's preregistration; empty without one."""
    path = workdir.preregistration
    if not path.exists():
        return ""
    made: _Preregistered = read_record(path, _Preregistered, "restore it from a copy")
    return made["sha256"]


def _made(folder: pathlib.Path) -> dict[str, Any] | None:
    """The identity by which a run began; None where it has no checkpoint yet."""
    meta = read_finished(folder) or newest_meta(folder / "checkpoints")
    return meta["identity"] if meta else None


def compiled_step(study: config.Study) -> CompiledStep:
    """The training step on the devices that are here."""
    mesh = make_mesh(study.layout)
    return CompiledStep(study.model, study.training, study.geometry, study.execution, mesh)


def run(
    study: config.Study,
    workdir: Workdir,
    name: str,
    profile_steps: str | None = None,
    began: float | None = None,
    tracker: str | None = None,
) -> str:
    """Train the run of this name to its end; return the line to print.

    Args:
        profile_steps: as of `throughput.parse_profile_steps`.
        began: time.time() when the process began, by default now.
        tracker: where the run is shown in addition to TensorBoard. A finished run's records are
            sent there.
    """
    if name == REFERENCE:
        study, workdir = study.of_reference(), Workdir(workdir.root)
    handle, folder = StudyHandle(study, workdir), workdir.run(name)
    spec = handle.run_spec(name)
    check_run(handle, spec)
    controls = make_controls(handle, spec)
    made_of = identity_of(handle, spec, controls)
    tracking = make_tracking(handle, spec, tracker)
    finished = read_finished(folder)
    if finished:
        identity.check(folder, finished["identity"], made_of, identity.RETRAIN)
        sent = ""
        if tracker and multihost.primary():
            sent = "; " + _send_records(folder, workdir.label(name), finished, tracking)
        return f"{folder} is finished already{sent}"
    config.cache_compilations(workdir)
    profile = throughput.parse_profile_steps(profile_steps, study.geometry.steps)
    with contextlib.ExitStack() as stack:
        taken: list[Callable[[], bool]] = []

        def take() -> None:
            trackers.check(tracker)
            taken.append(stack.enter_context(exclusive_trainer(folder)))

        # Before any device is touched: a trainer that lives may hold them.
        multihost.primary_first(take)
        meta = newest_meta(folder / "checkpoints")
        branch = branch_of(handle, spec)
        began_as = meta or (branch.read_meta() if branch else None)
        first = began_as["topology"] if began_as else {}
        first = first if first.get("platform") == "cpu" else {}
        pin_cores(first.get("cores"))
        split_cpu(study.geometry.batch, study.layout, first.get("devices"))
        if spec.sham and not meta and multihost.primary():
            write_sham_windows(folder, handle.sham_windows)
        is_ours = taken[0] if taken else lambda: True  # only the primary process holds the lock
        resolved = workdir.config.read_text(encoding="utf-8")
        job = make_job(handle, spec, controls, made_of, is_ours, compiled_step(study), resolved)
        job = dataclasses.replace(job, preregistration=_preregistered(workdir))
        train(dataclasses.replace(job, profile=profile, began=began, tracking=tracking))
    return f"{folder} is finished at step {study.geometry.steps:,}"
