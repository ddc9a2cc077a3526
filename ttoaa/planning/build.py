"""Makes the plan of a study: worlds, what the experiments do in them, compiled and stored."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order, training_order
from ttoaa.experiments.base import World
from ttoaa.experiments.context import (
    added_later,
    ask_removals,
    fingerprints,
    intervene,
    make_worlds,
)
from ttoaa.experiments.controllers import slot_texts
from ttoaa.planning.checks.report import refuse
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.composed_rows import Edit, masked_edits, seams
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import Intervention
from ttoaa.planning.plan import Edits, Plan
from ttoaa.planning.removal import (
    CheckedItems,
    Removals,
    check_slot_texts,
    dirty_windows,
    items_of,
    replacements,
    rows_with,
    whole_rows,
)
from ttoaa.planning.reserve import split_reserve
from ttoaa.planning.store import store
from ttoaa.training.throughput import Ledger
from ttoaa.workdir import Workdir, unfinished_folder, write_json

_REDRAWS = 16  # of one edit, before it is given up


def make_plan(study: config.Study, workdir: Workdir) -> tuple[Plan, bool]:
    """(plan, whether it is new): compiles and stores the plan, or finds the same one made."""
    ledger = Ledger()
    with ledger.phase("plan"):
        made, geometry = workdir.plan.exists(), study.geometry
        corpus = Corpus.open(workdir.corpus, verify=not made)
        order = training_order(corpus, workdir.seed, geometry.length)
        identity = {
            "seed": workdir.seed,
            "corpus": corpus.fingerprint,
            "vocabulary": corpus.manifest.vocabulary,
            "order": order.identity(),
            "validation_sequences": study.validation_sequences,
        }
        meta: dict[str, Any] = {"experiments": fingerprints(study.experiments)}
        if made:
            plan = Plan.open(workdir.plan)
            for name in added_later(plan, study.experiments):
                del meta["experiments"][name]
            _check_same(plan, {**identity, "geometry": dataclasses.asdict(geometry)}, meta)
            return plan, False
        removals = ask_removals(study.experiments, workdir.seed, geometry, corpus)
        worlds = make_worlds(
            study.experiments, workdir.seed, geometry, corpus, study.validation_sequences, removals
        )
        found, slots = interventions(study, worlds, corpus, order, removals)
        _compile(study, workdir, corpus, order, found, slots, removals, identity, meta)
    write_json(workdir.plan / "ledger.json", {"seconds": ledger.seconds})
    return Plan.open(workdir.plan), True


def interventions(
    study: config.Study,
    worlds: Mapping[str, World],
    corpus: Corpus,
    order: Order,
    removals: Removals,
) -> tuple[dict[str, Intervention], list[SlotTexts]]:
    """(what every experiment does, by name; what may fill its slots).

    That is its items, and the rows that its removals replace.
    """
    geometry, seed = study.geometry, order.seed
    found = intervene(study.experiments, worlds)
    slots = slot_texts(
        [(e.name, c) for e in study.experiments for c in e.controllers(worlds[e.name])]
    )
    if not removals:
        return found, slots
    for filling in slots:
        check_slot_texts(filling, removals)
    vocab = corpus.vocab_size
    covered = [whole_rows(name, each.items, geometry, vocab) for name, each in found.items()]
    rows = rows_with(removals, corpus, order, geometry, seed, np.concatenate(covered))
    _, pool = split_reserve(
        corpus.num_windows("reserve", geometry.length), study.validation_sequences
    )
    taken = [dirty_windows(removals, corpus, geometry.length)]
    taken += [each.windows for each in found.values()]
    windows = replacements(removals, rows, pool, np.concatenate(taken), seed)
    for name, own in found.items():
        items, owned = own.items, own.windows
        if name in removals.names:
            items = (*items, *items_of(name, removals, rows, windows))
            ours = removals.owner[rows.text] == removals.names.index(name)
            owned = np.concatenate([owned, windows[ours]])
        found[name] = Intervention(CheckedItems(name, items, removals), owned)
    return found, slots


def _compile(
    study: config.Study,
    workdir: Workdir,
    corpus: Corpus,
    order: Order,
    found: Mapping[str, Intervention],
    slots: Sequence[SlotTexts],
    removals: Removals,
    identity: Mapping[str, Any],
    meta: dict[str, Any],
) -> None:
    """Stores the plan, once what it composes holds no removed text."""
    again: collections.Counter[Edit] = collections.Counter()
    while True:
        with unfinished_folder(workdir.plan) as folder:
            plan = compile_plan(found, study.geometry, corpus.vocab_size, identity, again, folder)
            made = seams(plan, corpus, order, removals, slots) if removals else {}
            again.update(made.keys())
            if not made:
                refuse(plan, corpus, study.checks, slots)
                told = _masked(study, plan, corpus, order)
                store(plan, workdir.plan, {**meta, "redrawn": len(again), "warnings": told})
                break
        edit, text = next(iter(made.items()))
        if again[edit] > _REDRAWS:
            raise ValueError(
                f"{edit[0]}: copy {edit[2]} of item {edit[1]!r} makes a text that is to be "
                f"removed, {text}, with the corpus wherever it is put: change one of them"
            )


def _masked(study: config.Study, plan: Edits, corpus: Corpus, order: Order) -> list[str]:
    """A line for each arm whose edits the repetition filter takes; an error, if so configured."""
    rule = study.training.repetition_filter
    if rule is None:
        return []
    lines = masked_edits(plan, corpus, order, rule).lines(rule.when)
    if lines and rule.edits == "refused":
        raise ValueError(f"{lines[0]}: move them, or set RepetitionFilter.edits to 'named'")
    return lines


def _check_same(plan: Plan, contents: dict[str, Any], meta: dict[str, Any]) -> None:
    different = [name for name, value in contents.items() if plan.contents.get(name) != value]
    different += ["experiments" for name, value in meta.items() if plan.meta.get(name) != value]
    if different:
        raise ValueError(
            f"{plan.folder} was made with another setting of {', '.join(different)}: use another "
            "--workdir, or move the plan and its run away and plan again"
        )
