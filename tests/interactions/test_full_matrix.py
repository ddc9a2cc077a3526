"""Matrices of few seeds, as full training has them."""

import json

import numpy as np
import pytest
from interactions.effect_frames import effects

from ttoaa.interactions.comparison import agreement, compare_matrices
from ttoaa.interactions.full_matrix import measure_full, row_noise
from ttoaa.interactions.full_results import summarize_agreement, write_full
from ttoaa.interactions.matrix import EQUIVALENT, INTERACTS, UNDECIDED, measure

PLANTED = [("alone/e0", "e1", 3.0), ("run", "e2", -3.0)]


def few(**options):
    return effects(**{"seeds": 3, "n": 6, "control": options.get("noise", 0.2), **options})


def test_three_seeds_find_a_planted_effect_and_an_attenuation_and_nothing_else():
    matrix = measure_full(few(planted=PLANTED))
    found = {(c.row, c.minus, c.column): c.verdict for c in matrix.tested}
    lit = {place for place, verdict in found.items() if verdict == INTERACTS}
    assert lit == {("alone/e0", "control", "e1"), ("run", "alone/e2", "e2")}
    assert set(found.values()) == {INTERACTS, EQUIVALENT} and len(found) == 36
    with pytest.raises(ValueError, match="at least 6 seeds, not 3"):
        measure(few())


def test_estimates_are_mean_differences_of_the_named_runs():
    frame = few(planted=PLANTED)
    means = frame.groupby(["row", "experiment"])["estimate"].mean()
    matrix = measure_full(frame)
    assert len(matrix.cells) == 36 + 12
    for cell in matrix.cells:
        other = 0.0 if cell.minus == "control" else means[cell.minus, cell.column]
        assert cell.estimate == pytest.approx(means[cell.row, cell.column] - other)
        assert cell.items_high - cell.estimate >= cell.ci_high - cell.estimate > 0


def test_without_power_the_number_of_seeds_decides():
    matrix = measure_full(few(noise=1.2))
    undecided = [cell for cell in matrix.tested if cell.verdict == UNDECIDED]
    assert len(undecided) > 30 and not any(cell.powered for cell in undecided)
    needed = max(cell.seeds for cell in undecided)
    assert 3 < needed < 100
    many = measure_full(few(noise=1.2, seeds=needed, seed=1))
    assert np.mean([cell.verdict == EQUIVALENT for cell in many.tested]) > 0.75


def test_an_experiment_without_an_effect_of_its_own_has_no_equivalent_cells():
    """The trivial model that changes nothing."""
    matrix = measure_full(few(own=0.0, noise=0.01))
    assert {cell.verdict for cell in matrix.tested} == {UNDECIDED}


def test_a_run_with_more_noise_than_the_others_is_seen():
    frame = few(n=10)
    assert min(row_noise(frame).values()) > 0.3 and max(row_noise(frame).values()) < 2.5
    rows = frame["row"] == "alone/e3"
    frame.loc[rows, "estimate"] += np.random.default_rng(0).normal(0, 1.0, rows.sum())
    noise = row_noise(frame)
    assert max(noise, key=noise.get) == "alone/e3" and noise["alone/e3"] > 4


def test_agreement_with_bursts_is_counted_on_common_cells(tmp_path):
    frame = few(planted=PLANTED).assign(outcome="log_likelihood")
    (bursts,) = measure(effects(n=5, planted=PLANTED[:1]))
    primaries = {f"e{k}": "log_likelihood" for k in range(1, 6)} | {"e0": "accuracy"}
    found = write_full(tmp_path, frame, [bursts], primaries)[10]
    assert found.experiments == ("e0", "e1", "e2", "e3", "e4")
    assert found.confusion.loc[INTERACTS].tolist() == [1, 0, 0]
    assert found.confusion.loc[EQUIVALENT].tolist() == [1, 23, 0]
    same, kappa = agreement(found.confusion)
    assert same == pytest.approx(24 / 25) and 0.5 < kappa < 1
    assert found.powered.to_numpy().sum() <= 25 and found.correlation.n == 20
    line = summarize_agreement(10, found)
    assert line.startswith("bursts from step 10: same verdict in 96% (kappa") and "n = 20" in line

    value = json.loads((tmp_path / "dependence-full.json").read_text())
    assert len(value["full"]["cells"]) == 48 and value["outcomes"]["e0"] == "log_likelihood"
    (compared,) = value["bursts"]
    assert compared["checkpoint"] == 10 and compared["all"]["confusion"][INTERACTS][INTERACTS] == 1
    text = (tmp_path / "dependence-full.md").read_text()
    assert "- `e0` is measured by `log_likelihood`" in text and "not compared: `e5`" in text
    assert "| interacts | 1 (" in text and "| alone/e0 → e1 |" in text


def test_bursts_that_call_every_cell_equivalent_agree_as_often_by_chance():
    full = measure_full(few(n=3, planted=[("alone/e0", "e1", 3.0)]))
    (blind,) = measure(effects(n=3))
    found = compare_matrices(blind, full)
    same, kappa = agreement(found.confusion)
    assert same == pytest.approx(8 / 9) and kappa == pytest.approx(0.0)
    assert found.correlation is None, "three experiments are too few"
    names = {"e0": "a", "e1": "b", "alone/e0": "alone/a", "alone/e1": "alone/b"}
    (other,) = measure(effects(n=2).replace(names))
    with pytest.raises(ValueError, match="no cell of a, b is one of e0"):
        compare_matrices(other, full)
