"""Write report.html and summary.json from the tables of all seeds.

  ttoaa report --workdir=runs/mine

Tables of an earlier plan or version of an outcome are left out, and named.
"""

import pathlib
from collections.abc import Sequence

from ttoaa import command_line, config
from ttoaa.experiments.context import outcome_fingerprints
from ttoaa.reporting import page
from ttoaa.reporting.estimates import described, stale_tables
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir


def main(argv: Sequence[str]) -> None:
    del argv
    study, root = config.load_from_flags(), config.workdir_from_flags().root
    without: list[pathlib.Path] = []
    for folder in (Workdir(root, seed) for seed in Workdir(root).seeds()):
        if folder.tables.exists():
            plan = StudyHandle(study, folder).plan
            outcomes = outcome_fingerprints(study.experiments)
            without += stale_tables(folder, plan.hash, outcomes)
    summary, report = page.write(root, study.name, study.experiments, without)
    if without:
        print(f"report: {described(without)}")
    print(f"report: wrote {summary} and {report}")


if __name__ == "__main__":
    command_line.run("report", main, config)
