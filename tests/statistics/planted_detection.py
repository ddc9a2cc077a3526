"""How often bursts find planted interactions: python -m tests.statistics.planted_detection

    ttoaa dependence --workdir=DIR --checkpoints=300 --burst_steps=25 --share=0.05
    ttoaa dependence --workdir=DIR --checkpoints=300 --burst_steps=25 --share=0.05 --nulls=40
    python -m tests.statistics.planted_detection --workdir=DIR --checkpoints=300 --burst_steps=25 \
        --share=0.05 --burst_seeds=0,1,2,3

Reads the matrix and the null bursts of the first two commands, makes one missing row of each kind
and seed in DIR/bursts/planted-KIND-300, and prints one JSON line. The row is `alone/planted` where
items are shared, and `run` where the planted experiment only contradicts what another one teaches;
the effect is then the contrast of `run` with that experiment alone, as in the matrix.

- `false_positives`: [share, low, high] of relabelled null matrices in which any cell interacts
- `noise`: deviations of null bursts and of off-diagonal cells over seeds, by column
- `planted`: by kind, the effect on the target in each seed (for `run` also `unplanted`, that of
  the matrix), and how often its cell interacts among the seeds of a matrix, next to relabelled null
  bursts and next to the cells of the matrix
- `strength`: the share of items that is detected 80% of the time

Rows without experiments are the same in all studies of bursts, so those of the matrix serve for
planted ones too.
"""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
from absl import app, flags

from ttoaa import config, dependence, study_flags
from ttoaa.interactions.burst_study import BurstStudy, Length, find_source, make_burst_study
from ttoaa.interactions.effects import row_effects
from ttoaa.interactions.planted import CONTRADICTION, ITSELF, NAME, ONE_TRIGGER, SHARED
from ttoaa.interactions.power import (
    Rate,
    detected_strength,
    detection_rate,
    false_positives,
    null_table,
    paired_detection_rate,
    paired_noise,
)
from ttoaa.interactions.rows import BurstJob
from ttoaa.parquet_io import read_table
from ttoaa.runs import CONTROL, RUN
from ttoaa.study_handle import StudyHandle
from ttoaa.training.topology import pin_cores, split_cpu

flags.adopt_module_key_flags(dependence)
_KINDS = flags.DEFINE_list(
    "planted_kinds",
    [
        ITSELF,
        CONTRADICTION,
        ONE_TRIGGER,
        *(f"{SHARED}:{part}" for part in (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)),
    ],
    "planted interactions; one that is shared completely is 'itself'",
)
_MATRICES = flags.DEFINE_integer("null_matrices", 200, "null matrices of each rate", 10)


def open_bursts() -> tuple[StudyHandle, BurstStudy]:
    """Return the study and the bursts of its matrix that the flags name."""
    workdir = study_flags.workdir_from_flags()
    study, _ = config.load([workdir.config])
    pin_cores()
    split_cpu(study.geometry.batch, study.layout)
    config.cache_compilations(workdir)
    handle, given = StudyHandle(study, workdir), flags.FLAGS
    (step,) = study_flags.parse_integers("checkpoints", given.checkpoints)
    source, length = find_source(handle, step, None), Length(given.burst_steps, given.share)
    return handle, make_burst_study(handle, source, length, f"step-{step}")


def planted_study(handle: StudyHandle, bursts: BurstStudy, kind: str) -> tuple[BurstStudy, str]:
    """Return bursts with a planted experiment, and the experiment that it influences."""
    length = Length(flags.FLAGS.burst_steps, flags.FLAGS.share, kind)
    name = f"planted-{kind.replace(':', '-')}-{bursts.source.step}"
    planted = make_burst_study(handle, bursts.source, length, name)
    (target,) = (e.of.name for e in planted.config.experiments if e.name == NAME)
    return planted, target


def planted_effects(
    handle: StudyHandle, bursts: BurstStudy, kind: str, seeds: list[int]
) -> pd.DataFrame:
    """Make the planted rows of a kind; return the effects on its target, by seed."""
    planted, target = planted_study(handle, bursts, kind)
    job = BurstJob(planted)
    row = RUN if kind in (CONTRADICTION, ONE_TRIGGER) else f"alone/{NAME}"
    job.run(seeds, [row])
    if job.failures or job.busy:
        raise SystemExit(f"{kind}: {[*job.failures, *job.busy]}")
    found = [
        {"seed": seed, "row": row, **effect}
        for seed in seeds
        for effect in row_effects(planted.handle(seed), row, bursts.handle(seed).workdir)
    ]
    frame = pd.DataFrame(found)
    return frame[frame["experiment"] == target]


def triple(rate: Rate) -> list[float]:
    return [round(x, 3) for x in (rate.rate, rate.low, rate.high)]


def main(argv):
    del argv
    handle, bursts = open_bursts()
    step = bursts.source.step
    folder = bursts.root.parent
    seeds = study_flags.parse_integers("burst_seeds", flags.FLAGS.burst_seeds)
    planted = {kind: planted_effects(handle, bursts, kind, seeds) for kind in _KINDS.value}
    nulls, _, _ = read_table(folder / f"step-{step}-nulls.parquet", "make null bursts again")
    matrix, _, _ = read_table(folder / "step-effects.parquet", "make the matrix again")
    matrix = matrix[matrix["checkpoint"] == step]
    print(json.dumps(measure(nulls, matrix, planted, _MATRICES.value)))


def measure(
    nulls: pd.DataFrame, matrix: pd.DataFrame, planted: Mapping[str, pd.DataFrame], matrices: int
) -> dict[str, Any]:
    """Return what the command prints."""
    found: dict[str, Any] = {
        "false_positives": triple(false_positives(nulls, 8, matrices)),
        "noise": {
            "nulls": null_table(nulls).std(ddof=1).to_dict(),
            "paired": paired_noise(matrix),
        },
        "planted": {},
    }
    rates: dict[str, dict[float, Rate]] = {"nulls": {}, "paired": {}}
    for kind, effects in planted.items():
        target, row = effects[["experiment", "row"]].iloc[0]
        values = effects.set_index("seed")["estimate"]
        other = next(name for name in null_table(nulls).columns if name != target)
        place = f"alone/{other}", CONTROL, target  # any row may be the planted one
        found["planted"][kind] = {"target": target}
        if row == RUN:
            place = RUN, f"alone/{target}", target
            own = matrix[matrix["experiment"] == target].pivot(
                index="seed", columns="row", values="estimate"
            )
            values = values - own[place[1]].reindex(values.index)
            unplanted = (own[RUN] - own[place[1]]).reindex(values.index)
            found["planted"][kind]["unplanted"] = unplanted.tolist()
        values = values.tolist()
        by = {
            "nulls": detection_rate(nulls, values, place, 8, matrices),
            "paired": paired_detection_rate(matrix, values, place, matrices),
        }
        rates_of = {name: triple(rate) for name, rate in by.items()}
        found["planted"][kind] |= {"effects": values, **rates_of}
        name, _, share = kind.partition(":")
        if name in (ITSELF, SHARED):
            for each, rate in by.items():
                rates[each][float(share or 1)] = rate
    found["strength"] = {name: detected_strength(of) for name, of in rates.items()}
    return found


if __name__ == "__main__":
    app.run(main)
