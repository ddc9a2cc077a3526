"""The command's checks: of a plan that was just made, or of one that lies there."""

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import make_worlds
from ttoaa.experiments.controllers import slot_texts
from ttoaa.planning.checks.report import check_plan
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir


def check(study: config.Study, plan: Plan, workdir: Workdir, *, new: bool, overlap: bool) -> None:
    """Writes checks.txt and checks.json beside the plan, and prints them in short.

    Raises ValueError where there is an error among them.
    """
    corpus = Corpus.open(workdir.corpus, verify=False)
    inserted = _fillings(study, workdir, corpus)
    report = check_plan(
        plan, corpus, study.checks, inserted, new=new, overlap=overlap, progress=True
    )
    report.write(plan.folder)
    print(report.short())
    if not new:
        print(f"plan: more in {plan.folder / 'checks.txt'}")
    if report.errors:
        raise ValueError(f"the checks found {len(report.errors)} errors in {plan.folder}")


def _fillings(study: config.Study, workdir: Workdir, corpus: Corpus) -> list[SlotTexts]:
    """What controllers may insert during the run: no item of the plan has these texts."""
    if all(type(e).controllers is Experiment.controllers for e in study.experiments):
        return []
    worlds = make_worlds(
        study.experiments, workdir.seed, study.geometry, corpus, study.validation_sequences
    )
    return slot_texts(
        [(e.name, c) for e in study.experiments for c in e.controllers(worlds[e.name])]
    )
