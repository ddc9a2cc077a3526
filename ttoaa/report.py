"""Write report.html, summary.json and replication.json from the tables of all seeds.

  ttoaa report --workdir=runs/mine

Tables of an earlier plan or version of an outcome are left out, and named. With --tests it also
writes tests.json: permutation tests, equivalence within --margins, and detectable differences.
With --compare=DIR,DIR the page also shows the primary outcomes that other studies have as well.
"""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from ttoaa import bucket, command_line, study_flags
from ttoaa.workdir import Workdir

if TYPE_CHECKING:
    from ttoaa.reporting.page import Dependence

_TESTS = flags.DEFINE_bool(
    "tests", False, "also write tests.json, hypothesis tests of the outcomes"
)
_MARGINS = flags.DEFINE_list(
    "margins", [], "with --tests: equivalence margins by outcome, such as accuracy=0.05"
)
_AGAINST = flags.DEFINE_string(
    "against", None, "with --tests: the workdir of another study to compare with, seed by seed"
)
_COMPARE = flags.DEFINE_list(
    "compare", [], "reported studies whose primary outcomes are shown next to these, such as sizes"
)


def main(argv: Sequence[str]) -> None:
    del argv
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.experiments.context import outcome_fingerprints
    from ttoaa.json_io import read_json
    from ttoaa.reporting import hypothesis_tests, page, preregistration
    from ttoaa.reporting.cost import missing_ledgers
    from ttoaa.reporting.estimates import described, stale_tables
    from ttoaa.reporting.findings import terminal_lines
    from ttoaa.reporting.replication import Replication
    from ttoaa.study_handle import StudyHandle
    from ttoaa.training.run_records import check_run

    study, root = config.load_from_flags(), config.workdir_from_flags().root
    without: list[pathlib.Path] = []
    seeds: list[int] = []
    for folder in (Workdir(root, seed) for seed in Workdir(root).seeds()):
        if folder.tables.exists():
            plan = StudyHandle(study, folder).plan
            seeds.append(folder.seed)
            outcomes = outcome_fingerprints(study.experiments)
            for notice in filter(None, (check_run(folder.run(name)) for name in folder.runs())):
                print(f"report: {notice}")
            for line in folder.strays():
                print(f"report: {line}")
            without += stale_tables(folder, plan.hash, outcomes)
    registered = preregistration.compare(study, root, seeds)
    others = [bucket.expand(folder) for folder in _COMPARE.value]
    matrices = [*_dependence(root)]
    summary, report = page.write(
        root,
        study.name,
        study.experiments,
        without,
        study.comparison,
        matrices,
        others,
        registered,
    )
    if without:
        print(f"report: {described(without)}")
    for sentence in missing_ledgers(root, Workdir(root).seeds()):
        print(f"report: {sentence}")
    if Workdir(root).preregistration.exists():
        for sentence in registered:
            print(f"report: {sentence}")
    for line in terminal_lines(read_json(Workdir(root).replication, Replication)["experiments"]):
        print(line)
    print(f"report: wrote {summary.name} and {report.name} in {root}")
    if _TESTS.value:
        margins = hypothesis_tests.parse_margins(_MARGINS.value)
        against = bucket.expand(_AGAINST.value) if _AGAINST.value else None
        tests = hypothesis_tests.write(root, study.experiments, set(without), margins, against)
        print(f"report: wrote {tests}")


def _dependence(root: pathlib.Path) -> Iterator["Dependence"]:
    """Yield the dependence matrices of the study, if `ttoaa dependence` has made them."""
    from ttoaa.interactions import figure, results
    from ttoaa.reporting.page import Dependence
    from ttoaa.reporting.svg import draw

    if not (root / results.FILE).exists():
        return
    matrices, untestable = results.read_matrices(root)
    for matrix in matrices:
        verdicts = results.count_verdicts(matrix)
        size = 1.8 + 0.72 * (len(matrix.experiments) + len(untestable))
        paint = functools.partial(figure.paint, matrix, untestable=untestable)
        name = f"Step {matrix.checkpoint}"
        picture = draw(paint, f"dependence-{matrix.checkpoint}", verdicts, width=size, height=size)
        yield Dependence(name, verdicts, picture)


if __name__ == "__main__":
    command_line.run("report", main, study_flags, without={"seed": "a report covers all seeds"})
