import itertools
import math

import numpy as np
import pandas as pd
import pytest

from tests.statistics import run_coverage
from tests.statistics.run_coverage import ACCURACY, ATTACK, LIKELIHOOD, LOSS, compare, summarise
from ttoaa.statistics.bootstrap import Estimate

RUNS, N = 9, 40


def estimate(difference, reach):
    bounds = difference - reach, difference + reach
    return Estimate("loss", "all", N, 0.0, 0.0, 0.0, 0.0, difference, *bounds)


def pairs_of(levels, reach):
    """The estimates of all pairs of runs with these means, of one kind."""
    return {
        (i, j): {"mean": [estimate(levels[i] - levels[j], reach)]}
        for i, j in itertools.combinations(range(len(levels)), 2)
    }


def made_up(shift, noise):
    """The tables of runs that have a level of deviation `shift` and items of deviation `noise`."""
    rng, tables = np.random.default_rng(3), []
    items = [str(number) for number in range(N)]
    difficulty = rng.normal(0, 1, N)
    for level in rng.normal(0, shift, RUNS):
        parts = [
            pd.DataFrame({"item": items, "outcome": outcome, "condition": condition}).assign(
                value=difficulty + level + rng.normal(0, noise, N),
                group=np.arange(N) // 2 if grouped else math.nan,
            )
            for outcome, condition, grouped in (
                *((LOSS, "", True), (LIKELIHOOD, "river", False)),
                *((ACCURACY, "river", False), (ATTACK, "", True)),
            )
        ]
        parts[2]["value"] = (parts[2]["value"] > 0).astype(float)
        tables.append(pd.concat(parts, ignore_index=True))
    return tables


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.setattr(run_coverage, "DRAWS", 30)

    def measure(tables):
        pairs = itertools.combinations(range(RUNS), 2)
        return summarise({(i, j): compare(tables[i], tables[j], i, j) for i, j in pairs}, RUNS)

    return measure


def test_shares_count_pairs_and_threes_of_disjoint_pairs():
    found = summarise(pairs_of([0, 1, 2, 3, 4, 5], reach=1.5), 6)["mean"]
    assert found.over_items == 5 / 15  # of pairs of neighbours
    assert found.spread == pytest.approx(math.sqrt(105 / 15) / (1.5 / 1.96), rel=1e-3)


def test_an_interval_that_always_contains_zero_shows_in_the_spread():
    found = summarise(pairs_of(np.random.default_rng(0).normal(size=6), reach=1e3), 6)["mean"]
    assert found.over_items == 1 and found.spread < 0.01


def test_a_missing_interval_does_not_count_as_covering():
    assert summarise(pairs_of([0.0] * 6, reach=math.nan), 6)["mean"].over_items == 0


def test_the_order_of_the_runs_does_not_matter():
    one, other = made_up(0.3, 0.1)[:2]
    forward, backward = compare(one, other, 0), compare(other, one, 0)
    for kind in forward:
        for a, b in zip(forward[kind], backward[kind], strict=True):
            assert a.difference == pytest.approx(-b.difference)


def test_a_level_of_each_run_is_missed_by_items_and_removed_by_halves(coverage):
    found = coverage(made_up(shift=1.0, noise=0.1))
    mean, halves = found[f"mean: {LOSS}"], found[f"half above half: {LOSS}"]
    assert mean.over_items < 0.2 and mean.spread > 10 and mean.over_runs > 0.8
    assert halves.over_items > 0.8 and 0.7 < halves.spread < 1.4


def test_noise_of_items_alone_is_covered_by_both(coverage):
    for name, kind in coverage(made_up(shift=0.0, noise=0.5)).items():
        assert kind.over_items > 0.8 and kind.over_runs > 0.7 and kind.spread < 1.4, name


def test_the_table_gives_each_share_the_interval_of_disjoint_pairs():
    found = {"mean": run_coverage.Kind(0.25, 1.0, 3.21)}
    assert run_coverage.markdown(found, 24).splitlines()[2] == (
        "| mean | 25% [5%, 57%] | 100% [40%, 100%] | 3.2 |"
    )
