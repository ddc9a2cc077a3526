"""Makes a study's summary.json and report.html: python -m ttoaa.report --workdir=…"""

import sys
from collections.abc import Sequence

from absl import app

from ttoaa import config
from ttoaa.reporting import page


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        study = config.load_from_flags()
        summary, report = page.write(
            config.workdir_from_flags().root, study.name, study.experiments
        )
    except (ValueError, OSError) as error:
        sys.exit(f"report: {error}")
    print(f"report: wrote {summary} and {report}")


if __name__ == "__main__":
    app.run(main)
