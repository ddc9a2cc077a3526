import numpy as np
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.context import ask_reserve, describe_experiments, intervene, make_worlds
from ttoaa.experiments.rehearsal import Rehearsal
from ttoaa.identity import canonical
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.placement import Within

GEOMETRY = Geometry(length=32, batch=8, steps=40)


@pytest.fixture
def plan(corpus):
    def plan(*experiments):
        reserve = ask_reserve(experiments, 0, GEOMETRY, corpus, 8)
        worlds = make_worlds(experiments, 0, GEOMETRY, corpus, reserve)
        given = intervene(experiments, worlds)
        return compile_plan(given, GEOMETRY, corpus.vocab_size, {"seed": 0})

    return plan


def test_it_has_the_shape_that_it_is_given(plan):
    texts = Rehearsal(
        "texts",
        groups={"holdout": (5, 0), "late": (4, 3), "any": (7, 2)},
        lengths=(3, 6),
        placements={"late": Within(0.5, 1.0)},
    )
    made = plan(
        texts,
        Rehearsal("slots", kind="slot", groups={"s": (2, 10)}, lengths=(4, 4)),
        Rehearsal("rows", kind="window", groups={"r": (3, 2)}, occurrences=7),
        Rehearsal("marks", kind="mark", groups={"m": (16, 1)}, lengths=(32, 32), batches=(5, 20)),
    )
    assert [(a["name"], a["edits"]) for a in made.arms] == [
        ("marks/m", 16), ("rows/r", 6), ("slots/s", 20), ("texts/late", 12), ("texts/any", 14)
    ]  # fmt: skip
    table = made.items("texts")
    sizes = table["tokens"].map(len)
    assert len(table) == 16 and sizes.between(3, 6).all() and sizes.nunique() > 1
    assert table["condition"].tolist() == ["holdout"] * 5 + ["late"] * 4 + ["any"] * 7
    arm, position = made.columns["arm"], made.columns["position"]
    assert position[arm == 4].min() >= 160
    assert sorted(position[arm == 1]) == [*range(40, 48), *range(200, 208)]
    assert len(set(made.columns["source"][arm == 2])) == 3 and (arm == 2).sum() == 6
    assert (made.columns["offset"][arm == 2] == 0).all()


def test_its_items_are_its_own(plan):
    one = Rehearsal("one", groups={"a": (3, 1)}, lengths=(4, 20))
    other = Rehearsal("other", groups={"a": (3, 1)}, lengths=(4, 20))
    alone, both = plan(one).items("one"), plan(other, one)
    assert (
        np.concatenate(alone["tokens"]).tolist()
        == np.concatenate(both.items("one")["tokens"]).tolist()
    )
    assert both.items("other")["tokens"][0].tolist() != alone["tokens"][0].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placements": {"a": Within(0, 1)}}, "x: placements has 'a', which is not a group"),
        ({"lengths": (5, 4)}, r"x: lengths must be \(fewest, most\)"),
    ],
)
def test_what_it_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        Rehearsal("x", **changes)


def test_more_occurrences_than_rows_are_named(plan):
    with pytest.raises(ValueError, match="x: 321 occurrences in a run of 320 rows: lower them"):
        plan(Rehearsal("x", groups={"a": (1, 1)}, lengths=(4, 20), occurrences=321))


def test_a_remembered_config_has_its_mappings_in_another_order_and_is_the_same():
    groups = {"x": (20, 5), "out": (5, 0)}
    given = Rehearsal("a", groups=groups)
    remembered = Rehearsal("a", groups=dict(sorted(groups.items())))
    other = Rehearsal("a", groups={"x": (5, 0), "out": (20, 5)})
    described = [canonical(describe_experiments([each])) for each in (given, remembered, other)]
    assert described[0] == described[1] != described[2]
