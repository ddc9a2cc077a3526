"""Compiles, shows and audits the plan of a run: python -m ttoaa.plan --workdir=… [--show step=K]"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.experiments.worlds import added_later, fingerprints, intervene, make_worlds
from ttoaa.planning.audit import PlainReader, differences
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.overlay import Overlay
from ttoaa.planning.plan import Plan
from ttoaa.planning.show import show_step
from ttoaa.planning.store import store
from ttoaa.training.ledger import Ledger
from ttoaa.workdir import Workdir, write_json

_SHOW = flags.DEFINE_string("show", None, "print what a batch holds: step=K")
_AUDIT = flags.DEFINE_integer("audit", 0, "compare this many random batches with the loader's", 0)
_AUDIT_SEED = flags.DEFINE_integer("audit_seed", 0, "which random batches --audit takes")


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
            "order": Order(workdir.seed, corpus.num_windows("train", geometry.length)).identity(),
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


def audit(workdir: Workdir, count: int, seed: int) -> list[str]:
    """Differences between `count` random batches of the loader and their plain re-derivation."""
    corpus, plan = Corpus.open(workdir.corpus), Plan.open(workdir.plan)
    order, geometry = Order(**plan.contents["order"]), plan.geometry
    overlay = [Overlay(plan, corpus)]
    steps = np.random.default_rng(seed).permutation(geometry.steps)[:count]
    loaded = (next(batches(corpus, order, geometry, overlay, start=s, threads=0)) for s in steps)
    given = ((batch["step"], batch["tokens"], batch["arms"]) for batch in loaded)
    return differences(PlainReader(workdir.corpus, workdir.plan), given)


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        study, workdir = config.load_from_flags(), config.workdir_from_flags()
        started = time.perf_counter()
        plan, new = make_plan(study, workdir)
        if _SHOW.value:
            corpus, order = Corpus.open(workdir.corpus), Order(**plan.contents["order"])
            print(show_step(corpus, order, plan, _step(_SHOW.value, study.geometry.steps)))
        elif _AUDIT.value:
            found = audit(workdir, _AUDIT.value, _AUDIT_SEED.value)
            if found:
                sys.exit(f"plan: the audit found {len(found)} differences; first: {found[0]}")
            print(f"plan: {_AUDIT.value} batches audited, no difference")
        elif new:
            print((workdir.plan / "summary.txt").read_text(encoding="utf-8"), end="")
            print(f"plan: {workdir.plan} made in {time.perf_counter() - started:.1f} s")
        else:
            print(f"plan: {workdir.plan} is made already ({plan.hash[:12]})")
    except (ValueError, OSError) as error:
        sys.exit(f"plan: {error}")


def _step(text: str, steps: int) -> int:
    name, _, number = text.partition("=")
    if name != "step" or not number.isdecimal() or int(number) >= steps:
        raise ValueError(f"--show takes step=K with K from 0 to {steps - 1}, not {text!r}")
    return int(number)


if __name__ == "__main__":
    flags.adopt_module_key_flags(config)
    app.run(main)
