"""The command's checks: of a plan that was just made, or of one that lies there."""

from ttoaa.checks.checking import check_plan
from ttoaa.checks.config import Checks
from ttoaa.data.corpus import Corpus
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir


def check(checks: Checks, plan: Plan, workdir: Workdir, *, new: bool, overlap: bool) -> None:
    """Writes checks.txt and checks.json beside the plan, and prints them in short.

    Raises ValueError where there is an error among them.
    """
    corpus = Corpus.open(workdir.corpus, verify=False)
    report = check_plan(plan, corpus, checks, new=new, overlap=overlap, progress=True)
    report.write(plan.folder)
    print(report.short())
    if not new:
        print(f"plan: more in {plan.folder / 'checks.txt'}")
    if report.errors:
        raise ValueError(f"the checks found {len(report.errors)} errors in {plan.folder}")
