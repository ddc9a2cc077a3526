"""Makes a study's summary.json and report.html: python -m ttoaa.report --workdir=…"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from ttoaa import config
from ttoaa.experiments.context import check_planned, outcome_fingerprints
from ttoaa.planning.plan import Plan
from ttoaa.reporting import page
from ttoaa.reporting.estimates import described, stale_tables
from ttoaa.workdir import Workdir


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        study, root = config.load_from_flags(), config.workdir_from_flags().root
        without: list[pathlib.Path] = []
        for folder in (Workdir(root, seed) for seed in Workdir(root).seeds()):
            if folder.tables.exists():
                plan = Plan.open(folder.plan)
                check_planned(plan, study.experiments)
                outcomes = outcome_fingerprints(study.experiments)
                without += stale_tables(folder, plan.hash, outcomes)
        summary, report = page.write(root, study.name, study.experiments, without)
    except (ValueError, OSError) as error:
        sys.exit(f"report: {error}")
    if without:
        print(f"report: {described(without)}")
    print(f"report: wrote {summary} and {report}")


if __name__ == "__main__":
    flags.adopt_module_key_flags(config)
    app.run(main)
