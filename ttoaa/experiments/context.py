"""The contexts (`World`) of all experiments of a study, and their items, probes and identities."""

import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.author_errors import blame
from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order
from ttoaa.experiments.base import Experiment, Probe, World
from ttoaa.identity import check, digest, identity
from ttoaa.planning.items import Intervention, Item, Items
from ttoaa.planning.plan import Plan
from ttoaa.planning.removal import Removal, Removals, dirty_windows
from ttoaa.planning.reserve import Reserve, deal_reserve, document_runs

ProbeList = Sequence[tuple[str, Probe]]
"""(experiment, probe) pairs."""
ChoiceTables = Mapping[str, pd.DataFrame]
"""What experiments chose by the reference model, by name."""
_NOTHING: ChoiceTables = types.MappingProxyType({})


def chooses(experiment: Experiment) -> bool:
    """Whether the experiment chooses by the reference model."""
    overridden = type(experiment).choose is not Experiment.choose
    return experiment.needs_reference and overridden


def removes_texts(experiment: Experiment) -> bool:
    """Whether the experiment may remove texts: it then chooses before the reserve is dealt."""
    return type(experiment).removes is not Experiment.removes


def ask_reserve(
    experiments: Sequence[Experiment],
    seed: int,
    geometry: Geometry,
    corpus: Corpus,
    validation: int,
    removals: Removals | None = None,
) -> Reserve:
    """Deal out the reserve to a validation set of `validation` windows and to the experiments.

    No experiment gets a window with a text that an experiment removes. `removals` saves collecting
    the removed texts again.
    """
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two experiments are named {twice[0]!r}: give each its own name")
    if removals is None:
        removals = ask_removals(experiments, seed, geometry, corpus)
    needs = {}
    for e in experiments:
        with blame(e.name):
            sizes = e.reserve_windows(geometry)
            needs[e.name] = [sizes] if isinstance(sizes, int) else [*sizes]
    dirty = dirty_windows(removals, corpus, geometry.length)
    return deal_reserve(document_runs(corpus, geometry.length), validation, needs, dirty, seed)


def make_worlds(
    experiments: Sequence[Experiment],
    seed: int,
    geometry: Geometry,
    corpus: Corpus,
    reserve: Reserve | None,
    choices: ChoiceTables = _NOTHING,
    stream: Order | None = None,
) -> dict[str, World]:
    """Return the World of each experiment by name, with its windows of the reserve and choices.

    Without `reserve` no experiment has windows yet. `stream` is the training order, by default
    that of a run of this seed.
    """
    return {
        e.name: _world(e.name, seed, geometry, corpus, reserve, choices, stream)
        for e in experiments
    }


def ask_removals(
    experiments: Sequence[Experiment],
    seed: int,
    geometry: Geometry,
    corpus: Corpus,
    choices: ChoiceTables = _NOTHING,
) -> Removals:
    """Collect the texts that the experiments remove, before reserve windows are assigned."""
    asked: dict[str, list[Removal]] = {}
    for e in experiments:
        with blame(e.name):
            asked[e.name] = [*e.removes(_world(e.name, seed, geometry, corpus, None, choices))]
        if asked[e.name] and not e.inserts:
            raise ValueError(f"{e.name} declares inserts = False but removes texts")
    return Removals(asked, geometry.length)


def _world(
    name: str,
    seed: int,
    geometry: Geometry,
    corpus: Corpus,
    reserve: Reserve | None,
    choices: ChoiceTables,
    stream: Order | None = None,
) -> World:
    none = np.empty(0, np.int64)
    windows = none if reserve is None else reserve.windows(name)
    return World(
        seed=seed,
        name=name,
        tokenizer=corpus.tokenizer,
        geometry=geometry,
        windows=windows,
        reserve=functools.partial(corpus.windows, "reserve", windows, geometry.length),
        documents=none if reserve is None else reserve.run[windows],
        corpus=corpus,
        choices=choices.get(name, pd.DataFrame()),
        stream=stream,
    )


def intervene(
    experiments: Sequence[Experiment], worlds: Mapping[str, World]
) -> dict[str, Intervention]:
    """Return the interventions by experiment; iterating over their items generates them."""
    for e in experiments:
        if not e.inserts:
            _check_inserts_nothing(e, worlds[e.name])
    return {
        e.name: Intervention(_LazyItems(e, worlds[e.name]), worlds[e.name].windows)
        for e in experiments
    }


@dataclasses.dataclass(frozen=True)
class _LazyItems:
    """The items of an experiment, generated on each iteration and never all in memory."""

    experiment: Experiment
    world: World

    def __iter__(self) -> Iterator[Item | Items]:
        with blame(self.experiment.name):
            yield from self.experiment.intervene(self.world)


def _check_inserts_nothing(experiment: Experiment, world: World) -> None:
    each = [item for item in _LazyItems(experiment, world) if np.any(item.repetitions)]
    inserted = [item.id if isinstance(item, Item) else item.ids[0] for item in each]
    if inserted or len(world.windows) or list_probes([experiment], {experiment.name: world}):
        what = f"item {inserted[0]!r}" if inserted else "reserve windows or probes"
        raise ValueError(f"{experiment.name} declares inserts = False but has {what}")


def list_probes(
    experiments: Sequence[Experiment], worlds: Mapping[str, World]
) -> list[tuple[str, Probe]]:
    """Return (name of the experiment, probe) for all probes."""
    found = []
    for e in experiments:
        with blame(e.name):
            found += [(e.name, probe) for probe in e.probes(worlds[e.name])]
    return found


def describe_experiments(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Return the identity of the experiments' configuration, primary outcomes included."""
    return identity(experiments={e.name: e for e in experiments})


def outcome_fingerprints(experiments: Sequence[Experiment]) -> dict[str, str]:
    """Return a sha256 of each experiment's configuration and its outcome's version, by name."""
    return {e.name: digest({"experiment": e, "version": e.version}) for e in experiments}


def added_later(plan: Plan, experiments: Sequence[Experiment]) -> list[str]:
    """Return the names of experiments that insert nothing and are not in the plan."""
    planned = _planned(plan)
    return [e.name for e in experiments if not e.inserts and e.name not in planned]


def check_planned(plan: Plan, experiments: Sequence[Experiment], *, complete: bool = False) -> None:
    """Raise ValueError for an experiment that is not in the plan as it is configured now.

    An experiment that inserts nothing may have been added since. With `complete`, `experiments`
    must also include every experiment of the plan.
    """
    later, planned = added_later(plan, experiments), _planned(plan)
    ours = [e for e in experiments if e.name not in later]
    now = describe_experiments(ours)
    if not complete:
        planned = {e.name: planned[e.name] for e in ours if e.name in planned}
    made = {**plan.meta.get("experiments", {}), "experiments": planned}
    advice = "use another --workdir, or restore the experiment's config"
    check(plan.folder, made, now, advice)


def _planned(plan: Plan) -> dict[str, Any]:
    """Return the configuration of the experiments when the plan was made, by name."""
    return plan.meta.get("experiments", {}).get("experiments", {})


def probes_fingerprint(probes: ProbeList) -> str:
    """Return the sha256 of all (experiment, probe) pairs, which the control run must share."""
    digest = hashlib.sha256()
    for name, probe in sorted(probes, key=lambda pair: (pair[0], pair[1].name)):
        steps = [int(step) for step in probe.steps]
        digest.update(json.dumps([name, probe.name, steps, probe.tokens_NxL.shape]).encode())
        digest.update(np.ascontiguousarray(probe.tokens_NxL, np.int32).data)
    return digest.hexdigest()
