"""Full runs of a study as rows of a dependence matrix: which are there, and their effects."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

import pandas as pd

from ttoaa.experiments.context import outcome_fingerprints
from ttoaa.interactions.effects import COLUMNS, row_effects
from ttoaa.interactions.matrix import IncompleteMatrix
from ttoaa.interactions.rows import list_rows
from ttoaa.reporting.estimates import stale_tables
from ttoaa.runs import CONTROL, RUN
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class FullRuns:
    """The full runs of a study that have outcome tables of the last step, and those missing."""

    handle: StudyHandle
    missing: Mapping[int, Sequence[str]]
    """Rows without all of their tables, by seed."""

    @property
    def complete(self) -> list[int]:
        return [seed for seed, rows in self.missing.items() if not rows]

    def command(self) -> str:
        """Return the command that trains and scores what is missing."""
        config, root = self.handle.config, self.handle.workdir.root
        rows = list_rows([experiment.name for experiment in config.experiments])
        runs = dict.fromkeys([*config.runs, *(row for row in rows if row not in (CONTROL, RUN))])
        seeds = ",".join(str(seed) for seed, rows in self.missing.items() if rows)
        binding = shlex.quote(f"--gin_bindings=Study.runs = {list(runs)}")
        return f"ttoaa study --workdir={shlex.quote(str(root))} --seeds={seeds} {binding}"

    def read_effects(self, outcomes: Mapping[str, str]) -> pd.DataFrame:
        """Return the effects of the complete seeds, with the columns of `effects.COLUMNS`.

        `outcomes` are by experiment, those of the bursts; others are the primary ones. Raises
        IncompleteMatrix if fewer than two seeds are complete.
        """
        if len(self.complete) < 2:
            raise IncompleteMatrix(
                f"full runs are judged from two complete seeds on, not {len(self.complete)}"
            )
        config, root = self.handle.config, self.handle.workdir.root
        step = config.geometry.steps
        found = [
            {"checkpoint": step, "seed": seed, "row": row, **effect}
            for seed in self.complete
            for row in list_rows([experiment.name for experiment in config.experiments])
            for each in [StudyHandle(config, Workdir(root, seed))]
            for effect in row_effects(each, row, outcomes=outcomes)
        ]
        return subtract_control(pd.DataFrame(found, columns=list(COLUMNS)))


def find_full_runs(handle: StudyHandle) -> FullRuns:
    """Look for the outcome tables of full runs, of all seeds that are trained.

    Raises ValueError for a table of another plan or an earlier version of its outcome, unless its
    checkpoint is gone; then it is missing.
    """
    config, root, missing = handle.config, handle.workdir.root, {}
    names = [experiment.name for experiment in config.experiments]
    for seed in handle.workdir.trained_seeds():
        each = StudyHandle(config, Workdir(root, seed))
        stale = stale_tables(each.workdir, each.plan.hash, outcome_fingerprints(config.experiments))
        missing[seed] = [
            row
            for row in list_rows(names)
            for tables in [[each.workdir.table(row, config.geometry.steps, n) for n in names]]
            if not all(path.exists() and path not in stale for path in tables)
        ]
    return FullRuns(handle, missing)


def subtract_control(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of all other rows, less those of the row `control` of the same seed.

    The difference of the control run from itself is 0, except for an outcome that is a contrast
    within a run, such as passages with near-duplicates less passages without: its estimate does not
    subtract the control run's contrast.
    """
    of_control = effects["row"] == CONTROL
    keys = ["seed", "experiment"]
    control = effects[of_control].set_index(keys)["estimate"]
    rows = effects[~of_control].reset_index(drop=True)
    known = control.reindex(pd.MultiIndex.from_frame(rows[keys])).to_numpy()
    numbers = ["estimate", "ci_low", "ci_high"]
    return rows.assign(**{name: rows[name] - known for name in numbers})
