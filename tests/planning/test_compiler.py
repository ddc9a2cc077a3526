import dataclasses
import hashlib

import numpy as np
import pandas as pd
import pytest
from fakes import Given, Planted

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.context import (
    ask_reserve,
    describe_experiments,
    intervene,
    make_worlds,
)
from ttoaa.experiments.forgetting import Forgetting
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Explicit, Uniform, WholeBatch, Within
from ttoaa.planning.reserve import document_runs

GEOMETRY = Geometry(length=32, batch=8, steps=40)


@pytest.fixture(scope="module")
def compile_(corpus):
    def compile_(*experiments, seed=0, geometry=GEOMETRY):
        reserve = ask_reserve(experiments, seed, geometry, corpus, 8)
        worlds = make_worlds(experiments, seed, geometry, corpus, reserve)
        identity = {"seed": seed, "corpus": "abc"}
        return compile_plan(intervene(experiments, worlds), geometry, corpus.vocab_size, identity)

    return compile_


def text(*tokens):
    return np.array(tokens, np.int32)


def edits(plan, name):
    """(item id, repetition) -> (address, tokens or reserve window, arm name) of one experiment."""
    who = plan.names(plan.columns["item"])
    arm = {a["id"]: a["name"] for a in plan.contents["arms"]}
    out = {}
    for row, (experiment, item) in zip(zip(*plan.columns.values(), strict=True), who, strict=True):
        edit = dict(zip(plan.columns, map(int, row), strict=True))
        if experiment == name:
            span = slice(edit["source"], edit["source"] + edit["length"])
            what = edit["source"] if edit["kind"] else tuple(plan.tokens[span].tolist())
            address = edit["position"] * GEOMETRY.length + edit["offset"]
            out[item, edit["repetition"]] = (address, what, arm[edit["arm"]])
    return out


def spans(plan):
    """bool[tokens of the run]: what is edited; an overlap is an error."""
    edited = np.zeros(GEOMETRY.tokens, int)
    columns = plan.columns
    for position, offset, length in zip(
        columns["position"], columns["offset"], columns["length"], strict=True
    ):
        assert offset >= 0 and offset + length <= GEOMETRY.length
        edited[position * 32 + offset :][:length] += 1
    assert edited.max() <= 1
    return edited.astype(bool)


def plain(items):
    """The item table as something that can be compared."""
    return items.map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)


FIRST = Planted("first")
LATE = Planted("late", placement=Within(0.5, 1.0), items=8)
BATCHES = Forgetting("batches", "cross_entropy/lag-1", -1, at=(0.4,))
MORE = Planted("a-newcomer", items=30, repetitions=(2,), windows=6)


def test_every_repetition_of_every_item_is_there(compile_):
    plan = compile_(FIRST, BATCHES, LATE)
    for experiment in (FIRST, BATCHES, LATE):
        placed = edits(plan, experiment.name)
        items = list(plan.items(experiment.name).itertuples())
        assert set(placed) == {(i.id, r) for i in items for r in range(i.repetitions)}
        for item in items:
            expected = item.window if item.tokens is None else tuple(item.tokens.tolist())
            for r in range(item.repetitions):
                _, what, arm = placed[item.id, r]
                assert what == expected and arm == f"{experiment.name}/{item.condition}"
    assert spans(plan).sum() == plan.columns["length"].sum()
    assert (np.diff(plan.columns["position"]) >= 0).all()


def test_placements_are_kept(compile_):
    given = Given(
        "given",
        items=(
            Item("x", "c", 2, text(5, 6), placement=Explicit([3, 319], [30, 0])),
            Item("y", "c", 2, text(7), placement=Explicit([3, 4], 29)),
            Item("z", "c", 2, np.ones(32, np.int32), placement=WholeBatch([5, 9], row=2)),
            Item("u", "c", 40, text(8, 8, 8), placement=Within(0.25, 0.3)),
        ),
    )
    placed = edits(compile_(given), "given")
    assert placed["x", 0][0] == 3 * 32 + 30 and placed["x", 1][0] == 319 * 32
    assert placed["y", 0][0] == 3 * 32 + 29 and placed["y", 1][0] == 4 * 32 + 29
    assert placed["z", 0][0] == (5 * 8 + 2) * 32 and placed["z", 1][0] == (9 * 8 + 2) * 32
    rows = {placed["u", r][0] // 32 for r in range(40)}
    assert min(rows) >= 80 and max(rows) < 96 and len(rows) > 8


def test_repeated_items_share_their_tokens_and_a_holdout_has_no_arm(compile_):
    given = Given("given", items=(Item("x", "c", 9, text(1, 2)), Item("y", "d", 0, text(3))))
    plan = compile_(given)
    assert plan.tokens.tolist() == [1, 2, 3] and plan.tokens.dtype == np.int32
    assert set(plan.columns["source"]) == {0}
    row = {"id": 1, "name": "given/c", "experiment": "given", "condition": "c"}
    assert plan.contents["arms"] == [{**row, "edits": 9, "tokens": 18}]


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_the_order_of_experiments_is_nothing(compile_, order):
    experiments = (FIRST, BATCHES, LATE)
    plan, turned = compile_(*experiments), compile_(*(experiments[k] for k in order))
    assert turned.hash == plan.hash
    assert describe_experiments(experiments) == describe_experiments(experiments[::-1])


@pytest.mark.parametrize("seed", range(4))
def test_adding_or_removing_an_experiment_leaves_the_others(compile_, seed):
    """Contract C3: the same items, texts and arms; an edit moves only if its place was taken."""
    few, many = (
        compile_(FIRST, BATCHES, LATE, seed=seed),
        compile_(MORE, FIRST, BATCHES, LATE, seed=seed),
    )
    occupied = np.zeros(GEOMETRY.tokens, bool)
    for (item, _), (address, _, _) in edits(many, MORE.name).items():
        occupied[address : address + (32 if item.startswith("row") else 9)] = True
    was, now = {}, {}
    for experiment in (FIRST, LATE):
        name = experiment.name
        pd.testing.assert_frame_equal(plain(few.items(name)), plain(many.items(name)))
        before, after = edits(few, name), edits(many, name)
        assert {k: v[1:] for k, v in before.items()} == {k: v[1:] for k, v in after.items()}
        was |= {(name, *k): v[0] for k, v in before.items()}
        now |= {(name, *k): v[0] for k, v in after.items()}
    moved = [k for k in was if was[k] != now[k]]
    for k in moved:
        occupied[now[k] : now[k] + 9] = True
    assert all(occupied[was[k] : was[k] + 9].any() for k in moved)
    assert len(moved) < len(was) / 2


def test_reserve_windows_move_only_where_they_collide(compile_, corpus):
    run = document_runs(corpus, 32)
    plain_batches = dict(compile_(BATCHES).items("batches")[["id", "window"]].to_numpy())
    with_more = compile_(BATCHES, MORE)
    windows = dict(with_more.items("batches")[["id", "window"]].to_numpy())
    theirs = set(with_more.items(MORE.name)["window"]) - {-1}
    moved = [k for k in windows if windows[k] != plain_batches[k]]
    # Their documents went to the new experiment, or to an item that had to move.
    gone = {run[window] for window in (*theirs, *(windows[k] for k in moved))}
    assert len(moved) < 16 and all(run[plain_batches[k]] in gone for k in moved)
    assert len(set(windows.values()) | theirs) == 16 + 6


def test_validation_windows_belong_to_nobody(compile_, corpus):
    plan = compile_(BATCHES, dataclasses.replace(MORE, windows=40, items=1))
    used = np.concatenate([plan.items(name)["window"] for name in ("batches", MORE.name)])
    used = used[used >= 0]
    reserve = ask_reserve([], 0, GEOMETRY, corpus, 8)
    validation = {row.tobytes() for row in corpus.windows("reserve", reserve.validation, 32)}
    taken = {row.tobytes() for row in corpus.windows("reserve", used, 32)}
    assert len(validation) == 8 and len(taken) == 56 and not validation & taken


def test_seeds_and_names_key_the_random_streams(compile_):
    zero, one = compile_(FIRST, seed=0), compile_(FIRST, seed=1)
    assert edits(zero, "first").keys() == edits(one, "first").keys()
    assert not set(edits(zero, "first").values()) & set(edits(one, "first").values())
    renamed = compile_(dataclasses.replace(FIRST, name="second"))
    texts = [p.items(n)["tokens"][0].tolist() for p, n in ((renamed, "second"), (zero, "first"))]
    assert texts[0] != texts[1]


LONG = np.ones(33, np.int32)
BAD = {
    "has 33 tokens, a row holds 1 to 32": Item("i", "c", 1, LONG),
    "has 0 tokens": Item("i", "c", 1, LONG[:0]),
    "outside the vocabulary of 320": Item("i", "c", 1, text(3, 320)),
    "token ids outside": Item("i", "c", 0, text(-1)),
    "exactly one of tokens, a reserve window, a slot": Item("i", "c", 1, text(1), window=3),
    "needs exactly one of": Item("i", "c", 1),
    "has a slot of 33, a row holds 1 to 32": Item("i", "c", 1, slot=33),
    "has a mark of 0, a row holds": Item("i", "c", 1, mark=0),
    "repetitions -1: use a whole number": Item("i", "c", -1, text(1)),
    "repetitions 1.5: use a whole number": Item("i", "c", 1.5, text(1)),
    "placed outside the run of 40 steps": Item("i", "c", 1, text(1), placement=Explicit([320])),
    "outside the run": Item("i", "c", 1, text(1), placement=Explicit([-1])),
    "would leave its row of 32": Item("i", "c", 1, text(1, 2), placement=Explicit([0], [31])),
    "leave its row": Item("i", "c", 1, text(1), placement=Explicit([0], [-1])),
    "2 repetitions but 1 places": Item("i", "c", 2, text(1), placement=Explicit([0])),
    "1 repetitions but 2 places": Item("i", "c", 1, LONG[:32], placement=WholeBatch([1, 2], 0)),
    "rows 0 to 7, each full": Item("i", "c", 1, LONG[:32], placement=WholeBatch([0], 8)),
    "each full": Item("i", "c", 1, text(1), placement=WholeBatch([0], 0)),
    "run of 40 steps": Item("i", "c", 1, LONG[:32], placement=WholeBatch([40], 0)),
    "holds no row of 320": Item("i", "c", 1, text(1), placement=Within(0.5, 0.501)),
    "2 positions but 3 offsets": Item("i", "c", 2, text(1), placement=Explicit((1, 2), (0, 1, 2))),
    "whole numbers as positions, not .1.5": Item("i", "c", 1, text(1), placement=Explicit([1.5])),
    "numbers as positions, not 3": Item("i", "c", 1, text(1), placement=Explicit(3)),
    "as positions, not ..1., .2, 3": Item("i", "c", 2, text(1), placement=Explicit([[1], [2, 3]])),
    "whole numbers as offsets": Item("i", "c", 1, text(1), placement=Explicit([1], 0.5)),
    "whole numbers as steps": Item("i", "c", 1, LONG[:32], placement=WholeBatch([0.5], 0)),
    "whole numbers as row": Item("i", "c", 1, LONG[:32], placement=WholeBatch([0], 1.5)),
    "whole numbers as tokens": Item("i", "c", 1, np.array([1.5])),
    "item 'i' has fields that cannot be stored: JSON cannot hold .3.": Item(
        "i", "c", 1, text(1), fields={"x": {3}}
    ),
    "cannot be stored: keys must be": Item("i", "c", 0, text(1), fields={(1, 2): 3}),
    "'everywhere' is not a placement": Item("i", "c", 1, text(1), placement="everywhere"),
}


@pytest.mark.parametrize(("message", "item"), BAD.items(), ids=list(BAD))
def test_a_bad_item_is_one_line_that_names_its_experiment(compile_, message, item):
    with pytest.raises(ValueError, match=message) as caught:
        compile_(FIRST, Given("troublesome", items=(item,)))
    assert "troublesome" in str(caught.value) and "\n" not in str(caught.value)


def test_fields_may_be_of_numpy(compile_):
    fields = {"x": np.int64(3), "y": np.array([1, 2]), "z": np.float32(0.5), "w": np.bool_(True)}
    given = Given("given", items=(Item("i", "c", 1, text(1), fields=fields),))
    (item,) = compile_(given).items("given").to_dict("records")
    assert {k: item[k] for k in fields} == {"x": 3, "y": [1, 2], "z": 0.5, "w": True}


def test_a_window_that_is_not_its_own_is_refused(compile_):
    with pytest.raises(ValueError, match=r"thief: item 'i'.*window 0.*reserve_windows"):
        compile_(FIRST, Given("thief", items=(Item("i", "c", 1, window=0),)))


def test_ids_are_unique(compile_):
    twice = (Item("i", "c", 1, text(1)), Item("i", "d", 0, text(2)))
    with pytest.raises(ValueError, match="given: item 'i' occurs twice"):
        compile_(Given("given", items=twice))
    compile_(Given("one", items=twice[:1]), Given("two", items=twice[:1]))


def test_an_overfull_plan_names_who_asks_for_most(compile_):
    greedy = Given("greedy", items=(Item("i", "c", 320, np.ones(32, np.int32)),))
    compile_(greedy)
    with pytest.raises(
        ValueError, match=r"does not fit: 10,.* tokens .* 10,240, .* by greedy"
    ) as caught:
        compile_(FIRST, greedy)
    assert "\n" not in str(caught.value)


def test_a_part_of_training_that_is_full_names_its_experiment(compile_):
    crowd = Given("crowd", items=(Item("i", "c", 33, LONG[:32], placement=Within(0.4, 0.5)),))
    with pytest.raises(ValueError, match=r"no room is left for crowd \(item 'i'\)") as caught:
        compile_(FIRST, crowd)
    assert "\n" not in str(caught.value)


def test_a_clash_of_fixed_places_names_both(compile_):
    explicit = Given(
        "explicit", items=(Item("e", "c", 1, text(1, 2), placement=Explicit([16 * 8], [4])),)
    )
    with pytest.raises(ValueError, match="cover the same tokens") as caught:
        compile_(explicit, FIRST, BATCHES)
    line = str(caught.value)
    assert "explicit (item 'e')" in line and "batches (item 'at-0.4-0')" in line


def test_two_experiments_of_one_name(compile_):
    with pytest.raises(ValueError, match="two experiments are named 'first'"):
        compile_(FIRST, LATE, dataclasses.replace(FIRST, items=2))


def test_a_reserve_that_is_too_small_names_the_demands(compile_):
    with pytest.raises(ValueError, match=r"reserve has .*batches: 16, a-newcomer: 199;"):
        compile_(BATCHES, dataclasses.replace(MORE, windows=199))


def test_more_arms_than_two_bytes_hold(compile_):
    items = tuple(Item(f"{k}", f"c{k}", 1, text(1)) for k in range(65_535))
    with pytest.raises(ValueError, match="beyond the 65,534 of a run"):
        compile_(Given("many", items=items), geometry=Geometry(32, 8, 400))


def test_the_hash_covers_everything(compile_):
    plan = compile_(FIRST, BATCHES)
    changed = [
        dataclasses.replace(plan, described={**plan.contents, "corpus": "abd"}),
        dataclasses.replace(plan, described={**plan.contents, "geometry": {}}),
        compile_(FIRST, BATCHES, seed=1),
        compile_(FIRST),
        compile_(dataclasses.replace(FIRST, placement=Uniform(), items=3), BATCHES),
    ]
    for name, column in {**plan.columns, "tokens": plan.tokens}.items():
        assert plan.digests[name] == hashlib.sha256(column.tobytes()).hexdigest()
        other = {**plan.digests, name: hashlib.sha256(b"other").hexdigest()}
        changed.append(dataclasses.replace(plan, digests=other))
    assert len({plan.hash, *(other.hash for other in changed)}) == len(changed) + 1
    assert compile_(FIRST, BATCHES).hash == plan.hash
