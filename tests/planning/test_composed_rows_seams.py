"""Removed texts that an item holds, or makes with what is around it."""

import dataclasses
import types

import numpy as np
import pytest
from fakes import Planted
from removing import LENGTH, Removing, edits_of, holds, original, rows_of, stream, texts_of

from ttoaa.experiments.controllers import Measured
from ttoaa.planning.items import Item, Items
from ttoaa.planning.placement import Explicit, PerInterval
from ttoaa.study_handle import StudyHandle


@pytest.fixture(scope="module")
def texts(corpus):
    return texts_of(corpus)


def inserting(text, repetitions=2, block=False):
    tokens = np.array([7, 9, *text, 11])
    if not block:
        return Item("puts-back", "c", repetitions, tokens=tokens)
    many = np.concatenate([np.array([5, 6]), tokens, np.array([3])])
    lengths = np.array([2, len(tokens), 1])
    return Items(["a", "puts-back", "b"], "c", repetitions, tokens=many, lengths=lengths)


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("name", ["other", "verbatim"])
def test_what_one_removes_no_one_may_insert(tiny_study, make_workdir, texts, name, block):
    items = (inserting(texts[0][1], block=block),)
    experiments = [Removing("verbatim", texts=tuple(texts))]
    if name == "other":
        experiments.append(Removing("other", items=items))
    else:
        experiments[0] = dataclasses.replace(experiments[0], items=items)
    workdir = make_workdir()
    with pytest.raises(ValueError) as caught:
        StudyHandle(
            dataclasses.replace(tiny_study, experiments=tuple(experiments)), workdir
        ).make_plan()
    assert str(caught.value) == (
        f"{name}: item 'puts-back' inserts a text that is removed from training, verbatim/text-0: "
        "drop it from one of the two"
    )
    assert [path.name for path in workdir.root.iterdir()] == ["corpus"]


@dataclasses.dataclass(frozen=True)
class Steered(Removing):
    """Slots of five tokens, and the `choices` that a controller may fill them with."""

    choices: tuple = ()

    def intervene(self, world):
        yield Item("room", "room", 40, slot=5, placement=PerInterval(10))

    def controllers(self, world):
        texts = [np.array(text, np.int32) for text in self.choices]
        measured = Measured(np.ones((1, 2), np.int32), np.array([1]), np.array([2]))
        return [types.SimpleNamespace(slots="room", every=10, texts=texts, measured=measured)]


def test_a_controller_may_not_insert_it_either(tiny_study, make_workdir, texts):
    steered = Steered("steered", choices=([1], [9, *texts[4][1]]))
    experiments = (Removing("verbatim", texts=tuple(texts)), steered)
    with pytest.raises(ValueError, match=r"steered: item 'room, text 1' inserts .*verbatim/text-4"):
        StudyHandle(
            dataclasses.replace(tiny_study, experiments=experiments), make_workdir()
        ).make_plan()


def test_no_choice_of_a_controller_makes_a_removed_text(corpus, plan_of):
    last, common, _ = seam(corpus)
    removing = Removing("verbatim", texts=(("x", [last, common]), ("x", [common, last, 301])))
    steered = Steered("steered", choices=([1], [last, 301], [last, 301, 7, last]))

    def made(plan):
        """Slots in which some choice makes one: each filled, in rows composed in plain Python."""
        rows, found = stream(plan), []
        for edit, (position, offset, _) in edits_of(plan, "steered").items():
            for text in steered.choices:
                row = list(rows[position])
                row[offset : offset + len(text)] = text
                if any(holds(row, text) for _, text in removing.texts):
                    found.append(edit)
        return set(found)

    before, plan = plan_of((steered,)), plan_of((steered, removing))
    assert made(before) and not made(plan)
    one, other = edits_of(before, "steered"), edits_of(plan, "steered")
    moved = {edit for edit in one if one[edit] != other[edit]}
    assert made(before) <= moved and plan.meta["redrawn"] == len(moved) < 40


def test_what_is_held_out_or_lies_across_two_items_is_no_insertion(plan_of, texts):
    text = texts[0][1]
    halves = Items(["a", "b"], "c", 1, tokens=np.array(text), lengths=np.array([3, len(text) - 3]))
    items = (inserting(text, repetitions=0), halves)
    plan = plan_of((Removing("verbatim", texts=tuple(texts)), Removing("other", items=items)))
    assert not any(holds(row, text) for row in stream(plan) for _, text in texts)


def seam(corpus):
    """A text of a reserved id and the most common token: only an item's end can make it."""
    tokens = np.bincount(corpus.windows("train", np.arange(139), LENGTH).ravel())
    return 300, int(tokens.argmax()), tokens.max() / tokens.sum()


def test_an_occurrence_made_at_a_seam_is_drawn_anew(corpus, plan_of):
    last, common, share = seam(corpus)
    assert share > 0.04
    others = (
        Planted("planted"),
        Removing("items", items=(Item("x", "c", 60, np.array([1, last])),)),
    )
    without = plan_of(others)
    made = [p for p, row in enumerate(stream(without)) if holds(row, [last, common])]
    plan = plan_of((*others, Removing("verbatim", texts=(("x", [last, common]),))))
    assert made and not rows_of(plan, "verbatim")
    assert not any(holds(row, [last, common]) for row in stream(plan))
    assert plan.meta["redrawn"] >= len(made)
    one, other = edits_of(without, "items"), edits_of(plan, "items")
    moved = [edit for edit in one if one[edit] != other[edit]]
    assert len(moved) == plan.meta["redrawn"] < 30 and len(other) == 60
    assert {one[edit][0] for edit in moved} >= set(made)
    assert edits_of(without, "planted") == edits_of(plan, "planted")


def test_a_seam_that_cannot_move_is_named(corpus, plan_of):
    last, common, _ = seam(corpus)
    row = next(p for p, row in enumerate(original(corpus)) if common in row[3:])
    at = original(corpus)[row].index(common, 3)
    fixed = Item("x", "c", 1, np.array([1, last]), placement=Explicit([row], at - 2))
    removing = Removing("verbatim", texts=(("x", [last, common]),))
    with pytest.raises(ValueError, match="items: item 'x' must move, but its placement is fixed"):
        plan_of((removing, Removing("items", items=(fixed,))))


def test_a_seam_wherever_it_is_put_is_named(plan_of):
    """The item leaves one token of its row, and whatever that is makes a removed text with it."""
    pairs = [pair for token in range(300) for pair in ([300, token], [token, 300])]
    removing = Removing("verbatim", texts=tuple(("x", pair) for pair in pairs))
    wide = Item("wide", "c", 1, np.full(LENGTH - 1, 300))
    with pytest.raises(ValueError) as caught:
        plan_of((removing, Removing("items", items=(wide,))))
    message = str(caught.value)
    assert message.startswith("items: copy 0 of item 'wide' makes the removed text ver")
    assert message.endswith("wherever it is placed: change one of them")
