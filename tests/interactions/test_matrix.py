import itertools
import json
import math

import numpy as np
import pytest
from interactions.effect_frames import effects
from matplotlib.figure import Figure
from scipy import stats

from ttoaa.interactions.figure import format_effect, paint
from ttoaa.interactions.matrix import (
    EQUIVALENT,
    INTERACTS,
    UNDECIDED,
    family_places,
    measure,
)
from ttoaa.interactions.results import matrix_json, read_matrices, write


def one(frame, **options):
    (matrix,) = measure(frame, **options)
    return matrix


def test_p_values_are_westfall_and_youngs_over_all_sign_flips():
    """Written out: every flip of every seed, one cell after the other."""
    matrix = one(effects(seeds=7, n=3, planted=[("alone/e0", "e1", 0.4), ("run", "e2", -0.3)]))
    frame = effects(seeds=7, n=3, planted=[("alone/e0", "e1", 0.4), ("run", "e2", -0.3)])
    values = frame.pivot(index="seed", columns=["row", "experiment"], values="estimate")
    pairs = [(r, j) for r in range(3) for j in range(3) if r != j]
    x = [values[f"alone/e{r}", f"e{j}"] for r, j in pairs]
    x += [values["run", f"e{j}"] - values[f"alone/e{j}", f"e{j}"] for j in range(3)]
    x = np.stack(x, 1)
    flips = [np.array(s)[:, None] * x for s in itertools.product([1, -1], repeat=7)]
    t_FxK = np.abs([stats.ttest_1samp(flip, 0).statistic for flip in flips])
    order, worst, expected = np.argsort(-t_FxK[0]), 0.0, np.empty(9)
    for rank, k in enumerate(order):
        reached = t_FxK[:, order[rank:]].max(1) >= t_FxK[0, k] - 1e-9
        worst = max(worst, reached.mean())
        expected[k] = worst
    np.testing.assert_allclose([cell.p for cell in matrix.tested], expected)
    t_p = stats.ttest_1samp(x, 0).pvalue
    stepped = np.maximum.accumulate(np.sort(t_p) * np.arange(9, 0, -1)).clip(max=1)
    holm = stepped[np.argsort(np.argsort(t_p))]
    np.testing.assert_allclose([cell.p_holm for cell in matrix.tested], holm)
    intervals = stats.ttest_1samp(x, 0).confidence_interval()
    np.testing.assert_allclose([cell.ci_low for cell in matrix.tested], intervals.low)


def test_a_planted_effect_and_an_attenuation_light_up_and_nothing_else():
    planted = [("alone/e0", "e1", 3.0), ("run", "e2", -3.0)]
    matrix = one(effects(planted=planted))
    found = {(c.row, c.minus, c.column): c.verdict for c in matrix.tested}
    lit = {place for place, verdict in found.items() if verdict == INTERACTS}
    assert lit == {("alone/e0", "control", "e1"), ("run", "alone/e2", "e2")}
    assert set(found.values()) == {INTERACTS, EQUIVALENT}
    assert matrix.find("run", "e2").verdict is None, "the contrast is tested, not the row"


def test_without_power_nothing_is_called_equivalent():
    matrix = one(effects(noise=5.0))
    assert {cell.verdict for cell in matrix.tested} == {UNDECIDED}
    assert all(cell.seeds is None or cell.seeds > 8 for cell in matrix.tested)
    assert not any(cell.powered for cell in matrix.tested)


def test_an_experiment_without_an_effect_of_its_own_has_no_equivalent_cells():
    """The trivial model that changes nothing: the paper would read independence."""
    matrix = one(effects(own=0.0, noise=0.01))
    assert EQUIVALENT not in {cell.verdict for cell in matrix.tested}


def test_the_number_of_seeds_decides():
    few = one(effects(seeds=8, noise=0.8, seed=3))
    undecided = [cell for cell in few.tested if cell.verdict == UNDECIDED]
    needed = max(cell.seeds for cell in undecided)
    assert 8 < needed < 60
    many = one(effects(seeds=needed, noise=0.8, seed=4))
    decided = [cell.verdict == EQUIVALENT for cell in many.tested]
    assert np.mean(decided) > 0.75


def test_rows_without_one_experiment_join_the_family():
    assert len(family_places("abc")) == 9 and len(family_places("abc", "a")) == 11
    frame = effects(without=["e0"], planted=[("without/e0", "e3", 4.0)])
    lit = [c for c in one(frame).tested if c.verdict == INTERACTS]
    assert [(c.row, c.minus, c.column) for c in lit] == [("run", "without/e0", "e3")]


def test_a_column_without_an_own_effect_has_no_shares_and_no_colours():
    matrix = one(effects(planted=[(run, "e3", -5.0) for run in ("alone/e3", "run")]))
    assert np.isnan(matrix.find("alone/e0", "e3").share)
    assert abs(matrix.find("alone/e0", "e2").share) < 0.1
    axes = Figure().add_subplot()
    paint(matrix, axes)
    fills = np.array([patch.get_facecolor() for patch in axes.patches]).reshape(5, 4, 4)
    assert np.ptp(fills[:, 3], axis=0).max() == 0 and (np.ptp(fills[:, 2], axis=0)[:3] > 0.1).all()


def test_the_interval_over_items_adds_in_squares():
    cell = one(effects()).find("alone/e0", "e1")
    reach = math.hypot(cell.ci_high - cell.estimate, 0.3)
    assert cell.items_high - cell.estimate == pytest.approx(reach)


def test_few_seeds_missing_and_repeated_effects_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"at least 6 seeds, not 5: .* below 2/2\^5 = 0.0625"):
        measure(effects(seeds=5))
    whole = effects()
    with pytest.raises(ValueError, match="seed 0: the effect of alone/e0 on e1 is missing"):
        measure(whole.drop(index=1))
    with pytest.raises(ValueError, match="alone/e0 on e1 occurs twice"):
        measure(whole.loc[[0, 1, *whole.index[1:]]])
    with pytest.raises(ValueError, match="margin"):
        measure(whole, margin=20.0)


def test_files_have_every_cell_verdicts_and_the_published_matrix(tmp_path):
    frame = effects(n=3, planted=[("alone/e0", "e1", 3.0)])
    write(tmp_path, frame, untestable={"gone": "r"}, classes={"e2": "GaussianWatermark"})
    value = json.loads((tmp_path / "dependence.json").read_text())
    (matrix,) = value["matrices"]
    assert len(matrix["cells"]) == 9 + 6 and matrix["smallest_p"] == 2 / 2**8
    assert matrix["verdicts"] == {INTERACTS: 1, EQUIVALENT: 8, UNDECIDED: 0}
    (published,) = value["published"]
    assert (published["paper_alone"], published["paper_together"]) == (7.3, 1.6)
    text = (tmp_path / "dependence.md").read_text()
    assert "●" in text and "| alone/e0 → e1 |" in text
    assert "- `gone`: not testable by continual training. r" in text
    assert (tmp_path / "dependence-10.png").stat().st_size > 1000
    (read,), untestable = read_matrices(tmp_path)
    assert matrix_json(read) == matrix_json(one(frame)) and untestable == ("gone",)


def test_an_effect_is_shown_with_two_digits_and_rounding_errors_as_zero():
    shown = [format_effect(value) for value in (2.8e-17, -0.0, 0.0034, -0.051, 17.3, -123.4)]
    assert shown == ["0", "0", "+0.0034", "-0.051", "+17", "-123"]
