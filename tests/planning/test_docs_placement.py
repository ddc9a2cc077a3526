"""The placements of docs/extending/placement.md work as third-party code, from a config too."""

import pathlib
import re
import sys
import types

import gin
import numpy as np
import pytest

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.items import Intervention, Item, Items
from ttoaa.planning.placement import Candidates, Parts, RandomPlacement

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/extending/placement.md").read_text(encoding="utf-8")
GEOMETRY = Geometry(length=32, batch=8, steps=40)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def guide():
    """The guide's module, importable as a config imports it."""
    module = types.ModuleType("my_placements")
    with pytest.MonkeyPatch.context() as patch, gin.unlock_config():
        patch.setitem(sys.modules, "my_placements", module)
        exec(compile(blocks("python")[0], "my_placements.py", "exec"), module.__dict__)
        yield module


def rows(*items):
    """int64[edits] rows of the training order, copy by copy, item by item."""
    given = {"mine": Intervention(items, np.empty(0, np.int64))}
    columns = compile_plan(given, GEOMETRY, 320, {"seed": 3}).columns
    return columns["position"][np.lexsort([columns["repetition"], columns["item"]])]


def item(placement, repetitions=1, name="i", length=5):
    return Item(name, "c", repetitions, np.arange(length), placement=placement)


def test_the_guides_test_passes(guide):
    namespace = {}
    exec(compile(blocks("python")[1], "test_my_placements.py", "exec"), namespace)
    namespace["test_copies_become_rarer"]()


def test_copies_are_dealt_to_parts(guide):
    edges = guide.Widening(4).regions(GEOMETRY).edges
    assert edges.tolist() == [0, 21, 64, 149, 320]
    found = rows(item(guide.Widening(4), 40))
    for repetition, row in enumerate(found.tolist()):
        assert edges[repetition % 4] <= row < edges[repetition % 4 + 1]


def test_fixed_addresses_are_those_of_every_item_of_a_block(guide):
    placement = guide.Every(3, first=2, row=1)
    assert rows(item(placement, 3)).tolist() == [17, 41, 65]
    block = Items(["p", "q"], "c", np.array([2, 1]), marks=4, placement=guide.Every(5))
    with pytest.raises(ValueError, match="cover the same tokens for mine"):
        rows(block)
    with pytest.raises(ValueError, match="mine: item 'i' is placed outside the run of 40 steps"):
        rows(item(guide.Every(30), 3))


def test_a_config_binds_it(guide, tmp_path):
    text = blocks("gin")[0].replace("'quickstart.gin'", f"'{ROOT / 'configs/quickstart.gin'}'")
    (tmp_path / "study.gin").write_text(text)
    study = config.load([tmp_path / "study.gin"], ())[0]
    assert study.experiments[0].placement == guide.Widening(5)


class Blocks(RandomPlacement):
    """Hashable by identity, and in blocks."""

    def regions(self, geometry):
        return Parts([0, 100, geometry.sequences], in_blocks=True)


class First(RandomPlacement):
    def regions(self, geometry):
        return Candidates([4, 5, 6], [0, 0, 30])


def test_parts_in_blocks_and_candidates():
    assert (rows(item(Blocks(), 6)) < 100).tolist() == [True] * 3 + [False] * 3
    with pytest.raises(ValueError, match=r"mine: item 'i': .* makes 2 intervals"):
        rows(item(Blocks(), 5))
    one = First()
    assert sorted(rows(item(one), item(one, name="j")).tolist()) == [4, 5]
    with pytest.raises(ValueError, match=r"4 copies need a place each, .* offers 3 places"):
        rows(item(one, 2), item(one, 2, name="j"))


def wrong(edges):
    class Wrong(RandomPlacement):
        def regions(self, geometry):
            if edges is None:
                raise ValueError("needs more rows")
            return Parts(edges)

    return Wrong()


class Unhashable(Blocks):
    __hash__ = None


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (wrong([0, 321]), "leaves the run of 320 rows"),
        (wrong([-1, 5]), "leaves the run of 320 rows"),
        (wrong([5]), "holds no row of 320"),
        (wrong([5, 5]), "holds no row of 320"),
        (wrong([0, 0.5]), "whole numbers as edges"),
        (wrong(None), "needs more rows"),
        (Unhashable(), "Unhashable cannot be hashed .* frozen dataclass"),
        ("everywhere", "'everywhere' is not a placement: subclass RandomPlacement"),
    ],
)
def test_a_placement_that_does_not_work_is_one_line(placement, message):
    with pytest.raises(ValueError, match=f"^mine: item 'i'.*{message}") as caught:
        rows(item(placement))
    assert "\n" not in str(caught.value)
