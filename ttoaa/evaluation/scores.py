"""One checkpoint's outcomes: parameters restored once, a table for each experiment."""

import contextlib
import dataclasses
import functools
from typing import Any

import pandas as pd

from ttoaa.config import Study
from ttoaa.data.corpus import Corpus
from ttoaa.evaluation.devices import abstract_on, mesh_for, within
from ttoaa.evaluation.work import Work
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.worlds import added_later, intervene, make_worlds
from ttoaa.planning import decisions
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.plan import Plan
from ttoaa.scoring.scorer import CheckpointScorer, read_probes
from ttoaa.training.checkpoints import read
from ttoaa.training.pins import pin
from ttoaa.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Scores:
    """What outcomes need of a study, opened when first needed."""

    study: Study
    workdir: Workdir
    plan: Plan

    def open(self) -> None:
        """Raises ValueError for what is the study's fault, and no outcome's."""
        _ = self.corpus, self.mesh

    def kept(self, work: Work) -> contextlib.AbstractContextManager[None]:
        """Within, the checkpoint stays; raises pins.Gone where it has just been deleted."""
        return pin(self.workdir.run(work.kind) / "checkpoints", work.step)

    def restore(self, work: Work) -> Any:
        """The parameters, on this job's devices; raises CheckpointError where they are no good."""
        folder = self.workdir.run(work.kind) / "checkpoints"
        return read(folder, work.step, params=abstract_on(self.study, self.mesh))["params"]

    def table(self, work: Work, experiment: Experiment, params: Any) -> pd.DataFrame:
        """Raises whatever the outcome raises."""
        run, name = self.workdir.run(work.kind), experiment.name
        with within(self.mesh):
            return experiment.outcome(
                CheckpointScorer(
                    step=work.step,
                    items=self.items(experiment),
                    probes=read_probes(run, name, work.step),
                    tokenizer=self.corpus.tokenizer,
                    config=self.study.model,
                    params=params,
                    decisions=decisions.table(run / decisions.NAME, name, work.step),
                )
            )

    def items(self, experiment: Experiment) -> pd.DataFrame:
        """From the plan; of an experiment added afterwards, as a plan would have them."""
        plan, study, name = self.plan, self.study, experiment.name
        if not added_later(plan, [experiment]):
            return plan.items(name)
        seed, validation = plan.contents["seed"], study.validation_sequences
        worlds = make_worlds([experiment], seed, study.geometry, self.corpus, validation)
        done = intervene([experiment], worlds)
        trial = compile_plan(done, study.geometry, self.corpus.vocab_size, {"seed": seed})
        return trial.items(name)

    @functools.cached_property
    def corpus(self) -> Corpus:
        return Corpus.open(self.workdir.corpus)

    @functools.cached_property
    def mesh(self) -> Any:
        return mesh_for(self.study)
