"""Masked edits against rows that the audit's code composes, and texts removed around an item."""

import dataclasses
import types

import numpy as np
import pytest
from fakes import Given, Planted
from removing import LENGTH, Removing, edits_of, holds, original, rows_of, stream, texts_of

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import training_order
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.experiments.canaries import Canaries
from ttoaa.experiments.controllers import Measured
from ttoaa.identity import describe
from ttoaa.planning.audit.reference_reader import PlainReader
from ttoaa.planning.composed_rows import masked_edits
from ttoaa.planning.items import Item, Items
from ttoaa.planning.placement import Explicit, PerInterval
from ttoaa.study_handle import StudyHandle

AFTER = RepetitionFilter(1, 3, 3)
BEFORE = dataclasses.replace(AFTER, when="before_edits")
DULL = Item("dull", "dull", 6, np.array([4, 5] * 5))
"""It repeats itself, so it masks its row wherever it is."""
VARIED = Item("varied", "dull", 1, np.arange(3, 23))
"""Of the same arm, so that not all of it is masked."""
SLOT = Item("slot", "slot", 40, slot=30)


def study_with(tiny_study, rule, *experiments):
    training = dataclasses.replace(tiny_study.training, repetition_filter=rule)
    return dataclasses.replace(tiny_study, training=training, experiments=experiments)


def repeats(row, rule):
    """Whether some pattern stands max_count times in a row, spelled out."""
    times, periods = rule.max_count, range(rule.min_period, rule.max_period + 1)
    return any(
        row[i : i + n * times] == row[i : i + n] * times
        for n in periods
        for i in range(len(row) - n * times + 1)
    )


def by_hand(workdir, plan, rule):
    """{arm: edits} in rows in which some pattern stands max_count times."""
    reader = PlainReader(workdir.corpus, plan.folder)
    corpus = Corpus.open(workdir.corpus)
    order = training_order(corpus, 0, 32)
    masked = set()
    for position in range(320):
        row = reader.row(position)[0]
        if rule.when == "before_edits":
            row = corpus.windows("train", order.windows(np.array([position])), 32)[0].tolist()
        if repeats(row, rule):
            masked.add(position)
    counts = {}
    columns = (plan.columns[name].tolist() for name in ("position", "arm", "kind"))
    for position, arm, kind in zip(*columns, strict=True):
        if position in masked and kind != 2:
            name = plan.arms[arm - 1]["name"]
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("rule", [AFTER, BEFORE])
def test_edits_in_masked_rows_are_named_and_counted(tiny_study, make_workdir, rule):
    experiments = (Planted("planted", items=30), Given("given", items=(DULL, VARIED, SLOT)))
    workdir = make_workdir()
    plan, _ = StudyHandle(study_with(tiny_study, rule, *experiments), workdir).make_plan()
    corpus = Corpus.open(workdir.corpus)
    found = masked_edits(plan, corpus, training_order(corpus, 0, 32), rule)
    expected = by_hand(workdir, plan, rule)
    assert found.edits == expected and found.checked == found.rows
    lines = plan.meta["warnings"]
    assert len(lines) == len(expected)
    summary = (plan.folder / "summary.txt").read_text()
    assert summary.endswith("".join(f"warning: {line}\n" for line in lines))
    if rule is AFTER:
        assert found.edits["given/dull"] == 6
        assert lines[0].startswith("given/dull: 6 edits, such as one of item 'dull', lie in rows")
    assert "given/slot" not in found.edits


def test_what_is_edited_over_is_judged_as_it_is_trained_on(tiny_study, make_workdir):
    """A row that the corpus would have had masked is trained on once an item covers it."""
    workdir = make_workdir()
    corpus = Corpus.open(workdir.corpus)
    order = training_order(corpus, 0, 32)
    row = corpus.windows("train", order.windows(np.arange(320)), 32)
    (first, *_) = np.flatnonzero(BEFORE.repeats(row))
    whole = Item("whole", "c", 1, np.arange(1, 33), placement=Explicit([int(first)]))
    study = study_with(tiny_study, AFTER, Given("given", items=(whole,)))
    assert StudyHandle(study, workdir).make_plan()[0].meta["warnings"] == []
    study = study_with(tiny_study, BEFORE, Given("given", items=(whole,)))
    (line,) = (
        StudyHandle(study, dataclasses.replace(make_workdir(), seed=0))
        .make_plan()[0]
        .meta["warnings"]
    )
    assert line.startswith("given/c: 1 edits, such as one of item 'whole', lie in rows that the")


def test_they_can_be_refused(tiny_study, make_workdir):
    rule = dataclasses.replace(AFTER, edits="refused")
    workdir = make_workdir()
    with pytest.raises(ValueError, match=r"given/dull: 6 edits.*RepetitionFilter.edits to 'named'"):
        StudyHandle(
            study_with(tiny_study, rule, Given("given", items=(DULL, VARIED))), workdir
        ).make_plan()
    assert {path.name for path in workdir.root.iterdir()} == {"corpus", "leases"}
    assert describe(rule) == describe(AFTER)  # a run's identity does not hang on it


def test_an_arm_that_is_never_trained_on_is_an_error(tiny_study, make_workdir):
    """A canary of equal tokens masks its own rows, unless rows are judged before the edits."""
    canaries = Canaries(
        name="mia",
        primary="auc/rare-8-1x",
        expected_sign=1,
        kinds=("plain", "rare-8"),
        repetitions=(1,),
        members=6,
        nonmembers=6,
        host_tokens=8,
    )
    after = dataclasses.replace(AFTER, max_period=1, max_count=8)
    workdir = make_workdir()
    with pytest.raises(ValueError, match=r"^mia/rare-8-1x: all 6 edits, .* to 'before_edits'"):
        StudyHandle(study_with(tiny_study, after, canaries), workdir).make_plan()
    assert {path.name for path in workdir.root.iterdir()} == {"corpus", "leases"}
    before = dataclasses.replace(after, when="before_edits")
    plan, _ = StudyHandle(study_with(tiny_study, before, canaries), workdir).make_plan()
    assert not any("rare" in line for line in plan.meta["warnings"])
    shorter = dataclasses.replace(after, max_count=9)  # the canary is one token too short for it
    StudyHandle(study_with(tiny_study, shorter, canaries), make_workdir()).make_plan()


def test_of_very_many_rows_a_sample_is_looked_at(tiny_study, make_workdir):
    workdir = make_workdir()
    plan, _ = StudyHandle(
        study_with(
            tiny_study,
            None,
            Planted("planted", items=20),
            Given("given", items=[dataclasses.replace(DULL, repetitions=40)]),
        ),
        workdir,
    ).make_plan()
    corpus = Corpus.open(workdir.corpus)
    order = training_order(corpus, 0, 32)
    rule = AFTER
    every = masked_edits(plan, corpus, order, rule)
    some = masked_edits(plan, corpus, order, rule, most=20 * 32)
    assert some.checked == 20 < some.rows == every.rows
    assert 0 < sum(some.edits.values()) < sum(every.edits.values())
    assert "among 20 rows with edits (a sample of" in some.lines(rule.when)[0]
    refused = dataclasses.replace(rule, edits="refused")
    assert masked_edits(plan, corpus, order, refused, most=20 * 32) == every


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
    assert {path.name for path in workdir.root.iterdir()} == {"corpus", "leases"}


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
