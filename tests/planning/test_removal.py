"""Removal on a tiny corpus, against rows composed and searched in plain Python."""

import dataclasses
import types
from typing import ClassVar

import numpy as np
import pytest
from fakes import Planted

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import training_order
from ttoaa.experiments.base import Experiment, Item, Items
from ttoaa.making import make_plan
from ttoaa.planning.audit import PlainReader
from ttoaa.planning.items import RESERVE
from ttoaa.planning.placement import Explicit, PerInterval, WholeBatch
from ttoaa.planning.plan import Plan
from ttoaa.planning.removal import Removal, removed_texts

LENGTH, SEQUENCES = 32, 320  # over two epochs of 139 windows


@dataclasses.dataclass(frozen=True)
class Removing(Experiment):
    """Removes `texts` (condition, tokens) and, if asked to, inserts `items`."""

    primary: str = "value/x"
    expected_sign: int = 1
    texts: tuple = ()
    items: tuple = ()
    windows: int = 0

    signs: ClassVar = {"value": 1}

    def reserve_windows(self, geometry):
        return self.windows

    def removes(self, world):
        assert len(world.windows) == 0 and world.reserve_NxL.shape == (0, LENGTH)
        for number, (condition, tokens) in enumerate(self.texts):
            tokens = np.array(tokens)
            text = world.tokenizer.decode(tokens)
            yield Removal(f"text-{number}", condition, tokens, text, {"number": number})

    def intervene(self, world):
        yield from self.items
        for i, window in enumerate(world.windows):
            yield Item(f"own-{i}", "own", 1, window=int(window))


def holds(row, text):
    """Plain Python, of two lists."""
    return sum(row[i : i + len(text)] == text for i in range(len(row) - len(text) + 1))


def stream(plan):
    """All rows that the run trains on, composed by the audit's plain code."""
    reader = PlainReader(plan.folder.parent / "corpus", plan.folder)
    return [reader.row(position)[0] for position in range(SEQUENCES)]


def original(corpus, seed=0):
    order = training_order(corpus, seed, LENGTH)
    windows = order.windows(np.arange(SEQUENCES))
    return corpus.windows("train", windows, LENGTH).tolist()


def rows_of(plan, name):
    """{position: reserve window} of what an experiment's removals replaced."""
    columns, found = plan.columns, {}
    for edit in np.flatnonzero(columns["kind"] == RESERVE):
        ((experiment, item),) = plan.names(columns["item"][edit : edit + 1])
        if experiment == name and item == f"row-{columns['position'][edit]}":
            found[int(columns["position"][edit])] = int(columns["source"][edit])
    return found


def edits_of(plan, name):
    """{(item, repetition): (position, offset, source of a window)} but for replaced rows."""
    columns, names = plan.columns, plan.names(plan.columns["item"])
    return {
        (item, int(columns["repetition"][e])): (
            int(columns["position"][e]),
            int(columns["offset"][e]),
            int(columns["source"][e]) if columns["kind"][e] == RESERVE else None,
        )
        for e, (experiment, item) in enumerate(names)
        if experiment == name and not item.startswith("row-")
    }


@pytest.fixture(scope="module")
def texts(corpus):
    """Texts of 7 tokens out of the training windows, one that is in the reserve too, one in none.

    Their near-duplicates, which differ in one token, stay.
    """
    train = corpus.windows("train", np.arange(139), LENGTH).tolist()
    reserve = corpus.windows("reserve", np.arange(64), LENGTH).tolist()
    grams = {tuple(row[i : i + 4]) for row in reserve for i in range(29)}
    grams = [g for g in sorted(grams) if 1 <= sum(holds(row, list(g)) > 0 for row in train) <= 4]
    shared = max(grams, key=lambda g: sum(holds(row, list(g)) > 0 for row in reserve))
    places = [("exact", 5, 0), ("exact", 5, 20), ("late", 60, 25), ("late", 138, 11)]
    own = [(condition, train[window][i : i + 7]) for condition, window, i in places]
    return [*own, ("shared", list(shared)), ("absent", [318] * 5)]


@pytest.fixture(scope="module")
def others():
    return (Planted("planted"), Planted("late", windows=20))


@pytest.fixture(scope="module")
def without(plan_of, others):
    return plan_of(others)


@pytest.fixture(scope="module")
def removed(plan_of, others, texts):
    return plan_of((*others, Removing("verbatim", texts=tuple(texts), windows=3)))


def test_no_row_of_the_run_holds_a_removed_text_and_no_other_is_replaced(corpus, removed, texts):
    before, after = original(corpus), stream(removed)
    dirty = [p for p, row in enumerate(before) if any(holds(row, text) for _, text in texts)]
    assert len(dirty) >= 8 and max(dirty) >= 278 > 139 > min(dirty)  # three epochs
    assert not any(holds(row, text) for row in after for _, text in texts)
    replaced = rows_of(removed, "verbatim")
    assert list(replaced) == dirty
    reserve = corpus.windows("reserve", np.array(list(replaced.values())), LENGTH).tolist()
    assert [after[p] for p in dirty] == reserve
    assert len(set(replaced.values())) == len(replaced)


def test_near_duplicates_stay(corpus, removed, texts):
    """What differs from a removed text in a token is trained on as ever."""
    replaced = rows_of(removed, "verbatim")
    taken = set(removed.columns["position"].tolist())
    before, after = original(corpus), stream(removed)
    assert all(before[p] == after[p] for p in range(SEQUENCES) if p not in taken)
    near = sum(
        holds(before[p], text[:-1]) or holds(before[p], text[1:])
        for p in range(SEQUENCES)
        for _, text in texts
        if p not in replaced
    )
    assert near > 0


def test_the_removed_texts_are_held_out_items_with_their_counts(corpus, removed, texts):
    items = removed.items("verbatim").set_index("id")
    before = original(corpus)
    for number, (condition, text) in enumerate(texts):
        item = items.loc[f"text-{number}"]
        assert item["tokens"].tolist() == text and item["condition"] == condition
        assert item["repetitions"] == 0 and item["number"] == number
        assert item["occurrences"] == sum(holds(row, text) for row in before)
        assert item["text"] == corpus.tokenizer.decode(np.array(text))
    assert {name: [t.tolist() for t in ts] for name, ts in removed_texts(removed).items()} == {
        "verbatim": [text for _, text in texts]
    }
    for position in rows_of(removed, "verbatim"):
        item = items.loc[f"row-{position}"]
        held = [
            f"verbatim/text-{k}" for k, (_, t) in enumerate(texts) if holds(before[position], t)
        ]
        assert item["removes"] == held and item["repetitions"] == 1
        assert item["condition"] == texts[int(held[0].rpartition("-")[2])][0]


def test_nobody_has_a_reserve_window_with_a_removed_text(corpus, removed, without, texts):
    windows = removed.columns["source"][removed.columns["kind"] == RESERVE]
    rows = corpus.windows("reserve", windows, LENGTH).tolist()
    assert not any(holds(row, text) for row in rows for _, text in texts)
    assert len(set(windows.tolist())) == len(windows)
    before = without.columns["source"][without.columns["kind"] == RESERVE]
    rows = corpus.windows("reserve", before, LENGTH).tolist()
    assert any(holds(row, text) for row in rows for _, text in texts), "nothing was at stake"


def test_others_move_only_where_they_were_in_the_way(corpus, removed, without, texts):
    rows = set(rows_of(removed, "verbatim"))
    own = {place[0] for place in edits_of(removed, "verbatim").values()}
    for name in ("planted", "late"):
        one, other = edits_of(without, name), edits_of(removed, name)
        assert one.keys() == other.keys()
        for edit, (position, offset, window) in one.items():
            if other[edit][:2] != (position, offset):
                assert position in rows | own
            if other[edit][2] != window:
                row = corpus.windows("reserve", np.array([window]), LENGTH).tolist()[0]
                assert any(holds(row, text) for _, text in texts)


def test_the_same_again_and_in_another_order(plan_of, others, removed, texts):
    turned = (Removing("verbatim", texts=tuple(texts), windows=3), *others[::-1])
    assert plan_of(turned).hash == removed.hash
    assert removed.meta["redrawn"] == 0


def test_two_experiments_share_a_row(corpus, plan_of, texts):
    """It is replaced once; whose it is does not hang on their order."""
    one = Removing("one", texts=tuple(texts[:4]))
    two = Removing("two", texts=(texts[0], ("x", texts[1][1][2:]), texts[3]))
    both, turned = plan_of((one, two)), plan_of((two, one))
    assert both.hash == turned.hash
    alone = {name: rows_of(plan_of((e,)), name) for name, e in (("one", one), ("two", two))}
    shared = {name: rows_of(both, name) for name in ("one", "two")}
    assert all(shared.values()) and not shared["one"].keys() & shared["two"].keys()
    assert shared["one"].keys() | shared["two"].keys() == alone["one"].keys() | alone["two"].keys()
    for name in ("one", "two"):  # a row that stays its own keeps its window, but for a collision
        same = [shared[name][p] == alone[name][p] for p in shared[name]]
        assert np.mean(same) > 0.6
    assert not any(holds(r, t) for r in stream(both) for _, t in (*one.texts, *two.texts))
    items = both.items("one").set_index("id")
    listed = [items.loc[f"row-{p}"]["removes"] for p in shared["one"]]
    assert any("two/text-0" in each and "one/text-0" in each for each in listed)


def test_a_row_that_another_overwrites_as_a_whole_is_not_replaced(corpus, plan_of, removed, texts):
    dirty = list(rows_of(removed, "verbatim"))
    full = [np.full(LENGTH, 3), np.full(LENGTH, 4)]
    batch = [Item("b", "batch", 1, full[0], placement=WholeBatch((dirty[0] // 8,), dirty[0] % 8))]
    block = Items(
        ["c", "d"],
        "block",
        np.array([2, 1]),
        tokens=np.concatenate([full[1], np.full(9, 4)]),
        lengths=np.array([LENGTH, 9]),
        placement=Explicit([dirty[2], dirty[4], 3 if 3 not in dirty else 2], [0, 0, 5]),
    )
    removing = Removing("verbatim", texts=tuple(texts))
    plan = plan_of((removing, Removing("whole", items=(*batch, block))))
    theirs = {dirty[0], dirty[2], dirty[4]}
    assert list(rows_of(plan, "verbatim")) == [p for p in dirty if p not in theirs]
    rows = stream(plan)
    assert [rows[p] for p in sorted(theirs)] == [full[0].tolist()] + [full[1].tolist()] * 2
    assert not any(holds(row, text) for row in rows for _, text in texts)
    alone = rows_of(plan_of((removing,)), "verbatim")
    assert all(alone[p] == window for p, window in rows_of(plan, "verbatim").items())


def test_a_place_in_a_replaced_row_is_refused_by_name(plan_of, removed, texts):
    row = next(iter(rows_of(removed, "verbatim")))
    fixed = Item("here", "c", 1, np.array([1, 2]), placement=Explicit([row], 4))
    with pytest.raises(ValueError, match=f"(?s)cover the same tokens.*row-{row}|row-{row}.*here"):
        plan_of((Removing("verbatim", texts=tuple(texts)), Removing("other", items=(fixed,))))


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
        make_plan(dataclasses.replace(tiny_study, experiments=tuple(experiments)), workdir)
    assert str(caught.value) == (
        f"{name}: item 'puts-back' inserts a text that is to be removed, verbatim/text-0: "
        "leave it out of one of them"
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
        return [types.SimpleNamespace(slots="room", every=10, texts=texts)]


def test_a_controller_may_not_insert_it_either(tiny_study, make_workdir, texts):
    steered = Steered("steered", choices=([1], [9, *texts[4][1]]))
    experiments = (Removing("verbatim", texts=tuple(texts)), steered)
    with pytest.raises(ValueError, match=r"steered: item 'room, text 1' inserts .*verbatim/text-4"):
        make_plan(dataclasses.replace(tiny_study, experiments=experiments), make_workdir())


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
    with pytest.raises(ValueError, match="items: item 'x' must move, and its placement says where"):
        plan_of((removing, Removing("items", items=(fixed,))))


def test_a_seam_wherever_it_is_put_is_named(plan_of):
    """The item leaves one token of its row, and whatever that is makes a removed text with it."""
    pairs = [pair for token in range(300) for pair in ([300, token], [token, 300])]
    removing = Removing("verbatim", texts=tuple(("x", pair) for pair in pairs))
    wide = Item("wide", "c", 1, np.full(LENGTH - 1, 300))
    with pytest.raises(ValueError) as caught:
        plan_of((removing, Removing("items", items=(wide,))))
    message = str(caught.value)
    assert message.startswith(
        "items: copy 0 of item 'wide' makes a text that is to be removed, ver"
    )
    assert message.endswith("wherever it is put: change one of them")


@pytest.mark.parametrize("tokens", [[], [5] * 33])
def test_a_text_that_no_row_can_hold_is_named(plan_of, tokens):
    with pytest.raises(ValueError, match=f"verbatim: removed text 'text-0' has {len(tokens)} tok"):
        plan_of((Removing("verbatim", texts=(("x", tokens),)),))


def test_too_small_a_reserve_is_one_line(plan_of, corpus):
    row = corpus.windows("train", np.array([3]), LENGTH)[0]
    common = [("x", row[i : i + 1].tolist()) for i in range(20)]
    with pytest.raises(ValueError, match=r"windows left without a removed text, \d+ more are"):
        plan_of((Removing("verbatim", texts=tuple(common)),))


def test_one_that_says_it_inserts_nothing_removes_nothing(plan_of):
    @dataclasses.dataclass(frozen=True)
    class Quiet(Removing):
        inserts: ClassVar = False

    with pytest.raises(ValueError, match="quiet says that it inserts nothing, and removes texts"):
        plan_of((Quiet("quiet", texts=(("x", [1, 2]),)),))


def test_a_study_without_removals_scans_nothing(corpus, plan_of, others, monkeypatch):
    def scan(*arguments):
        raise AssertionError("there is nothing to look for")

    monkeypatch.setattr("ttoaa.data.scan.scan_piece", scan)
    plan = plan_of(others)
    assert not (plan.folder.parent / "corpus" / "scans").exists()
    assert isinstance(Plan.open(plan.folder).meta["warnings"], list)


def test_scans_are_kept_and_shared_by_seeds(tiny_study, make_workdir, texts, monkeypatch):
    study = dataclasses.replace(tiny_study, experiments=(Removing("verbatim", texts=tuple(texts)),))
    workdir = make_workdir()
    make_plan(study, workdir)
    kept = sorted((workdir.corpus / "scans").iterdir())
    assert len(kept) == 2
    monkeypatch.setattr("ttoaa.data.scan.scan_piece", None)
    plan, new = make_plan(study, dataclasses.replace(workdir, seed=1))
    assert new and sorted((workdir.corpus / "scans").iterdir()) == kept
    corpus = Corpus.open(workdir.corpus)
    dirty = [
        p for p, row in enumerate(original(corpus, 1)) if any(holds(row, text) for _, text in texts)
    ]
    assert list(rows_of(plan, "verbatim")) == dirty
