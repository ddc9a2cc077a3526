"""Removal on a tiny corpus, against rows composed and searched in plain Python."""

import dataclasses
import pathlib
import re
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
from fakes import Planted
from removing import LENGTH, Removing, edits_of, holds, original, rows_of, stream, texts_of

from ttoaa.data import ngram_search
from ttoaa.data.corpus import Corpus
from ttoaa.planning.items import RESERVE, Item, Items
from ttoaa.planning.placement import Explicit, WholeBatch
from ttoaa.planning.plan import Plan
from ttoaa.planning.removal import Removal, Removals
from ttoaa.study_handle import StudyHandle


@pytest.fixture(scope="module")
def texts(corpus):
    return texts_of(corpus)


@pytest.fixture(scope="module")
def others():
    return (Planted("planted"), Planted("late", windows=60))


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
    assert all(before[p] == after[p] for p in range(len(before)) if p not in taken)
    near = sum(
        holds(before[p], text[:-1]) or holds(before[p], text[1:])
        for p in range(len(before))
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
    held_out = items.loc[items["removed"].eq(True), "tokens"]
    assert [tokens.tolist() for tokens in held_out] == [text for _, text in texts]
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


@pytest.mark.parametrize("tokens", [[], [5] * 33])
def test_a_text_that_no_row_can_hold_is_named(plan_of, tokens):
    with pytest.raises(ValueError, match=f"verbatim: removed text 'text-0' has {len(tokens)} tok"):
        plan_of((Removing("verbatim", texts=(("x", tokens),)),))


@pytest.mark.parametrize(
    ("tokens", "fields", "told"),
    [([1.5], {}, "needs a list of whole numbers as tokens"), ([1], {"removed": 0}, "'removed'")],
)
def test_what_is_no_text_to_remove_is_named(tokens, fields, told):
    removal = Removal("x", "c", np.array(tokens), fields=fields)
    with pytest.raises(ValueError, match=f"verbatim: removed text 'x' .*{told}"):
        Removals({"verbatim": [removal]}, LENGTH)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (Item("x", "c", 1, np.array([1.5, 2])), "'x' needs a list of whole numbers as tokens"),
        (Item("x", "c", -1, np.arange(32), placement=Explicit([])), "'x' has repetitions -1"),
        (Items(["x"], "c", 1, tokens=np.arange(4), lengths=np.array([2, 2])), "1 ids, but 2 len"),
    ],
)
def test_a_bad_item_is_named_beside_removals_too(plan_of, texts, item, told):
    removing = Removing("verbatim", texts=tuple(texts))
    with pytest.raises(ValueError, match=f"other: .*{told}"):
        plan_of((removing, Removing("other", items=(item,))))


def test_too_small_a_reserve_is_one_line(plan_of, corpus):
    row = corpus.windows("train", np.array([3]), LENGTH)[0]
    common = [("x", row[i : i + 1].tolist()) for i in range(20)]
    with pytest.raises(ValueError, match=r"windows left without a removed text, \d+ are needed"):
        plan_of((Removing("verbatim", texts=tuple(common)),))


def test_a_dry_run_refuses_a_plan_that_cannot_be_made(tiny_study, make_workdir, corpus):
    row = corpus.windows("train", np.array([3]), LENGTH)[0]
    common = [("x", row[i : i + 1].tolist()) for i in range(20)]
    experiments = (Removing("verbatim", texts=tuple(common)),)
    study = dataclasses.replace(tiny_study, experiments=experiments)
    workdir = make_workdir()
    (workdir.root / "plan.tmp-host-1").mkdir()  # another process may be making a plan
    with pytest.raises(ValueError, match=r"windows left without a removed text, \d+ are needed"):
        StudyHandle(study, workdir).try_plan()
    assert {path.name for path in workdir.root.iterdir()} == {"corpus", "plan.tmp-host-1"}


def test_one_that_says_it_inserts_nothing_removes_nothing(plan_of):
    @dataclasses.dataclass(frozen=True)
    class Quiet(Removing):
        inserts: ClassVar = False

    with pytest.raises(ValueError, match="quiet declares inserts = False but removes texts"):
        plan_of((Quiet("quiet", texts=(("x", [1, 2]),)),))


def test_a_study_without_removals_looks_for_the_ends_of_documents_only(
    corpus, plan_of, others, monkeypatch
):
    found, scan_piece = [], ngram_search.scan_piece

    def scan(corpus, piece, patterns, length):
        found.append((piece.split, patterns.tokens.tolist()))
        return scan_piece(corpus, piece, patterns, length)

    monkeypatch.setattr("ttoaa.data.ngram_search.scan_piece", scan)
    plan = plan_of(others)
    assert found == [("reserve", [corpus.eos_id])]
    assert isinstance(Plan.open(plan.folder).meta["warnings"], list)


def test_scans_are_kept_and_shared_by_seeds(tiny_study, make_workdir, texts, monkeypatch):
    study = dataclasses.replace(tiny_study, experiments=(Removing("verbatim", texts=tuple(texts)),))
    workdir = make_workdir()
    StudyHandle(study, workdir).make_plan()
    kept = sorted((workdir.corpus / "scans").iterdir())
    assert len(kept) == 3  # texts in both splits, and ends of documents in the reserve
    monkeypatch.setattr("ttoaa.data.ngram_search.scan_piece", None)
    plan, new = StudyHandle(study, dataclasses.replace(workdir, seed=1)).make_plan()
    assert new and sorted((workdir.corpus / "scans").iterdir()) == kept
    corpus = Corpus.open(workdir.corpus)
    dirty = [
        p for p, row in enumerate(original(corpus, 1)) if any(holds(row, text) for _, text in texts)
    ]
    assert list(rows_of(plan, "verbatim")) == dirty


def test_the_guides_experiment_removes_its_passages(corpus, plan_of):
    guide = (pathlib.Path(__file__).parents[2] / "docs/removal.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    module = types.ModuleType("unseen")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "unseen", module)
        exec(compile(code.replace("@gin.configurable", ""), "unseen.py", "exec"), module.__dict__)
        tokens = corpus.windows("train", np.array([8]), LENGTH)[0, 3:9]
        passage = corpus.tokenizer.decode(tokens)
        unseen = module.Unseen("unseen", "completed/removed", -1, passages=(passage,))
        plan = plan_of((unseen,))
    items = plan.items("unseen")
    (text,) = items.loc[items["removed"].eq(True), "tokens"]
    assert corpus.tokenizer.decode(text) == passage
    before, after = original(corpus), stream(plan)
    assert [p for p, row in enumerate(before) if holds(row, text.tolist())] == list(
        rows_of(plan, "unseen")
    )
    assert rows_of(plan, "unseen") and not any(holds(row, text.tolist()) for row in after)
