"""The opened study: its config in its folder, and every part of it opened once, when first needed.

All commands work with this object. Stages come in one order everywhere: prepare, the
reference model, choices, plan, runs (control and run), evaluate, report.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa import identity
from ttoaa.author_errors import blame
from ttoaa.checksums import write_record
from ttoaa.config import Study
from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order, training_order
from ttoaa.experiments.base import Experiment, World
from ttoaa.experiments.context import (
    ProbeList,
    added_later,
    ask_removals,
    ask_reserve,
    check_planned,
    chooses,
    describe_experiments,
    intervene,
    list_probes,
    make_worlds,
    removes_texts,
)
from ttoaa.experiments.controllers import Named, check_controllers, slot_texts
from ttoaa.locks import exclusive
from ttoaa.parquet_io import read_table
from ttoaa.planning.build import PlanInputs, build_plan, replace_rows
from ttoaa.planning.checks.report import Report, check_plan
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import Intervention
from ttoaa.planning.plan import Plan
from ttoaa.planning.removal import Removals
from ttoaa.planning.reserve import DEALT, Reserve
from ttoaa.runs import REFERENCE, REINITIALISED, REORDERED, SHAM, RunSpec, parse_run
from ttoaa.training.reference import FoundReference, find_reference, is_deleted, vocabulary_of
from ttoaa.training.throughput import Ledger
from ttoaa.workdir import Workdir

RECHOOSE = "use another --workdir, or move it and the plan away and run ttoaa choose again"
REPLAN = "use another --workdir, or move the plan and its run away and plan again"


@dataclasses.dataclass(frozen=True)
class StudyHandle:
    """One seed of a study. Parts raise ValueError, in one line, where they do not fit together."""

    config: Study
    workdir: Workdir
    verify: bool = True
    """Whether the corpus' shards are read whole and compared with their sha256."""

    @functools.cached_property
    def corpus(self) -> Corpus:
        corpus = Corpus.open(self.workdir.corpus, verify=self.verify)
        self.config.check_vocabulary(corpus.vocab_size)
        return corpus

    @functools.cached_property
    def order(self) -> Order:
        return training_order(self.corpus, self.workdir.seed, self.config.geometry.length)

    def order_of(self, spec: RunSpec) -> Order:
        """Return the order in which a run trains."""
        order = dataclasses.replace(self.order, seed=spec.order_seed(self.order.seed))
        if spec.name == REFERENCE:  # even where the corpus has the order of another run
            return dataclasses.replace(order, first_in_order=False)
        return order

    @functools.cached_property
    def removals(self) -> Removals:
        """The texts that experiments keep out of the run."""
        config = self.config
        choices = self._chosen([e for e in config.experiments if removes_texts(e)])
        return ask_removals(
            config.experiments, self.workdir.seed, config.geometry, self.corpus, choices
        )

    @functools.cached_property
    def reserve(self) -> Reserve:
        """The windows of the reserve that validation and each experiment have."""
        config = self.config
        return ask_reserve(
            config.experiments,
            self.workdir.seed,
            config.geometry,
            self.corpus,
            config.validation_sequences,
            self.removals,
        )

    @functools.cached_property
    def contexts(self) -> dict[str, World]:
        """The world of each experiment, by name."""
        config, seed = self.config, self.workdir.seed
        parts = self.corpus, self.reserve, self.choices, self.order
        return make_worlds(config.experiments, seed, config.geometry, *parts)

    @functools.cached_property
    def reference(self) -> FoundReference:
        """The reference model; ValueError if there is none yet, or an unsuitable one."""
        found = find_reference(self.config.reference, self.workdir.run(REFERENCE))
        runs = [self.workdir.run(name) / "checkpoints" for name in self.workdir.runs()]
        if found.folder.resolve() in [path.resolve() for path in runs]:
            raise ValueError(
                f"the reference model in {found.folder} is a run of this very study: selecting and "
                "reporting on one model reports regression to the mean; name one of another study"
            )
        if vocabulary_of(found.folder) not in (None, self.corpus.manifest.vocabulary):
            raise ValueError(
                f"the reference model in {found.folder} has another tokenizer than "
                f"{self.corpus.folder}: use a model of the same tokenizer"
            )
        if found.model.vocab_size < self.corpus.vocab_size:
            raise ValueError(
                f"the reference model in {found.folder} has {found.model.vocab_size:,} embedding "
                f"rows, and the tokenizer {self.corpus.vocab_size:,} ids: use a model of the same "
                "tokenizer"
            )
        return found

    @functools.cached_property
    def choices(self) -> dict[str, pd.DataFrame]:
        """What experiments chose by the reference model, by name; ValueError before they have."""
        return self._chosen(self.config.experiments)

    def _chosen(self, experiments: Sequence[Experiment]) -> dict[str, pd.DataFrame]:
        return {e.name: self.stored_choice(e)[0] for e in experiments if chooses(e)}

    def stored_choice(self, experiment: Experiment) -> tuple[pd.DataFrame, str]:
        """Return the table that an experiment chose, and its sha256.

        Raises ValueError if it has not chosen yet, or chose by another model or config.
        """
        path = self.workdir.choices(experiment.name)
        if not path.exists():
            seed = f" --seed={self.workdir.seed}" if self.workdir.seed else ""
            raise ValueError(
                f"{experiment.name} has not chosen by the reference model yet: run ttoaa choose "
                f"--workdir={self.workdir.root}{seed}"
            )
        table, source, sha256 = read_table(path, "remove it, and run ttoaa choose again")
        now = self.choice_source(experiment, windows=not self.workdir.plan.exists())
        identity.check(path, source, now, RECHOOSE)
        return table, sha256

    def choice_source(self, experiment: Experiment, windows: bool = True) -> dict[str, Any]:
        """Return what decides an experiment's choice.

        The reference model is part of it unless it was deleted, as it may be after the plan.
        Windows depend on the other experiments too, so they are part of it until there is a plan,
        which holds them.
        """
        made_for = {name: self._made_for()[name] for name in ("corpus", "geometry", "seed")}
        if windows and not removes_texts(experiment):
            made_for["windows"] = identity.digest(self.reserve.windows(experiment.name))
        if not is_deleted(self.config.reference, self.workdir.run(REFERENCE)):
            made_for["reference"] = self.reference.sha256
        return identity.identity(experiment=experiment, **made_for)

    @functools.cached_property
    def interventions(self) -> dict[str, Intervention]:
        """What each experiment does, by name: its items, and the rows that its removals replace."""
        config = self.config
        return replace_rows(
            intervene(config.experiments, self.contexts),
            self.slots,
            self.removals,
            self.corpus,
            self.order,
            config.geometry,
            self.reserve,
        )

    @functools.cached_property
    def probes(self) -> ProbeList:
        """All in-training measurements: the control run makes the same."""
        return list_probes(self.config.experiments, self.contexts)

    @functools.cached_property
    def controllers(self) -> list[Named]:
        experiments = self.config.experiments
        if all(type(e).controllers is Experiment.controllers for e in experiments):
            return []
        found: list[Named] = []
        worlds = self.contexts  # before any experiment is blamed: a choice may be missing
        for e in experiments:
            with blame(e.name):
                found += [(e.name, c) for c in e.controllers(worlds[e.name])]
        check_controllers(found, self.corpus.vocab_size)
        return found

    @property
    def slots(self) -> list[SlotTexts]:
        """What controllers may insert during the run, and where."""
        return slot_texts(self.controllers)

    @functools.cached_property
    def validation_NxL(self) -> np.ndarray:
        """int32[validation_sequences, L]: the validation set, the same for every seed."""
        length = self.config.geometry.length
        return self.corpus.windows("reserve", self.reserve.validation, length)

    @functools.cached_property
    def plan(self) -> Plan:
        """The stored plan, of the experiments as they are configured now."""
        plan = Plan.open(self.workdir.plan)
        check_planned(plan, self.config.experiments)
        return plan

    def run_spec(self, name: str) -> RunSpec:
        """Return the run of this name; raise ValueError if the study cannot have it."""
        if "/" in name:
            return parse_run(name, self.plan.contents["experiments"])
        return parse_run(name, [experiment.name for experiment in self.config.experiments])

    @functools.cached_property
    def sham_windows(self) -> np.ndarray:
        """int64[m]: the reserve windows that nothing uses; the sham run inserts their text."""
        return np.setdiff1d(np.flatnonzero(self.reserve.free), self._used_windows)

    def check_possible(self, name: str) -> None:
        """Raise ValueError if the study's corpus or weights do not allow this run."""
        if name == REORDERED and self.corpus.in_order:
            raise ValueError(f"{self.corpus.folder} has a fixed order: it cannot be {name}")
        if name == REINITIALISED and self.config.init_from:
            folder = self.config.init_from.folder
            raise ValueError(f"the initial weights are those of {folder}: they cannot be {name}")
        if name == SHAM and not len(self.sham_windows):
            raise ValueError(
                "the reserve has no unused window left for the text of a sham run: prepare in a "
                "new --workdir with more text or a larger Prepare.reserve_fraction"
            )

    @property
    def _used_windows(self) -> np.ndarray:
        """int64[n]: the reserve windows that experiments have or put in place of removed rows."""
        used = [each.windows for each in self.interventions.values()]
        return np.concatenate([np.empty(0, np.int64), *used])

    def check_plan_fits(self) -> None:
        """Raise ValueError if the plan was made for another corpus, order, geometry or seed."""
        identity.check(self.plan.folder, self.plan.contents, self._made_for(), REPLAN)

    def make_plan(self) -> tuple[Plan, bool]:
        """Return (the plan, whether it is new): compile and store it, or find it made.

        Raises ValueError, before anything is trained, if a run of `Study.runs` is impossible, or if
        another process makes the plan.
        """
        if self.workdir.plan.exists():
            plan = Plan.open(self.workdir.plan)
            later = added_later(plan, self.config.experiments)
            now = {**self._made_for(), **self._reserve_use(later)}
            identity.check(plan.folder, plan.contents, now, REPLAN)
            check_planned(plan, self.config.experiments, complete=True)
            self._check_runs()
            return plan, False
        self._check_runs()
        with exclusive(self.workdir.root, self.workdir.plan.name, "planned"):
            if not self.workdir.plan.exists():  # a process waited for may have made it
                ledger = Ledger()
                with ledger.phase("plan"):
                    self._build_plan()
                write_record(self.workdir.plan / "ledger.json", {"seconds": ledger.seconds})
                return Plan.open(self.workdir.plan), True
        return self.make_plan()

    def try_plan(self) -> str:
        """Compile and check the plan without storing it; return its summary."""
        self._check_runs()
        return self._build_plan(dry_run=True)

    def check_plan(self, *, new: bool, overlap: bool) -> Report:
        """Look for texts that experiments share, with `overlap` also for those in the corpus."""
        return check_plan(
            self.plan,
            self.corpus,
            self.config.checks,
            self.slots,
            new=new,
            overlap=overlap,
            progress=True,
        )

    def items(self, experiment: Experiment) -> pd.DataFrame:
        """The experiment's items in the plan; if it was added later, as a plan would have them."""
        if not added_later(self.plan, [experiment]):
            return self.plan.items(experiment.name)
        config, seed = self.config, self.plan.contents["seed"]
        choices = self._chosen([experiment])
        world = make_worlds([experiment], seed, config.geometry, self.corpus, self.reserve, choices)
        done = intervene([experiment], world)
        trial = compile_plan(done, config.geometry, self.corpus.vocab_size, {"seed": seed})
        return trial.items(experiment.name)

    def copies(self, experiment: Experiment) -> pd.DataFrame:
        """Where the experiment's copies are in the full run; none if it was added later."""
        if added_later(self.plan, [experiment]):
            return pd.DataFrame(columns=["id", "repetition", "position", "offset", "step"])
        return self.plan.copies(experiment.name)

    def _check_runs(self) -> None:
        for name in self.config.runs:
            if not self.workdir.run(name).exists():
                self.check_possible(name)

    def _build_plan(self, dry_run: bool = False) -> str:
        config = self.config
        inputs = PlanInputs(
            interventions=self.interventions,
            slots=self.slots,
            removals=self.removals,
            corpus=self.corpus,
            order=self.order,
            geometry=config.geometry,
            checks=config.checks,
            repetition_filter=config.training.repetition_filter,
            max_arms=config.training.max_arms,
        )
        made_for = {name: value for name, value in self._made_for().items() if name != "geometry"}
        made_for |= {"vocabulary": self.corpus.manifest.vocabulary, **self._reserve_use()}
        used = self._used_windows
        replacements = used[self.reserve.free[used]]
        note = self.reserve.describe(self.corpus, config.geometry.length, replacements)
        meta = {"experiments": describe_experiments(config.experiments), "notes": [note]}
        return build_plan(inputs, self.workdir.plan, made_for, meta, dry_run=dry_run)

    def _made_for(self) -> Mapping[str, Any]:
        return {
            "corpus": self.corpus.fingerprint,
            "order": self.order.identity(),
            "geometry": dataclasses.asdict(self.config.geometry),
            "seed": self.workdir.seed,
        }

    def _reserve_use(self, later: Sequence[str] = ()) -> Mapping[str, Any]:
        """Return what else decides a plan; experiments added `later` do not."""
        deciding = [e for e in self.config.experiments if chooses(e) and e.name not in later]
        chosen = {e.name: self.stored_choice(e)[1] for e in deciding}
        return {
            "reserve": DEALT,
            "validation_sequences": self.config.validation_sequences,
            **({"choices": chosen} if chosen else {}),
        }
