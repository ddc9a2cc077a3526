"""Export a model, the tables or the plan of a study to the tools that others use.

  ttoaa export model --workdir=runs/mine --target=mine-hf             the newest checkpoint of `run`
  ttoaa export model control --workdir=runs/mine --target=control-hf --step=400
  ttoaa export model --workdir=imports/olmo2-1b --target=olmo2-hf     an import
  ttoaa export tables --workdir=runs/mine --target=mine-tables --group=lab-a
  ttoaa export plan --workdir=runs/mine --target=mine-plan

`model` writes a folder for transformers, vLLM and lm-evaluation-harness, with a model card that
lists every experiment of the run. `tables` writes Parquet and CSV, `plan` every edit of one seed as
a row, for another trainer. --group leaves out what belongs to other groups.
"""

import functools
import pathlib
from collections.abc import Sequence

from absl import flags

from ttoaa import bucket, command_line, study_flags

_TARGET = flags.DEFINE_string("target", None, "folder to create; it must be named")
_STEP = flags.DEFINE_integer(
    "step", None, "model: step of the checkpoint; by default the newest valid one"
)
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16"], "model: data type of the weights (default: float32)"
)
_SHARD = flags.DEFINE_float(
    "max_shard_gb",
    None,
    "model: largest size of a weight file, in 10**9 bytes (default: 5)",
    1e-6,
)
_GROUP = flags.DEFINE_string("group", None, "tables, plan: only the experiments of this group")
_CSV = flags.DEFINE_bool("csv", None, "tables: also write CSV (default: true)")
_FLAGS = (_STEP, _DTYPE, _SHARD, _GROUP, _CSV)
_TASKS = {
    "model": ("step", "dtype", "max_shard_gb"),
    "tables": ("group", "csv"),
    "plan": ("group",),
}
"""The flags of each task, in addition to --workdir, --seed and --target."""


def main(argv: Sequence[str]) -> None:
    task, *rest = argv[1:] or [""]
    if task not in _TASKS or len(rest) > (task == "model"):
        given = " ".join(argv[1:]) or "nothing"
        raise ValueError(f"the task must be one of {', '.join(_TASKS)}, not {given}")
    for flag in _FLAGS:
        if flag.value is not None and flag.name not in _TASKS[task]:
            raise ValueError(f"--{flag.name} is not a flag of export {task}: leave it out")
    if not _TARGET.value:
        raise ValueError("name the folder to create with --target")
    target = bucket.expand(_TARGET.value).resolve()
    if task == "model":
        done = _export_model(rest[0] if rest else "", target)
    else:
        done = _export_tables(target) if task == "tables" else _export_plan(target)
    print(f"export: {done}")


def _export_model(run: str, target: pathlib.Path) -> str:
    workdir = study_flags.workdir_from_flags()
    imported = (workdir.root / "model.gin").is_file()
    if not imported:
        study_flags.check_study()
    import jax

    from ttoaa.interop.convert import export_huggingface

    jax.config.update("jax_platforms", "cpu")  # the host's memory is what a model is sure to fit
    dtype, size = _DTYPE.value or "float32", int((_SHARD.value or 5.0) * 10**9)
    if imported:
        if run:
            raise ValueError(f"{workdir.root} is an import, which has no run {run!r}: leave it out")
        return export_huggingface(workdir.root, target, _STEP.value, dtype, size)
    from ttoaa import config
    from ttoaa.interop.model_card import describe_training
    from ttoaa.runs import RUN
    from ttoaa.study_handle import StudyHandle

    handle, run = StudyHandle(config.load_from_flags(), workdir, verify=False), run or RUN
    describe = functools.partial(describe_training, handle, run)
    return export_huggingface(workdir.run(run), target, _STEP.value, dtype, size, describe)


def _export_tables(target: pathlib.Path) -> str:
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.interop.convert import new_folder
    from ttoaa.interop.table_export import export_tables
    from ttoaa.study_handle import StudyHandle
    from ttoaa.workdir import Workdir

    study, root = config.load_from_flags(), study_flags.workdir_from_flags().root
    seeds = [seed for seed in Workdir(root).seeds() if Workdir(root, seed).plan.exists()]
    if not seeds:
        raise ValueError(f"{root} has no plan: run ttoaa plan first")
    handles = [StudyHandle(study, Workdir(root, seed), verify=False) for seed in seeds]
    with new_folder(target) as folder:
        missing = export_tables(handles, folder, _GROUP.value, csv=_CSV.value is not False)
    for line in missing:
        print(f"export: {line}")
    return f"the tables of {len(seeds)} seed{'s' * (len(seeds) > 1)} are in {target}"


def _export_plan(target: pathlib.Path) -> str:
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.interop.convert import new_folder
    from ttoaa.interop.plan_export import export_plan
    from ttoaa.interop.table_export import experiments_of
    from ttoaa.study_handle import StudyHandle

    study, workdir = config.load_from_flags(), study_flags.workdir_from_flags()
    handle = StudyHandle(study, workdir, verify=False)
    chosen = {e.name: e.group for e in experiments_of(study.experiments, _GROUP.value)}
    with new_folder(target) as folder:
        rows = export_plan(handle, folder, chosen, whole=_GROUP.value is None)
    return f"the {rows:,} edits of {workdir.plan} are in {target}"


if __name__ == "__main__":
    command_line.run("export", main, study_flags, arguments=True)
