"""Decided texts in their slots, against plain loops over the plan."""

import dataclasses
import itertools

import numpy as np
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.planning import controller_log
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.injection import SlotOverlay
from ttoaa.planning.items import Intervention, Item
from ttoaa.planning.placement import PerInterval

GEOMETRY = Geometry(length=16, batch=6, steps=10)
EVERY = {"few": 4, "many": 5}  # intervals 3 (the last is cut short) and 2
EACH = {"few": 3, "many": 7}
NONE = np.empty(0, np.int64)


def plan_of(*items, geometry=GEOMETRY):
    done = {"known": Intervention(items, NONE), "other": Intervention([], NONE)}
    return compile_plan(done, geometry, 100, {"seed": 3})


@pytest.fixture(scope="module")
def plan():
    rng = np.random.default_rng(0)
    texts = [Item(f"t{i}", "text", 4, tokens=rng.integers(1, 100, 5)) for i in range(4)]
    slots = [
        Item(name, name, EACH[name] * -(-10 // every), slot=6, placement=PerInterval(every))
        for name, every in EVERY.items()
    ]
    return plan_of(*texts, *slots)


@pytest.fixture
def given():
    rng = np.random.default_rng(1)
    sizes = {"few": (1, 6, 3), "many": (4, 2)}
    return [
        SlotTexts("known", name, EVERY[name], [rng.integers(1, 100, n) for n in sizes[name]])
        for name in EVERY
    ]


DECIDED = [
    {"slots": "few", "interval": 0, "chosen": [1, 1, 0]},
    {"slots": "many", "interval": 0, "chosen": [0, 1, 0, 1, 1]},
    {"slots": "few", "interval": 1, "chosen": []},
    {"slots": "many", "interval": 1, "chosen": [1] * 7},
    {"slots": "few", "interval": 2, "chosen": [2, 0]},
]
DECIDED = [{"experiment": "known", **line} for line in DECIDED]


def batch_of(step, rows):
    rng = np.random.default_rng([9, step])
    whole = rng.integers(200, 300, (GEOMETRY.batch, GEOMETRY.length)).astype(np.int32)
    position = step * GEOMETRY.batch + rows
    arms = np.zeros((len(rows), GEOMETRY.length), np.uint16)
    return {"step": step, "position": position, "tokens": whole[rows], "arms": arms}


def by_hand(plan, given, step, lines=DECIDED):
    """(tokens, arms) of a step: every edit of the plan is looked at."""
    batch = batch_of(step, np.arange(GEOMETRY.batch))
    tokens, arms = batch["tokens"].tolist(), batch["arms"].tolist()
    chosen = {(line["slots"], line["interval"]): line["chosen"] for line in lines}
    texts = {filling.slots: filling.texts for filling in given}
    for edit in range(len(plan.columns["position"])):
        column = {name: int(values[edit]) for name, values in plan.columns.items()}
        ((_, name),) = plan.names(np.array([column["item"]]))
        if name not in EVERY or column["position"] // GEOMETRY.batch != step:
            continue
        interval, place = divmod(column["repetition"], EACH[name])
        assert interval == step // EVERY[name]
        wanted = chosen[name, interval]
        if place < len(wanted):
            text = texts[name][wanted[place]].tolist()
            row, first = column["position"] % GEOMETRY.batch, column["offset"]
            tokens[row][first : first + len(text)] = text
            arms[row][first : first + len(text)] = [column["arm"]] * len(text)
    return np.array(tokens), np.array(arms)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [2, 3], [1, 3, 5], [5]])
def test_decided_texts_fill_the_first_slots_of_their_interval(plan, given, rows):
    filled, rows = SlotOverlay(plan, given), np.array(rows)
    filled.begin(0)
    filled.replay(DECIDED)
    written = 0
    for step in (7, *range(10), 0):  # of the step alone, not of what came before
        batch = filled(step, batch_of(step, rows))
        tokens, arms = by_hand(plan, given, step)
        np.testing.assert_array_equal(batch["tokens"], tokens[rows])
        np.testing.assert_array_equal(batch["arms"], arms[rows])
        written += np.count_nonzero(batch["arms"])
    assert written > 0 or len(rows) == 1


def test_all_that_is_decided_is_written_once(plan, given):
    filled = SlotOverlay(plan, given)
    filled.replay(DECIDED)
    all_rows = np.arange(GEOMETRY.batch)
    counts = np.zeros(10, int)
    for step in range(10):
        counts += np.bincount(filled(step, batch_of(step, all_rows))["arms"].ravel(), minlength=10)
    arms = {arm["condition"]: arm["id"] for arm in plan.arms}
    assert counts[arms["few"]] == 6 + 6 + 1 + 3 + 1
    assert counts[arms["many"]] == 4 + 2 + 4 + 2 + 2 + 7 * 2


def test_what_a_run_only_measured_fills_nothing(plan, given):
    """The log of alone/NAME also has the controllers of other experiments."""
    filled, rows = SlotOverlay(plan, given), np.arange(6)
    measured = {"experiment": "other", "slots": "s", "interval": 0, "chosen": None}
    filled.replay([measured, *DECIDED, measured])
    np.testing.assert_array_equal(
        filled(3, batch_of(3, rows))["tokens"], by_hand(plan, given, 3)[0]
    )


def test_a_step_that_is_not_decided_is_refused(plan, given):
    filled, rows = SlotOverlay(plan, given), np.arange(6)
    with pytest.raises(ValueError, match="known/few: no decision yet for step 0"):
        filled(0, batch_of(0, rows))
    filled.replay(DECIDED[:2])
    filled(3, batch_of(3, rows))
    with pytest.raises(ValueError, match="known/few: no decision yet for step 4"):
        filled(4, batch_of(4, rows))
    filled.replay(DECIDED[2:3])
    with pytest.raises(ValueError, match="known/many: no decision yet for step 5"):
        filled(5, batch_of(5, rows))


def test_a_run_that_begins_within_an_interval_leaves_its_slots(plan, given):
    filled, rows = SlotOverlay(plan, given), np.arange(6)
    filled.replay(DECIDED)
    filled.begin(6)  # what was decided before is forgotten
    batch = filled(6, batch_of(6, rows))
    assert not batch["arms"].any()
    with pytest.raises(ValueError, match="known/few: no decision yet for step 8"):
        filled(8, batch_of(8, rows))
    filled.replay(DECIDED[4:])
    np.testing.assert_array_equal(
        filled(8, batch_of(8, rows))["tokens"],
        by_hand(plan, given, 8, [*DECIDED[4:], {"slots": "many", "interval": 1, "chosen": []}])[0],
    )


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ([0, 1, 2, 0], "has 4 texts for 3 slots"),
        ([3], "chooses text 3, but there are only 3"),
        ([0, -1], "chooses text -1, but there are only 3"),
        ([1.0], "is not a list of whole numbers"),
    ],
)
def test_a_bad_decision_names_the_experiment(plan, given, chosen, told):
    with pytest.raises(ValueError, match=f"known/few: the decision for interval 1 {told}"):
        SlotOverlay(plan, given).decide(0, 1, chosen)


def test_decisions_may_be_of_numpy(plan, given):
    assert SlotOverlay(plan, given).validate(0, 1, np.array([2, 0])) == [2, 0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"texts": [np.arange(1, 8)]}, "text 0 has 7 tokens, its slot holds 1 to 6"),
        ({"texts": [np.arange(1, 3), NONE]}, "text 1 has 0 tokens, its slot holds 1 to 6"),
        ({"slots": "t0"}, "known/t0: the controller needs an item of that id .* a slot"),
        ({"slots": "unknown"}, "known/unknown: the controller needs an item of that id"),
        ({"experiment": "other"}, "other/few: the controller needs an item"),
        ({"every": 3}, "not in the controller's 4 intervals: place the item by PerInterval"),
        ({"every": 5}, "not in the controller's 2 intervals"),
        ({"every": 0}, "`every` must be a number of steps >= 1, not 0"),
    ],
)
def test_slots_that_cannot_be_filled_are_refused(plan, given, changes, told):
    with pytest.raises(ValueError, match=told):
        SlotOverlay(plan, [dataclasses.replace(given[0], **changes), given[1]])


def test_slots_outside_intervals_are_refused(given):
    """As many as there should be, and anywhere."""
    plan = plan_of(Item("few", "few", 9, slot=6))
    with pytest.raises(ValueError, match="known/few: its slots are not in the controller's"):
        SlotOverlay(plan, given[:1])


def test_texts_are_stored_and_found_again(given, tmp_path):
    controller_log.store_slot_texts(tmp_path / "c", given)
    for mine, its in zip(controller_log.load_slot_texts(tmp_path / "c"), given, strict=True):
        assert (mine.experiment, mine.slots, mine.every) == ("known", its.slots, its.every)
        assert all(itertools.starmap(np.array_equal, zip(mine.texts, its.texts, strict=True)))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}
    controller_log.store_slot_texts(tmp_path / "c", given)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "c").iterdir()}
    # Other texts replace them; what a kill left of them is written anew.
    fewer = [dataclasses.replace(given[0], texts=given[0].texts[:2]), given[1]]
    (tmp_path / "c/starts.npy").write_bytes(b"")
    controller_log.store_slot_texts(tmp_path / "c", fewer)
    assert [len(each.texts) for each in controller_log.load_slot_texts(tmp_path / "c")] == [2, 2]


def test_damaged_or_missing_texts_are_named(given, tmp_path):
    with pytest.raises(ValueError, match="is missing: restore the texts"):
        controller_log.load_slot_texts(tmp_path / "c")
    controller_log.store_slot_texts(tmp_path / "c", given)
    path = tmp_path / "c/tokens.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match=r"tokens.npy is damaged"):
        controller_log.load_slot_texts(tmp_path / "c")
