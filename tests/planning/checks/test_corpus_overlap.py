"""N-grams of items in the windows that are trained on, against sets of tuples."""

import dataclasses

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order
from ttoaa.planning.checks.corpus_overlap import by_condition, findings, overlap, table
from ttoaa.planning.checks.item_texts import ItemTexts
from ttoaa.planning.items import Item

GEOMETRIES = {"three epochs": Geometry(32, 8, 40), "a part of one": Geometry(32, 8, 5)}


@dataclasses.dataclass(frozen=True)
class Parts(Planted):
    """Stretches of windows of the corpus, whole and with changed tokens, and two reserve rows."""

    windows: int = 2

    def intervene(self, world):
        rng = np.random.default_rng(7)
        for number, text in enumerate(TEXTS):
            text = text.copy()
            for place in rng.integers(0, len(text), number % 3):
                text[place] = 319
            yield Item(f"part-{number}", f"c{number % 4}", number % 2, tokens=text)
        for i, window in enumerate(world.windows):
            yield Item(f"row-{i}", "rows", 1, window=int(window))
        yield Item("inserted-row", "c0", 0, tokens=world.reserve_NxL[0, 3:25].copy())


TEXTS = []


@pytest.fixture(scope="module", params=GEOMETRIES)
def planned(request, plan_of, corpus):
    rng = np.random.default_rng(5)
    TEXTS[:] = []
    for number in range(40):
        split = "reserve" if number % 5 == 4 else "train"
        window = rng.integers(corpus.num_windows(split, 32))
        row = corpus.windows(split, np.array([window]), 32)[0]
        first = rng.integers(0, 10)
        TEXTS.append(row[first : first + rng.integers(3, 22)])
    plan = plan_of([Parts("parts")], geometry=GEOMETRIES[request.param])
    return plan, ItemTexts.of_plan(plan, corpus.eos_id)


def ngrams(tokens, n):
    return [tuple(tokens[i : i + n].tolist()) for i in range(len(tokens) - n + 1)]


def by_hand(plan, corpus, text, n, stride=1):
    """(looked for, found, times) of one text."""
    columns = plan.columns
    order = Order(**plan.contents["order"])
    replaced = set(columns["position"][columns["kind"] == 1].tolist())
    rows = [p for p in range(plan.geometry.sequences) if p not in replaced]
    windows = set(order.windows(np.array(rows)).tolist())
    rows = list(corpus.windows("train", np.array(sorted(windows)), 32))
    inserted = sorted(set(columns["source"][columns["kind"] == 1].tolist()))
    rows += list(corpus.windows("reserve", np.array(inserted), 32))
    n = min(n, len(text))
    there = [gram for row in rows for gram in ngrams(row, n)]
    grams = ngrams(text, n)[::stride] if len(text) >= 5 else []
    times = [there.count(gram) for gram in grams]
    return len(grams), sum(t > 0 for t in times), sum(times)


def test_shares_are_those_of_sets(planned, corpus):
    plan, texts = planned
    found = overlap(corpus, plan, texts, 13, 1 << 20)
    expected = [by_hand(plan, corpus, texts.text(i), 13) for i in range(len(texts))]
    assert list(
        zip(*(a.tolist() for a in (found.searched, found.found, found.times)), strict=True)
    ) == (expected)
    assert (
        0 < (found.share == 1).sum() < len(texts) and ((found.share > 0) & (found.share < 1)).any()
    )
    ids = texts.ids.to_pylist()
    assert found.share[ids.index("inserted-row")] == 1  # of the reserve, and inserted by the plan


def test_a_limit_takes_every_second_ngram_of_each(planned, corpus):
    plan, texts = planned
    every = int(np.maximum(texts.length - 12, 1).sum())
    found = overlap(corpus, plan, texts, 13, -(-every // 2))
    expected = [by_hand(plan, corpus, texts.text(i), 13, stride=2) for i in range(len(texts))]
    assert found.searched.tolist() == [looked for looked, _, _ in expected]
    assert found.found.tolist() == [found for _, found, _ in expected]


def test_a_run_that_is_shorter_than_the_corpus_is_asked_for_its_own_windows(corpus, plan_of):
    windows = Order(0, corpus.num_windows("train", 32)).windows(np.arange(139))
    rows = [
        corpus.windows("train", windows[[p]], 32)[0] for p in (39, 40)
    ]  # the last, and one more
    items = tuple(Item(f"r{i}", "c", 0, tokens=row) for i, row in enumerate(rows))
    plan = plan_of([Given("given", items=items)], geometry=GEOMETRIES["a part of one"])
    found = overlap(corpus, plan, ItemTexts.of_plan(plan, corpus.eos_id), 13, 1 << 20)
    assert found.share[0] == 1 and found.share[1] < 1


def test_rows_by_condition_name_the_worst_items(planned, corpus):
    plan, texts = planned
    found = overlap(corpus, plan, texts, 13, 1 << 20)
    rows = by_condition(found, 0.8, worst=2)
    conditions = np.array(texts.conditions.to_pylist())
    assert [row["condition"] for row in rows] == sorted(set(conditions))
    for row in rows:
        mine = conditions == row["condition"]
        told = mine & (found.searched > 0)
        assert (row["items"], row["too_short"]) == (mine.sum(), (mine & ~told).sum())
        assert row["items_covered"] == (found.share[told] >= 0.8).sum()
        assert row["items_with_any"] == (found.found[told] > 0).sum()
        assert np.isclose(row["mean_share"], found.share[told].mean())
        shares = np.sort(found.share[told])[::-1][:2]
        assert [w["share"] for w in row["worst"]] == [round(s, 4) for s in shares if s]
    told = findings(rows, 13, 0.8)
    assert [f.items for f in told] == [r["items_covered"] for r in rows if r["items_covered"]]
    assert all(f.severity == "warning" and f.check == "overlap" for f in told)
    assert f"parts/{rows[0]['condition']} " in table(rows, 13)
