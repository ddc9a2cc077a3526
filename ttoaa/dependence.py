"""Measure whether experiments influence each other, by bursts of training from checkpoints.

  ttoaa dependence --workdir=runs/mine --checkpoints=250,400
  ttoaa dependence --workdir=runs/mine --checkpoints=250,400 --burst_steps=50 --share=0.05

Every row of the matrix continues a checkpoint of the control run for some steps: without
experiments, with each one alone, and with all. The command can be stopped and repeated, and several
jobs can share the work: what is done is not done again.

Before the matrix: make 40 bursts without experiments, and write what such a matrix could detect.

  ttoaa dependence --workdir=runs/mine --checkpoints=250,400 --nulls=40

Or forecast it from the checkpoint, without training.

  ttoaa dependence --workdir=runs/mine --checkpoints=250,400 --forecast --rows=

Instead of the matrix: rank candidate data sources.

  ttoaa dependence --workdir=runs/mine --checkpoints=250 --share=0.2 --rank_by=NAME

After the matrix: compare the bursts with full training.

  ttoaa dependence --workdir=runs/mine --full_runs
"""

import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from ttoaa import command_line, signals, study_flags

if TYPE_CHECKING:
    import pandas as pd

    from ttoaa.interactions.burst_study import BurstStudy
    from ttoaa.study_handle import StudyHandle

_CHECKPOINTS = flags.DEFINE_list("checkpoints", [], "steps of the checkpoints that are continued")
_SEEDS = flags.DEFINE_list(
    "burst_seeds",
    ["0", "1", "2", "3", "4", "5", "6", "7"],
    "seeds of the bursts; each has another stretch of the stream and other items",
)
_STEPS = flags.DEFINE_integer("burst_steps", 25, "steps of a burst", 1)
_SHARE = flags.DEFINE_float(
    "share", 0.01, "tokens that an experiment inserts, per token of a burst", 1e-6, 0.5
)
_LEAVE_ONE_OUT = flags.DEFINE_bool("leave_one_out", False, "also all experiments but one")
_ROWS = flags.DEFINE_list(
    "rows", None, "make only these rows, such as control,run,alone/NAME, or none; by default all"
)
_FROM = flags.DEFINE_string(
    "from_folder",
    None,
    "folder of the run or import whose checkpoints are continued; by default the control run",
)
_RATE = flags.DEFINE_float(
    "learning_rate",
    None,
    "learning rate of all steps; by default the schedule's at the checkpoint",
    1e-9,
    10,
)
_NAME = flags.DEFINE_string(
    "name", "step", "the bursts of checkpoint K are kept in <workdir>/bursts/NAME-K"
)
_PLANT = flags.DEFINE_string(
    "plant",
    "",
    "add an experiment that is known to influence another one: itself, shared-items:SHARE, "
    "contradiction (all of a Contamination), or one-trigger (of a Poisoning); needs its own --name",
)
_NULLS = flags.DEFINE_integer(
    "nulls",
    0,
    "make this many null bursts (six or more) on the items of the first seed, and write the power "
    "of a matrix of all seeds; other rows are not made",
    0,
)
_FORECAST = flags.DEFINE_bool(
    "forecast", False, "before any training, forecast the matrix (alone with an empty --rows=)"
)
_FULL = flags.DEFINE_bool(
    "full_runs",
    False,
    "train nothing: judge the full runs alone/NAME and run by their outcome tables, and compare "
    "the bursts with them",
)
_RANK_BY = flags.DEFINE_string(
    "rank_by",
    None,
    "instead of the matrix, rank the study's DataSource experiments by the primary outcome of this "
    "experiment; makes only the rows control and alone/NAME of each",
)


def main(argv: Sequence[str]) -> None:
    del argv
    if not (_CHECKPOINTS.value or _FULL.value):
        raise ValueError("name the checkpoints to continue, such as --checkpoints=250,400")
    if sum(map(bool, (_NULLS.value, _FULL.value, _RANK_BY.value))) > 1:
        raise ValueError("--nulls, --full_runs and --rank_by are three commands: give one of them")
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.study_handle import StudyHandle
    from ttoaa.training.loop import Stopped
    from ttoaa.training.topology import pin_cores, split_cpu

    study, workdir = config.load_from_flags(), config.workdir_from_flags()
    if _FULL.value:
        _judge_full_runs(StudyHandle(study, workdir))
        return
    pin_cores()
    split_cpu(study.geometry.batch, study.layout)
    config.cache_compilations(workdir)
    try:
        failures = _measure(StudyHandle(study, workdir))
    except Stopped as stopped:
        print(f"dependence: {stopped}")
        signals.leave(stopped.exit_code)
    for failure in failures:
        print(f"dependence: failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def _measure(handle: "StudyHandle") -> list[str]:
    """Make the missing rows of all checkpoints and write their effects; return what failed."""
    import pandas as pd

    from ttoaa.interactions.burst_study import BURSTS
    from ttoaa.interactions.effects import read_effects
    from ttoaa.interactions.forecast import make_forecast
    from ttoaa.interactions.null_bursts import preview_power
    from ttoaa.interactions.power import check_nulls
    from ttoaa.interactions.rows import BurstJob, list_rows, mean_seconds
    from ttoaa.interactions.source_ranking import find_candidates, write_ranking
    from ttoaa.parquet_io import write_table
    from ttoaa.runs import CONTROL

    seeds = study_flags.parse_integers("burst_seeds", _SEEDS.value)
    if _NULLS.value:
        check_nulls(_NULLS.value, len(seeds))
    ranked_by = _RANK_BY.value
    candidates = find_candidates(handle.config.experiments, ranked_by) if ranked_by else []
    studies = _open_studies(handle)
    if _FORECAST.value:
        path = _folder(handle) / "dependence-forecast.json"
        make_forecast(studies, seeds, _forecast_path(handle), path)
        print(f"dependence: the forecast is in {path}")
    failures, effects = [], []
    for bursts in studies:
        rows = list_rows([e.name for e in bursts.config.experiments], _LEAVE_ONE_OUT.value)
        if candidates:
            rows = [CONTROL, *(f"alone/{name}" for name in candidates)]
        job = BurstJob(bursts)
        if _NULLS.value:
            job.run_nulls(seeds[0], _NULLS.value)
        else:
            job.run(seeds, rows if _ROWS.value is None else _ROWS.value)
        print(
            f"dependence: {bursts.root}: {job.trained} rows trained, {job.written} tables written"
        )
        train, score = mean_seconds(map(bursts.handle, seeds), rows)
        if math.isfinite(train):
            print(f"dependence: a row took {train:.1f} s to train and {score:.1f} s to score")
        if job.busy:
            print(f"dependence: other jobs work on {', '.join(job.busy)}: run it again later")
        failures += job.failures
        effects.append(read_effects(bursts, seeds, rows))
        if _NULLS.value and not (job.busy or job.failures):
            print(preview_power(bursts, seeds, _NULLS.value, effects[-1], train + score))
    if _NULLS.value:
        return failures
    found, kind = pd.concat(effects, ignore_index=True), "sources" if candidates else "effects"
    path = handle.workdir.root / BURSTS / f"{_NAME.value}-{kind}.parquet"
    write_table(found, path, {"seeds": seeds})
    print(f"dependence: effects are in {path}")
    if candidates:
        ranking = write_ranking(path.with_suffix(".json"), found, candidates, ranked_by)
        print(f"dependence: {ranking}")
    else:
        _write_matrix(handle, found, studies[-1].untestable)
    return failures


def _open_studies(handle: "StudyHandle") -> list["BurstStudy"]:
    """Open the bursts of every checkpoint, and refuse rows that they do not have."""
    from ttoaa.interactions.burst_study import Length, find_source, make_burst_study
    from ttoaa.interactions.rows import list_rows

    length, studies = Length(_STEPS.value, _SHARE.value, _PLANT.value), []
    for step in study_flags.parse_integers("checkpoints", _CHECKPOINTS.value):
        source = find_source(handle, step, _FROM.value, _RATE.value)
        bursts = make_burst_study(handle, source, length, f"{_NAME.value}-{step}")
        for name, reason in bursts.untestable.items():
            print(f"dependence: {name} is not testable by continual training: {reason}")
        rows = list_rows([e.name for e in bursts.config.experiments], _LEAVE_ONE_OUT.value)
        if unknown := [name for name in _ROWS.value or () if name not in rows]:
            raise ValueError(f"--rows: {unknown[0]!r} is none of {', '.join(rows)}")
        studies.append(bursts)
    return studies


def _folder(handle: "StudyHandle") -> pathlib.Path:
    """Return the folder of the matrix: that of the study, unless the bursts have another name."""
    from ttoaa.interactions.burst_study import BURSTS

    root = handle.workdir.root
    folder = root if _NAME.value == _NAME.default else root / BURSTS / f"{_NAME.value}-matrix"
    folder.mkdir(exist_ok=True)
    return folder


def _forecast_path(handle: "StudyHandle") -> pathlib.Path:
    from ttoaa.interactions.burst_study import BURSTS

    return handle.workdir.root / BURSTS / f"{_NAME.value}-forecast.parquet"


def _write_matrix(
    handle: "StudyHandle", effects: "pd.DataFrame", untestable: Mapping[str, str]
) -> None:
    from ttoaa.interactions.forecast import read_forecast
    from ttoaa.interactions.matrix import IncompleteMatrix
    from ttoaa.interactions.results import write

    folder, forecast = _folder(handle), read_forecast(_forecast_path(handle))
    classes = {e.name: type(e).__name__ for e in handle.config.experiments}
    try:
        write(folder, effects, untestable=untestable, classes=classes, forecast=forecast)
        print(f"dependence: the matrix is in {folder / 'dependence.md'}")
    except IncompleteMatrix as error:  # too few seeds, or rows that other jobs still make
        print(f"dependence: no matrix yet: {error}")


def _judge_full_runs(handle: "StudyHandle") -> None:
    from ttoaa.interactions.burst_study import BURSTS
    from ttoaa.interactions.full_results import compare_full_runs

    path = handle.workdir.root / BURSTS / f"{_NAME.value}-effects.parquet"
    for line in compare_full_runs(handle, path):
        print(f"dependence: {line}", flush=True)


if __name__ == "__main__":
    command_line.run("dependence", main, study_flags)
