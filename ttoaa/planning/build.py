"""Build a plan: replace rows that hold removed texts, compile, and redraw edits that make one."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.planning.checks.findings import Checks
from ttoaa.planning.checks.report import refuse_leaks
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.composed_rows import Edit, find_seams, masked_edits
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.injection import SlotOverlay
from ttoaa.planning.items import Intervention
from ttoaa.planning.plan import Edits
from ttoaa.planning.removal import (
    CheckedItems,
    Removals,
    check_slot_texts,
    draw_replacements,
    find_rows,
    overwritten_rows,
    removal_items,
)
from ttoaa.planning.reserve import Reserve
from ttoaa.planning.store import store, summary_text, summary_values
from ttoaa.workdir import unfinished_folder

_REDRAWS = 16  # of one edit, before the planner gives up


@dataclasses.dataclass(frozen=True)
class PlanInputs:
    """What a plan is made of; nothing here needs a model or a device."""

    interventions: Mapping[str, Intervention]
    """What each experiment does, by name."""
    slots: Sequence[SlotTexts]
    """What controllers may insert during the run."""
    removals: Removals
    corpus: Corpus
    order: Order
    geometry: Geometry
    checks: Checks
    repetition_filter: RepetitionFilter | None
    max_arms: int
    """Arms that the training step has room for, the corpus included."""


def replace_rows(
    interventions: Mapping[str, Intervention],
    slots: Sequence[SlotTexts],
    removals: Removals,
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    reserve: Reserve,
) -> dict[str, Intervention]:
    """Add to each intervention the rows that its removals replace by free reserve windows.

    Raises ValueError where an experiment inserts a text that another one removes, or the reserve
    has too few free windows.
    """
    found = dict(interventions)
    if not removals:
        return found
    for each in slots:
        check_slot_texts(each, removals)
    vocab, seed = corpus.vocab_size, order.seed
    covered = [overwritten_rows(name, each.items, geometry, vocab) for name, each in found.items()]
    rows = find_rows(removals, corpus, order, geometry, seed, np.concatenate(covered))
    windows = draw_replacements(removals, rows, reserve.free, seed)
    for name, own in found.items():
        items, owned = own.items, own.windows
        if name in removals.names:
            items = (*items, *removal_items(name, removals, rows, windows))
            ours = removals.owner[rows.text] == removals.names.index(name)
            owned = np.concatenate([owned, windows[ours]])
        found[name] = Intervention(CheckedItems(name, items, removals), owned)
    return found


def build_plan(
    inputs: PlanInputs,
    folder: pathlib.Path,
    made_for: Mapping[str, Any],
    meta: Mapping[str, Any],
    *,
    dry_run: bool = False,
) -> str:
    """Compile and check a plan, store it in `folder` unless it is a dry run; return its summary.

    Args:
        made_for: what the plan belongs to (corpus, order, seed, …); part of its content hash.
        meta: what is stored next to it, outside the hash.

    Raises:
        ValueError: the plan does not fit, a check of it is configured as an error, or an edit makes
            a removed text with its surroundings wherever it is placed.
    """
    redrawn: collections.Counter[Edit] = collections.Counter()
    # A dry run must not remove the files of a plan that another process is making.
    near = folder.with_name(f"{folder.name}-dry_run") if dry_run else folder
    while True:
        with unfinished_folder(near) as compiled:
            plan = compile_plan(
                inputs.interventions,
                inputs.geometry,
                inputs.corpus.vocab_size,
                made_for,
                redrawn,
                compiled,
            )
            made = _seams(plan, inputs)
            redrawn.update(made.keys())
            if not made:
                _check_trainable(plan, inputs)
                refuse_leaks(plan, inputs.corpus, inputs.checks, inputs.slots)
                meta = {**meta, "redrawn": len(redrawn), "warnings": _masked(plan, inputs)}
                if not dry_run:
                    store(plan, folder, meta)
                return summary_text(summary_values(plan), meta)
        edit, removed = next(iter(made.items()))
        if redrawn[edit] > _REDRAWS:
            raise ValueError(
                f"{edit[0]}: copy {edit[2]} of item {edit[1]!r} makes the removed text {removed} "
                "together with the corpus wherever it is placed: change one of them"
            )


def _check_trainable(plan: Edits, inputs: PlanInputs) -> None:
    """Raise ValueError for what a run would refuse: slots that do not fit, or too many arms."""
    SlotOverlay(plan, inputs.slots)
    check_arms(plan, inputs.max_arms)


def check_arms(plan: Edits, max_arms: int) -> None:
    """Raise ValueError if the training step has no room for the arms of the plan."""
    if len(plan.arms) >= max_arms:
        raise ValueError(
            f"the plan has {len(plan.arms)} arms in addition to the corpus, Training.max_arms is "
            f"only {max_arms}: raise it"
        )


def _seams(plan: Edits, inputs: PlanInputs) -> Mapping[Edit, Any]:
    """Edits that make a removed text together with what surrounds them."""
    if not inputs.removals:
        return {}
    return find_seams(plan, inputs.corpus, inputs.order, inputs.removals, inputs.slots)


def _masked(plan: Edits, inputs: PlanInputs) -> list[str]:
    """One line for each arm with edits in rows that the repetition filter masks.

    Raises ValueError where the filter is configured to refuse them, or masks all edits of an arm:
    items that repeat a pattern mask their own rows, wherever they are placed.
    """
    rule = inputs.repetition_filter
    if rule is None:
        return []
    found = masked_edits(plan, inputs.corpus, inputs.order, rule)
    lines = found.lines(rule.when)
    if found.untrained and rule.when == "after_edits":
        arm = found.untrained[0]
        raise ValueError(
            f"{arm}: all {found.edits[arm]:,} edits, such as those of item {found.items[arm]!r}, "
            "repeat a pattern, so the repetition filter masks their rows and nothing of this arm "
            "is trained on: set RepetitionFilter.when to 'before_edits', or drop the arm"
        )
    if lines and rule.edits == "refused":
        raise ValueError(f"{lines[0]}: move them, or set RepetitionFilter.edits to 'named'")
    return lines
