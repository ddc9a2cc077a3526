"""Write report.html, summary.json and replication.json from the tables of all seeds.

  ttoaa report --workdir=runs/mine

Tables of an earlier plan or version of an outcome are left out, and named. With --tests it also
writes tests.json: permutation tests, equivalence within --margins, and detectable differences.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from ttoaa import bucket, command_line, study_flags
from ttoaa.workdir import Workdir

_TESTS = flags.DEFINE_bool(
    "tests", False, "also write tests.json, hypothesis tests of the outcomes"
)
_MARGINS = flags.DEFINE_list(
    "margins", [], "with --tests: equivalence margins by outcome, such as accuracy=0.05"
)
_AGAINST = flags.DEFINE_string(
    "against", None, "with --tests: the workdir of another study to compare with, seed by seed"
)


def main(argv: Sequence[str]) -> None:
    del argv
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.experiments.context import outcome_fingerprints
    from ttoaa.json_io import read_json
    from ttoaa.reporting import hypothesis_tests, page
    from ttoaa.reporting.cost import missing_ledgers
    from ttoaa.reporting.estimates import described, stale_tables
    from ttoaa.reporting.replication import Replication
    from ttoaa.study_handle import StudyHandle
    from ttoaa.training.run_records import check_run

    study, root = config.load_from_flags(), config.workdir_from_flags().root
    without: list[pathlib.Path] = []
    for folder in (Workdir(root, seed) for seed in Workdir(root).seeds()):
        if folder.tables.exists():
            plan = StudyHandle(study, folder).plan
            outcomes = outcome_fingerprints(study.experiments)
            for notice in filter(None, (check_run(folder.run(name)) for name in folder.runs())):
                print(f"report: {notice}")
            for line in folder.strays():
                print(f"report: {line}")
            without += stale_tables(folder, plan.hash, outcomes)
    summary, report = page.write(root, study.name, study.experiments, without, study.comparison)
    if without:
        print(f"report: {described(without)}")
    for sentence in missing_ledgers(root, Workdir(root).seeds()):
        print(f"report: {sentence}")
    print("report: results, where differences from the control run are positive as expected:")
    for row in read_json(Workdir(root).replication, Replication)["experiments"]:
        print(f"report: {row['sentence']}")
    print(f"report: wrote {summary} and {report}")
    if _TESTS.value:
        margins = hypothesis_tests.parse_margins(_MARGINS.value)
        against = bucket.expand(_AGAINST.value) if _AGAINST.value else None
        tests = hypothesis_tests.write(root, study.experiments, set(without), margins, against)
        print(f"report: wrote {tests}")


if __name__ == "__main__":
    command_line.run("report", main, study_flags, without={"seed": "a report covers all seeds"})
