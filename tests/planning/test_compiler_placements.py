"""Placements, blocks of items and kinds of edits, by plans compiled without a corpus."""

import json

import numpy as np
import pandas as pd
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.planning import allocator
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.items import MARK, SLOT, Intervention, Item, Items
from ttoaa.planning.placement import (
    AtOccurrences,
    Explicit,
    PerInterval,
    Stratified,
    Uniform,
    WholeBatch,
    Within,
)
from ttoaa.planning.plan import Plan
from ttoaa.planning.store import store
from ttoaa.workdir import unfinished_folder

GEOMETRY = Geometry(length=32, batch=8, steps=40)
ONES = np.ones(32, np.int32)


def compiled(again=None, geometry=GEOMETRY, windows=(), at_once=1 << 20, **experiments):
    given = {n: Intervention(i, np.array(windows, np.int64)) for n, i in experiments.items()}
    return compile_plan(given, geometry, 320, {"seed": 3}, again, at_once=at_once)


def addresses(plan):
    """(experiment, id, repetition) -> address; checks on the way that nothing overlaps."""
    columns = plan.columns
    address = columns["position"] * plan.geometry.length + columns["offset"]
    assert (columns["offset"] + columns["length"] <= plan.geometry.length).all()
    assert (address[1:] >= (address + columns["length"])[:-1]).all()
    who = zip(plan.names(columns["item"]), columns["repetition"].tolist(), strict=True)
    return {(*name, r): a for (name, r), a in zip(who, address.tolist(), strict=True)}


def row(address):
    return address // GEOMETRY.length


def test_stratified_copies_are_dealt_to_parts():
    """A seventh of 320 rows is no whole number: the parts differ by one row."""
    item = Item("i", "c", 70, ONES[:5], placement=Stratified(7))
    placed = addresses(compiled(a=[item]))
    edges = [320 * k // 7 for k in range(8)]
    for (_, _, r), address in placed.items():
        assert edges[r % 7] <= row(address) < edges[r % 7 + 1]
    assert len({row(a) for a in placed.values()}) > 40


def test_every_interval_gets_its_slots():
    """40 steps in intervals of 9 are five, the last of four steps."""
    item = Item("i", "c", 15, slot=6, placement=PerInterval(9))
    for (_, _, r), address in addresses(compiled(a=[item])).items():
        assert row(address) // 8 // 9 == r // 3
    with pytest.raises(ValueError, match=r"a: item 'i'.*makes 5 intervals.*must be a multiple"):
        compiled(a=[Item("i", "c", 14, slot=6, placement=PerInterval(9))])


def test_slots_and_marks_are_occupied_and_have_no_source():
    items = [Item("s", "slots", 3, slot=7), Item("m", "marks", 2, mark=32), Item("t", "c", 1, ONES)]
    plan = compiled(a=items)
    kind = plan.columns["kind"].tolist()
    assert sorted(kind) == [0, SLOT, SLOT, SLOT, MARK, MARK]
    assert all(
        s == (0 if k == 0 else -1) for s, k in zip(plan.columns["source"], kind, strict=True)
    )
    assert [(a["name"], a["tokens"]) for a in plan.arms] == [
        ("a/slots", 21), ("a/marks", 64), ("a/c", 32)
    ]  # fmt: skip
    addresses(plan)
    full = Item("m", "c", 1, mark=32, placement=Explicit([5]))
    with pytest.raises(ValueError, match=r"cover the same tokens for a \(item 'm'\) and b"):
        compiled(a=[full], b=[Item("s", "c", 1, slot=1, placement=Explicit([5], 31))])


@pytest.fixture
def places():
    """50 distinct places, some near the end of their row."""
    found = np.random.default_rng(0).permutation(320 * 4)[:50]
    return AtOccurrences(found // 4, found % 4 * 8)


def as_addresses(placement):
    return set((placement.positions * 32 + placement.offsets).tolist())


def test_copies_go_where_something_occurs(places):
    item = Item("i", "c", 40, ONES[:8], placement=places)
    placed = addresses(compiled(a=[item], b=[Item("u", "c", 200, ONES[:9])]))
    found = {a for (name, _, _), a in placed.items() if name == "a"}
    assert len(found) == 40 and found < as_addresses(places)
    every = addresses(compiled(a=[Item("i", "c", 50, ONES[:8], placement=places)]))
    assert set(every.values()) == as_addresses(places)
    with pytest.raises(ValueError, match=r"a: item 'i': 51 copies .* offers 50 places"):
        compiled(a=[Item("i", "c", 51, ONES[:8], placement=places)])


def test_places_where_it_would_leave_its_row_or_that_are_covered_are_not_chosen(places):
    fits = {a for a in as_addresses(places) if a % 32 <= 16}
    covered = sorted(fits)[:5]
    wall = Item("w", "c", 5, ONES[:3], placement=Explicit([a // 32 for a in covered], [
        a % 32 + 2 for a in covered
    ]))  # fmt: skip
    rows = len({a // 32 for a in fits - set(covered)})
    item = Item("i", "c", min(rows, 20), ONES[:16], placement=places)
    placed = addresses(compiled(a=[item], b=[wall]))
    found = {a for (name, _, _), a in placed.items() if name == "a"}
    assert len(found) == 20 and found < fits - set(covered)
    with pytest.raises(ValueError, match=r"all its candidate places are taken for a \(item 'i'\)"):
        compiled(a=[Item("i", "c", 50, ONES[:16], placement=places)])


def test_another_experiment_takes_places_only_by_collision(places):
    own = Item("i", "c", 20, ONES[:8], placement=places)
    other = Item("o", "c", 20, ONES[:8], placement=AtOccurrences(places.positions, places.offsets))
    alone, both = addresses(compiled(a=[own])), addresses(compiled(a=[own], b=[other]))
    moved = [k for k in alone if alone[k] != both[k]]
    taken = {both[k] for k in both if k[0] == "b" or k in moved}
    assert 0 < len(moved) < 18 and all(alone[k] in taken for k in moved)


BLOCK = Items(
    ids=[f"i{k}" for k in range(6)],
    condition=("x", "y"),
    codes=np.array([0, 1, 0, 0, 1, 1]),
    repetitions=np.array([3, 0, 2, 1, 5, 4]),
    tokens=np.arange(21),
    lengths=np.arange(1, 7),
    placement=Within(0.2, 0.9),
    texts=list("abcdef"),
    fields={"number": np.arange(6), "name": list("uvwxyz")},
)


def singly(block):
    ends = np.cumsum(block.lengths)
    return [
        Item(
            block.ids[k],
            block.condition[block.codes[k]],
            int(block.repetitions[k]),
            block.tokens[ends[k] - block.lengths[k] : ends[k]],
            placement=block.placement,
            text=block.texts[k],
            fields={name: column[k] for name, column in block.fields.items()},
        )
        for k in range(len(block.ids))
    ]


def test_a_block_is_as_its_items_one_by_one():
    more = Item("last", "x", 2, ONES[:3])
    block, items = compiled(a=iter([BLOCK, more])), compiled(a=iter([*singly(BLOCK), more]))
    assert block.hash == items.hash and len(block.columns["item"]) == 17
    pd.testing.assert_frame_equal(block.items("a"), items.items("a"))
    assert block.items("a")["tokens"][2].tolist() == [3, 4, 5]
    assert block.items("a")["condition"].tolist() == [*"xyxxyy", "x"]


def test_a_block_of_windows_covers_a_batch():
    windows = np.arange(100, 108)
    block = Items([f"{k}" for k in range(8)], "c", 1, windows=windows, placement=WholeBatch([7], 0))
    plan = compiled(a=[block], b=[Item("u", "c", 30, ONES)], windows=windows)
    placed = addresses(plan)
    assert [placed["a", f"{k}", 0] for k in range(8)] == [(56 + k) * 32 for k in range(8)]
    assert sorted(plan.columns["source"][plan.columns["kind"] == 1]) == windows.tolist()


def test_places_of_a_block_are_those_of_its_items_in_turn():
    places = Explicit([9, 8, 7], [1, 2, 3])
    block = Items(["p", "q"], "c", np.array([1, 2]), marks=4, placement=places)
    expected = {("a", "p", 0): 289, ("a", "q", 0): 258, ("a", "q", 1): 227}
    assert addresses(compiled(a=[block])) == expected


BAD = {
    "a: the block of 2 items from 'i' on needs exactly one of tokens": {},
    "2 ids, but 1 repetitions": {"marks": 1, "repetitions": [1]},
    "tokens must be 5 whole numbers": {"tokens": np.ones(4, int), "lengths": [2, 3]},
    "whole numbers as lengths": {"tokens": np.ones(4, int)},
    "item 'j' has 33 tokens, a row holds 1 to 32": {
        "tokens": np.ones(34, int), "lengths": [1, 33]
    },
    "item 'j' has token ids outside": {"tokens": np.array([3, 320]), "lengths": [1, 1]},
    "item 'j' has repetitions -1": {"slots": 4, "repetitions": [1, -1]},
    "item 'j' uses reserve window 6": {"windows": [5, 6]},
    "codes must be indices of its 1 conditions": {"marks": 1, "codes": [0, 1]},
    "2 ids, but 1 texts": {"marks": 1, "texts": ["x"]},
    "rows 0 to 7, each full": {"marks": 32, "placement": WholeBatch([1], 7)},
    "an item's id must be text": {"marks": 1, "ids": [1, 2]},
    "item 'i' occurs twice": {"marks": 1, "ids": ["i", "i"]},
    "2 repetitions but 3 places": {"marks": 1, "placement": Explicit([1, 2, 3])},
    "whole numbers as positions": {"marks": 1, "placement": AtOccurrences([0.5], [1])},
    "holds no row of 320": {"marks": 1, "placement": Stratified(321)},
}  # fmt: skip


@pytest.mark.parametrize(("message", "changes"), BAD.items(), ids=list(BAD))
def test_a_bad_block_is_one_line(message, changes):
    block = Items(**{"ids": ["i", "j"], "condition": "c", "repetitions": 1, **changes})
    with pytest.raises(ValueError, match=message) as caught:
        compiled(a=[block], windows=[5])
    assert "\n" not in str(caught.value) and str(caught.value).startswith("a: ")


@pytest.fixture
def many():
    """Experiments of all placements, at 50% of 320 rows."""
    rng = np.random.default_rng(5)
    found = rng.permutation(300)[:60]
    sizes = rng.integers(1, 12, 200)
    texts = Items(
        [f"t{k}" for k in range(200)], "c", 3,
        tokens=rng.integers(0, 320, sizes.sum()), lengths=sizes,
    )  # fmt: skip
    return {
        "at": [Item("i", "c", 50, ONES[:10], placement=AtOccurrences(found, found % 20))],
        "batch": [Items([*"abcdefgh"], "c", 1, marks=32, placement=WholeBatch([38], 0))],
        "slots": [Item("s", "c", 40, slot=9, placement=PerInterval(10))],
        "tenths": [Item("s", "c", 20, ONES[:20], placement=Stratified(10))],
        "texts": [texts],
        "within": [Item("w", "c", 30, ONES, placement=Within(0.1, 0.5))],
    }


@pytest.mark.parametrize("at_once", [1, 40, 300])
def test_memory_does_not_change_the_plan(many, monkeypatch, at_once):
    """Blocks of 24 rows (which make the plan another one), settled some at a time."""
    monkeypatch.setattr(allocator, "_BLOCK_ROWS", 24)
    whole = compiled(**many)
    addresses(whole)
    monkeypatch.setattr(allocator, "_CHUNK", 17)
    assert compiled(**many, at_once=at_once).hash == whole.hash
    turned = dict(reversed(many.items()))
    assert compiled(**turned, at_once=at_once).hash == whole.hash


@pytest.mark.parametrize("block", [24, 1 << 16])
def test_a_newcomer_moves_others_only_by_collision(many, monkeypatch, block):
    """Contract C3 over all placements, with blocks of rows that fill up and with one alone."""
    monkeypatch.setattr(allocator, "_BLOCK_ROWS", block)
    newcomer = many.pop("texts")
    before, after = compiled(**many), compiled(**many, texts=newcomer)
    old, new = addresses(before), addresses(after)
    # Shorter ones are placed after the longer: not even 600 of them move anyone of 20 tokens.
    lengths = {"at": 10, "batch": 32, "slots": 9, "tenths": 20, "within": 32}
    moved = [k for k in old if old[k] != new[k]]
    assert all(lengths[k[0]] < 20 for k in moved)
    taken = np.zeros(GEOMETRY.tokens, bool)
    spans = zip(new.items(), after.columns["length"].tolist(), strict=True)
    for (key, address), size in spans:
        if key[0] == "texts" or key in moved:
            taken[address : address + size] = True
    assert all(taken[old[k] : old[k] + lengths[k[0]]].any() for k in moved)


def test_long_ones_find_room_beside_many_short_ones():
    """Short ones first would touch every row: at 95% of all tokens the rows would find none."""
    rows = Items([f"{k}" for k in range(200)], "c", 1, marks=32)
    short = Items([f"{k}" for k in range(3500)], "c", 1, marks=1)
    assert len(addresses(compiled(a=[short], b=[rows]))) == 3700


def test_full_blocks_give_to_others(monkeypatch):
    """Every row is filled, so that what the draws of blocks leave over must go where room is."""
    monkeypatch.setattr(allocator, "_BLOCK_ROWS", 20)
    rows = Items([f"{k}" for k in range(320)], "c", 1, marks=32)
    placed = addresses(compiled(a=[rows], at_once=50))
    assert sorted(map(row, placed.values())) == list(range(320))
    with pytest.raises(ValueError, match=r"no room is left for a \(item"):
        half = Item("half", "c", 20, mark=32, placement=Within(0, 0.5))
        compiled(a=[half, Items([f"{k}" for k in range(141)], "c", 1, marks=32,
                                placement=Within(0, 0.5))])  # fmt: skip


def test_edits_are_drawn_again():
    items = [Item("i", "c", 30, ONES[:4]), Item("j", "c", 30, ONES[:4])]
    before = addresses(compiled(a=items))
    seen = set()
    for times in (1, 2, 3):
        after = addresses(compiled({("a", "i", 7): times}, a=items))
        moved = {k for k in before if before[k] != after[k]}
        assert ("a", "i", 7) in moved and len(moved) <= 2  # one more may collide
        seen.add(after["a", "i", 7])
    assert len(seen) == 3
    assert addresses(compiled({("a", "i", 7): 0}, a=items)) == before


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (("a", "i", 2), r"a: item 'i' has no copy 2"),
        (("a", "k", 0), r"a: item 'k' has no copy 0"),
        (("b", "i", 0), r"b: item 'i' has no copy 0"),
        (("a", "told", 0), r"a: item 'told' must move, but its placement is fixed"),
    ],
)
def test_who_cannot_be_drawn_again(who, message):
    items = [Item("i", "c", 2, ONES[:4]), Item("told", "c", 1, ONES, placement=Explicit([3]))]
    with pytest.raises(ValueError, match=message):
        compiled({who: 1}, a=items)


@pytest.fixture
def stored(many, tmp_path):
    with unfinished_folder(tmp_path / "plan") as folder:
        given = {n: Intervention(i, np.empty(0, np.int64)) for n, i in many.items()}
        plan = compile_plan(given, GEOMETRY, 320, {"seed": 3}, folder=folder)
        store(plan, tmp_path / "plan", {})
    return Plan.open(tmp_path / "plan")


def test_items_are_named_and_their_edits_found(stored):
    item = stored.columns["item"]
    ids = [(n, i) for n in stored.contents["experiments"] for i in stored.items(n)["id"]]
    assert stored.names(item) == [ids[k] for k in item.tolist()]
    for name, each in {("texts", "t17"), ("slots", "s"), ("at", "i")}:
        mine = np.flatnonzero(item == ids.index((name, each)))
        np.testing.assert_array_equal(stored.find(each, name), mine)
    both = [ids.index(("slots", "s")), ids.index(("tenths", "s"))]
    np.testing.assert_array_equal(stored.find("s"), np.flatnonzero(np.isin(item, both)))
    assert len(stored.find("nobody")) == 0 and len(stored.find("s", "at")) == 0


def test_rows_are_looked_up(stored):
    position = stored.columns["position"]
    for p in (*range(320), 320, 1000):
        expected = np.flatnonzero(position == p)
        assert np.arange(len(position))[stored.of_row(p)].tolist() == expected.tolist()


def test_the_summary_is_there_for_programs(stored):
    values = json.loads((stored.folder / "summary.json").read_text())
    columns = stored.columns
    assert values["edits"] == len(columns["item"]) and values["hash"] == stored.hash
    assert values["edited_tokens"] == columns["length"].sum() == values["share"] * 10240
    tokens = np.zeros(10)
    np.add.at(tokens, columns["position"] // 32, columns["length"])
    np.testing.assert_allclose(values["occupied_by_tenth"], tokens / 1024)
    slots = values["experiments"]["slots"]
    assert (slots["items"], slots["tokens"], slots["share"]) == (1, 360, 360 / 10240)
    assert slots["tokens_of_kinds"] == {
        "tokens": 0,
        "reserve": 0,
        "slots": 360,
        "marks": 0,
        "noise": 0,
    }
    assert {a["name"] for a in values["arms"]} == {f"{n}/c" for n in values["experiments"]}


def test_uniform_by_default():
    assert Items(["i"], "c", 1, marks=1).placement == Item("i", "c", 1, mark=1).placement
    assert Item("i", "c", 1, mark=1).placement == Uniform()
