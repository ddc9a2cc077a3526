"""The benchmark of bursts makes the same rows on both sides."""

import time

import pytest

from tests.performance import dependence


def test_both_sides_make_all_rows():
    made = []

    def make(name, rows):
        made.append((name, list(rows)))
        time.sleep(0.05 + 0.01 * len(rows))

    found = dependence.measure(make, ["control", "run", "alone/a"])
    assert made[1:] == [
        ("one", ["control", "run", "alone/a"]),
        *(("each", [row]) for row in ("control", "run", "alone/a")),
    ]
    assert found["rows"] == 3 and found["ratio"] == pytest.approx(0.08 / 0.18, rel=0.3)
