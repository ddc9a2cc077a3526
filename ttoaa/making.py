"""Makes the plan of a study: worlds, what the experiments do in them, compiled and stored."""

import dataclasses
from typing import Any

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.order import training_order
from ttoaa.experiments.worlds import added_later, fingerprints, intervene, make_worlds
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.plan import Plan
from ttoaa.planning.store import store
from ttoaa.training.ledger import Ledger
from ttoaa.workdir import Workdir, write_json


def make_plan(study: config.Study, workdir: Workdir) -> tuple[Plan, bool]:
    """(plan, whether it is new): compiles and stores the plan, or finds the same one made."""
    ledger = Ledger()
    with ledger.phase("plan"):
        made, geometry = workdir.plan.exists(), study.geometry
        corpus = Corpus.open(workdir.corpus, verify=not made)
        identity = {
            "seed": workdir.seed,
            "corpus": corpus.fingerprint,
            "vocabulary": corpus.manifest.vocabulary,
            "order": training_order(corpus, workdir.seed, geometry.length).identity(),
            "validation_sequences": study.validation_sequences,
        }
        meta = {"experiments": fingerprints(study.experiments)}
        if made:
            plan = Plan.open(workdir.plan)
            for name in added_later(plan, study.experiments):
                del meta["experiments"][name]
            _check_same(plan, {**identity, "geometry": dataclasses.asdict(geometry)}, meta)
            return plan, False
        worlds = make_worlds(
            study.experiments, workdir.seed, geometry, corpus, study.validation_sequences
        )
        interventions = intervene(study.experiments, worlds)
        compiled = compile_plan(interventions, geometry, corpus.vocab_size, identity)
        store(compiled, workdir.plan, meta)
    write_json(workdir.plan / "ledger.json", {"seconds": ledger.seconds})
    return Plan.open(workdir.plan), True


def _check_same(plan: Plan, contents: dict[str, Any], meta: dict[str, Any]) -> None:
    different = [name for name, value in contents.items() if plan.contents.get(name) != value]
    different += ["experiments" for name, value in meta.items() if plan.meta.get(name) != value]
    if different:
        raise ValueError(
            f"{plan.folder} was made with another setting of {', '.join(different)}: use another "
            "--workdir, or move the plan and its run away and plan again"
        )
