import hashlib
import json
import multiprocessing
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from fakes import Given

from ttoaa.data.geometry import Geometry
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning import store as store_module
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.injection import Overlay
from ttoaa.planning.items import Intervention, Item
from ttoaa.planning.placement import Explicit
from ttoaa.planning.plan import COLUMNS, Plan
from ttoaa.planning.store import store


@pytest.fixture
def copied(tiny_plan, tmp_path):
    return shutil.copytree(tiny_plan.folder, tmp_path / "plan")


def item_ids(plan):
    """experiment and id of every item, as the column `item` counts them, from the item tables."""
    parts = [plan.items(n)[["id"]].assign(experiment=n) for n in plan.contents["experiments"]]
    return pd.concat(parts, ignore_index=True)


def flip(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_the_provenance_table_agrees_with_the_columns(tiny_plan):
    table = pd.read_parquet(tiny_plan.folder / "provenance.parquet")
    columns, ids = tiny_plan.columns, item_ids(tiny_plan).iloc[tiny_plan.columns["item"]]
    assert len(table) == len(columns["position"]) > 40
    np.testing.assert_array_equal(table["step"] * 8 + table["row"], columns["position"])
    for name in ("offset", "length", "repetition"):
        np.testing.assert_array_equal(table[name], columns[name])
    assert table["item"].tolist() == ids["id"].tolist()
    assert table["experiment"].tolist() == ids["experiment"].tolist()
    names = {arm["id"]: arm["name"] for arm in tiny_plan.arms}
    assert table["arm"].tolist() == [names[arm] for arm in columns["arm"]]
    windows = np.where(columns["kind"] == 1, columns["source"], -1)
    np.testing.assert_array_equal(table["reserve_window"], windows)


def test_the_provenance_table_agrees_with_what_is_loaded(corpus, tiny_plan):
    order = Order(**tiny_plan.contents["order"])
    loaded = list(batches(corpus, order, tiny_plan.geometry, [Overlay(tiny_plan, corpus)]))
    arms = {arm["name"]: arm["id"] for arm in tiny_plan.arms}
    table = pd.read_parquet(tiny_plan.folder / "provenance.parquet")
    for edit in table.itertuples():
        span = (edit.row, slice(edit.offset, edit.offset + edit.length))
        tokens = loaded[edit.step]["tokens"][span]
        if edit.reserve_window < 0:
            assert hashlib.sha256(tokens.tobytes()).hexdigest() == edit.tokens_sha256
        else:
            window = corpus.windows("reserve", np.array([edit.reserve_window]), 32)[0]
            np.testing.assert_array_equal(tokens, window)
            assert not isinstance(edit.tokens_sha256, str)
        assert (loaded[edit.step]["arms"][span] == arms[edit.arm]).all()
    assert sum((batch["arms"] > 0).sum() for batch in loaded) == table["length"].sum()


def test_the_items_come_back(tiny_plan, tiny_study):
    table = tiny_plan.items("planted")
    assert table["id"].tolist() == [f"{r}x-{i}" for r in (0, 1, 4) for i in range(4)]
    assert table["repetitions"].tolist() == [0] * 4 + [1] * 4 + [4] * 4
    assert table["number"].tolist() == [0, 1, 2, 3] * 3  # a field
    assert (table["window"] == -1).all() and (table["tokens"].map(len) == 9).all()
    columns, ids = tiny_plan.columns, item_ids(tiny_plan)
    texts = table.set_index("id")["tokens"]
    for edit in np.flatnonzero(ids["experiment"][columns["item"]] == "planted"):
        text = texts[ids["id"][columns["item"][edit]]]
        source = columns["source"][edit]
        np.testing.assert_array_equal(tiny_plan.tokens[source : source + 9], text)
    rows = tiny_plan.items("forgetting")
    assert len(rows) == 16 and (rows["window"] >= 0).all() and (rows["step"] == 16).all()


def test_copies_are_where_the_provenance_has_them(tiny_plan):
    table = pd.read_parquet(tiny_plan.folder / "provenance.parquet")
    table = table.assign(position=table["step"] * 8 + table["row"], id=table["item"])
    for experiment in ("planted", "late", "forgetting"):
        found = tiny_plan.copies(experiment)
        expected = table[table["experiment"] == experiment].set_index(["id", "repetition"])
        found = found.set_index(["id", "repetition"])
        assert len(found) == len(expected)
        names = ["position", "offset"]
        pd.testing.assert_frame_equal(
            found[names], expected.loc[found.index, names], check_dtype=False
        )


def test_arms_count_their_edits_and_tokens(tiny_plan):
    columns = tiny_plan.columns
    for arm in tiny_plan.arms:
        mine = columns["arm"] == arm["id"]
        assert arm["edits"] == mine.sum() and arm["tokens"] == columns["length"][mine].sum()
        assert arm["name"] == f"{arm['experiment']}/{arm['condition']}"
    assert [arm["name"] for arm in tiny_plan.arms] == [
        "forgetting/at-0.4", "late/1x", "late/4x", "late/row", "planted/1x", "planted/4x",
    ]  # fmt: skip


def test_the_summary_says_what_a_person_wants_to_know(tiny_plan):
    lines = (tiny_plan.folder / "summary.txt").read_text().splitlines()
    assert lines[0] == (f"plan {tiny_plan.hash[:12]} of seed 0: 40 steps of 8 x 32 = 10,240 tokens")
    assert "planted/4x                 16             144   1.41%" in lines
    assert lines[-2].split()[-1] == f"{tiny_plan.columns['length'].sum() / 10240:.2%}"
    # Validation, the windows of one experiment, and a batch with its twin.
    assert lines[-1] == (
        "reserve: 27 of 261 windows are taken; uses: 4; documents shared by two uses: 0"
    )


def test_between_finds_a_range_of_positions(tiny_plan):
    position = np.array(tiny_plan.columns["position"])
    for first, last in ((0, 320), (0, 0), (128, 136), (5, 6), (319, 320), (400, 500)):
        expected = np.flatnonzero((position >= first) & (position < last))
        assert np.arange(len(position))[tiny_plan.between(first, last)].tolist() == list(expected)


def test_columns_are_mapped_plain_numbers(tiny_plan):
    for name, dtype in COLUMNS.items():
        column = tiny_plan.columns[name]
        assert isinstance(column.base, np.memmap) and column.dtype == dtype
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 0
        np.load(tiny_plan.folder / "columns" / f"{name}.npy", allow_pickle=False)


def test_a_plan_pickles_by_path(tiny_plan):
    assert len(tiny_plan.columns["position"])
    pickled = pickle.dumps(tiny_plan)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again.hash == tiny_plan.hash
    np.testing.assert_array_equal(again.columns["arm"], tiny_plan.columns["arm"])


def test_no_plan_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"no plan: run python -m ttoaa.plan first"):
        Plan.open(tmp_path)


@pytest.mark.parametrize("name", [*(f"columns/{column}.npy" for column in COLUMNS), "tokens.npy"])
def test_one_flipped_bit_of_a_column_is_noticed(copied, name):
    flip(copied / name, -1)
    with pytest.raises(ValueError, match=rf"{name} is damaged: .* plan again") as caught:
        Plan.open(copied)
    assert str(copied) in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "columns" / "arm.npy").unlink(),
        lambda folder: os.truncate(folder / "tokens.npy", 200),
        lambda folder: (folder / "columns" / "item.npy").write_bytes(b""),
        lambda folder: os.truncate(folder / "plan.json", 100),
        lambda folder: (folder / "items" / "planted.parquet").unlink(),
        lambda folder: flip(folder / "items" / "planted.parquet", 300),
        lambda folder: flip(folder / "provenance.parquet", 300),
        lambda folder: (folder / "plan.json").write_text('{"hash": "x"}'),
    ],
    ids=["missing", "short", "empty", "cut", "no items", "items", "provenance", "other"],
)
def test_a_damaged_folder_is_one_line(copied, damage):
    damage(copied)
    with pytest.raises(ValueError, match="damaged") as caught:
        Plan.open(copied)
    assert str(copied) in str(caught.value) and "\n" not in str(caught.value)


def test_changed_contents_are_noticed(copied):
    meta = json.loads((copied / "plan.json").read_text())
    meta["contents"]["order"]["seed"] += 1
    (copied / "plan.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="damaged"):
        Plan.open(copied)


@pytest.fixture
def bare():
    """Compiles a plan without edits, into this folder or into one of its own."""

    def compile_bare(folder=None):
        none = {"x": Intervention((), np.empty(0, np.int64))}
        return compile_plan(none, Geometry(32, 8, 40), 320, {"seed": 0}, folder=folder)

    return compile_bare


def make(bare, folder):
    with store_module.unfinished_folder(folder) as made:
        store(bare(made), folder, {"note": "hello"})


def copy(bare, folder):
    store(bare(), folder, {"note": "hello"})


@pytest.mark.parametrize("how", [make, copy])
def test_what_is_stored_opens_as_the_same(bare, tmp_path, how):
    """Compiled beside the plan's folder, or elsewhere and then copied."""
    how(bare, tmp_path / "plan")
    plan = Plan.open(tmp_path / "plan")
    assert plan.hash == bare().hash and plan.meta["note"] == "hello" and plan.tokens.shape == (0,)
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]
    with pytest.raises(OSError, match="plan"):
        store(bare(), tmp_path / "plan", {"note": "never overwrites"})
    assert Plan.open(tmp_path / "plan").meta["note"] == "hello"
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


STAGES = ["_write_provenance", "summary_text", "write_record", "commit_folder"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_midway_leaves_no_plan(bare, tmp_path, monkeypatch, stage):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, stage, fail)
    with pytest.raises(OSError, match="No space"):
        make(bare, tmp_path / "plan")
    assert list(tmp_path.iterdir()) == []


def _killed(stage, bare, folder):
    setattr(store_module, stage, lambda *arguments: os.kill(os.getpid(), 9))
    make(bare, folder)


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_midway_leaves_no_plan_and_the_next_call_makes_it(bare, tmp_path, stage):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_killed, args=(stage, bare, tmp_path / "plan"))
    process.start()
    process.join(30)
    assert process.exitcode == -9
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].startswith("plan.tmp-")
    make(bare, tmp_path / "plan")
    assert Plan.open(tmp_path / "plan").hash == bare().hash
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_slots_leave_the_corpus_and_marks_leave_its_tokens(corpus, plan_of):
    items = (
        Item("s", "slot", 2, slot=9, placement=Explicit([16, 17], 3)),
        Item("m", "mark", 2, mark=5, placement=Explicit([16, 18], 20)),
        Item("t", "text", 1, np.array([7, 8], np.int32), placement=Explicit([16], 30)),
    )
    plan = plan_of([Given("given", items=items)])
    order, geometry = Order(**plan.contents["order"]), plan.geometry
    (batch,) = batches(corpus, order, geometry, [Overlay(plan, corpus)], start=2, stop=3)
    (bare,) = batches(corpus, order, geometry, [], start=2, stop=3)
    arms = {arm["condition"]: arm["id"] for arm in plan.arms}
    expected, tokens = np.zeros((8, 32), int), bare["tokens"].copy()
    expected[0, 20:25] = expected[2, 20:25] = arms["mark"]
    expected[0, 30:] = arms["text"]
    tokens[0, 30:] = [7, 8]
    np.testing.assert_array_equal(batch["arms"], expected)
    np.testing.assert_array_equal(batch["tokens"], tokens)
