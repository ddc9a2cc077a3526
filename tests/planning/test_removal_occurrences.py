import numpy as np
import pytest
from fakes import Given

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.ngram_search import Patterns
from ttoaa.data.order import Order
from ttoaa.planning.items import Item
from ttoaa.planning.plan import Plan
from ttoaa.planning.removal import at_occurrences, scan_run

GEOMETRY = Geometry(length=32, batch=8, steps=40)


def expected(corpus, order, grams, where):
    """{(position, offset)} by plain Python over the rows of the run."""
    found = set()
    for position in range(GEOMETRY.sequences):
        window = order.windows(np.array([position]))
        row = corpus.windows("train", window, 32)[0].tolist()
        for gram in grams:
            for i in range(33 - len(gram)):
                if row[i : i + len(gram)] == gram:
                    offset = {"after": i + len(gram), "over": i, "row": 0}[where]
                    if offset < 32:
                        found.add((position, offset))
    return found


@pytest.fixture(scope="module")
def corpus(make_workdir):
    """A copy, in which scans are kept."""
    return Corpus.open(make_workdir().corpus)


@pytest.fixture(scope="module")
def grams(corpus):
    row = corpus.windows("train", np.array([7]), 32)[0].tolist()
    return [row[3:5], row[20:23], row[30:32], [318, 318]]


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("where", ["after", "over", "row"])
def test_places_are_those_of_the_rows(corpus, grams, where, in_order):
    order = Order(0, 139, in_order)
    placement = at_occurrences([np.array(g) for g in grams], corpus, order, GEOMETRY, where)
    places = list(zip(placement.positions.tolist(), placement.offsets.tolist(), strict=True))
    assert len(places) == len(set(places))
    assert set(places) == expected(corpus, order, grams, where) and len(places) > 20
    assert max(placement.positions) >= 278


def test_of_windows_in_the_order_of_a_file_those_in_use_are_scanned(corpus, grams):
    patterns = Patterns([np.array(g) for g in grams])
    short = Geometry(length=32, batch=8, steps=5)
    found = scan_run(corpus, Order(0, 139, True), short, patterns)
    every = scan_run(corpus, Order(0, 139), short, patterns)
    assert 0 < len(found.where) < len(every.where)
    assert found.where.tolist() == [w for w in every.where.tolist() if w < 40 * 32]


def test_an_item_goes_where_the_world_says(corpus, plan_of, grams):
    class There(Given):
        def intervene(self, world):
            places = world.at([np.array(grams[0])], "after")
            yield Item("x", "c", 5, np.array([1, 2, 3]), placement=places)

    plan = plan_of((There("there"),))
    position, offset = plan.columns["position"], plan.columns["offset"]
    placed = set(zip(position.tolist(), offset.tolist(), strict=True))
    assert len(placed) == 5
    assert placed <= expected(corpus, Order(0, 139), grams[:1], "after")
    assert isinstance(plan, Plan)


def test_another_where_is_refused(corpus, grams):
    with pytest.raises(ValueError, match=r"`where` must be one of .* not 'before'"):
        at_occurrences([np.array(grams[0])], corpus, Order(0, 139), GEOMETRY, "before")
