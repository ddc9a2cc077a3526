"""Compiles, shows and audits the plan of a run: python -m ttoaa.plan --workdir=… [--show step=K]"""

import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.making import make_plan
from ttoaa.planning.audit import PlainReader, differences
from ttoaa.planning.overlay import Overlay
from ttoaa.planning.plan import Plan
from ttoaa.planning.show import show_step
from ttoaa.workdir import Workdir

_SHOW = flags.DEFINE_string("show", None, "print what a batch holds: step=K")
_AUDIT = flags.DEFINE_integer("audit", 0, "compare this many random batches with the loader's", 0)
_AUDIT_SEED = flags.DEFINE_integer("audit_seed", 0, "which random batches --audit takes")


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
