"""Count the insertions of a run: planned edits, and slots that controllers filled."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ttoaa.planning.controller_log import LOG_NAME, SLOT_TEXTS_FOLDER, load_slot_texts, read_log
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Filled:
    """The slots of one item of one experiment, and the texts that filled them."""

    experiment: str
    item: str
    slots: int
    texts: int
    tokens: int
    """Number of tokens of the inserted texts."""


def filled_slots(folder: Workdir, plan: Plan) -> list[Filled]:
    """Count the texts that controllers inserted, by the decision log of the experiment run."""
    run, found = folder.run("run"), []
    if not (run / SLOT_TEXTS_FOLDER).exists():
        return []
    lines = read_log(run / LOG_NAME)
    for each in load_slot_texts(run / SLOT_TEXTS_FOLDER):
        mine = [x for x in lines if (x["experiment"], x["slots"]) == (each.experiment, each.slots)]
        chosen = [text for line in mine for text in line["chosen"] or ()]
        found.append(
            Filled(
                experiment=each.experiment,
                item=each.slots,
                slots=len(plan.find(each.slots, each.experiment)),
                texts=len(chosen),
                tokens=sum(len(each.texts[text]) for text in chosen),
            )
        )
    return found


def insertions(plan: Plan, filled: Sequence[Filled], experiment: str) -> dict[str, Any]:
    """Return the edits of an experiment, their tokens, its slots, and the texts that filled them.

    Edits and tokens include filled slots. They exclude empty slots and marks, which both keep the
    text of the corpus. Rows with noise, which the step perturbs, count as edits.
    """
    edits = tokens = 0
    for arm in (arm for arm in plan.arms if arm["experiment"] == experiment):
        kinds = plan.meta.get("of_kinds", {}).get(arm["name"], {})
        kept = [kinds[kind] for kind in ("slots", "marks") if kind in kinds]
        edits += arm["edits"] - sum(count for count, _ in kept)
        tokens += arm["tokens"] - sum(size for _, size in kept)
    mine = [each for each in filled if each.experiment == experiment]
    texts = sum(each.texts for each in mine)
    return {
        "edits": edits + texts,
        "tokens": tokens + sum(each.tokens for each in mine),
        "slots": sum(each.slots for each in mine),
        "filled": texts,
    }
