import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa.experiments.contamination import Contamination


def contamination(**changes):
    fields = {
        "name": "bc",
        "primary": "accuracy_above_holdout/144x",
        "expected_sign": 1,
        "groups": ((0, 40), (4, 20), (144, 8)),
    }
    return Contamination(**(fields | changes))


def table(values):
    rows = [
        (f"{c}-{i}", c, outcome, v)
        for outcome in ("accuracy", "gold_log_likelihood")
        for c, group in values.items()
        for i, v in enumerate(group)
    ]
    return pd.DataFrame(rows, columns=["item", "condition", "outcome", "value"])


RUN = {"0x": [0, 1, 0, 0], "4x": [1, 0], "144x": [1, 1]}
CONTROL = {"0x": [0, 0, 0, 0], "4x": [1, 0], "144x": [0, 1]}


def test_estimates_by_hand():
    experiment = contamination()
    control = table(CONTROL).sample(frac=1, random_state=0)
    found = {(e.outcome, e.condition): e for e in experiment.estimates(table(RUN), control)}
    assert len(found) == 6 + 4 + 1
    mean = found["accuracy", "144x"]
    assert (mean.value, mean.control_value, mean.difference, mean.n) == (1.0, 0.5, 0.5, 2)
    above = found["accuracy_above_holdout", "144x"]
    assert (above.value, above.control_value) == (0.75, 0.5)
    assert above.difference == pytest.approx(0.25)
    assert above.groups == 2 and math.isnan(above.difference_ci_low), "too few for an interval"
    above = found["gold_log_likelihood_above_holdout", "4x"]
    assert (above.value, above.control_value, above.difference) == (0.25, 0.5, -0.25)
    reversed_sign = contamination(expected_sign=-1).estimates(table(RUN), control)
    flipped = {(e.outcome, e.condition): e.difference for e in reversed_sign}
    assert flipped["accuracy_above_holdout", "144x"] == pytest.approx(-0.25)
    assert flipped["accuracy", "144x"] == 0.5


@pytest.mark.parametrize("easier", [0.0, 0.3])
def test_models_that_saw_no_question_do_not_pass(easier):
    """One is better at all questions; `easier`: a group happens to be easy, for both runs."""
    hard = {"0x": np.linspace(0, 1, 300), "4x": np.linspace(0, 1, 60)}
    hard["144x"] = np.linspace(0, 1, 30) - easier
    control, run = (
        table({c: (h < skill).astype(float) for c, h in hard.items()})
        for skill in ((0.3, 0.6) if not easier else (0.5, 0.5))
    )
    found = {(e.outcome, e.condition): e for e in contamination().estimates(run, control)}
    above = found["accuracy_above_holdout", "144x"]
    assert above.difference_ci_low <= 0 <= above.difference_ci_high
    assert above.difference == pytest.approx(0, abs=0.05)
    if easier:
        assert above.value > 0.2  # the accuracy of the run alone passes
    else:
        assert found["accuracy", "144x"].difference_ci_low > 0.1  # as does the plain difference


def test_the_placebo_compares_two_halves_of_the_holdout_whatever_was_inserted():
    experiment = contamination()
    bits = {"0x": 2.0 ** np.arange(12), "4x": [1, 0], "144x": [1, 1]}
    zeros = {condition: np.zeros(len(values)) for condition, values in bits.items()}

    def placebo(run, control):
        found = {f"{e.outcome}/{e.condition}": e for e in experiment.estimates(run, control)}
        return found[experiment.placebo]

    one = placebo(table(bits), table(zeros))
    first = int((6 * one.difference + 2**12 - 1) / 2)  # which items are in the first half
    assert first.bit_count() == 6 and one.n == 12
    assert 0b000000111111 != first != 0b010101010101, "the order of questions decides nothing"
    assert placebo(table(bits | {"4x": [5, 5]}), table(zeros).iloc[::-1]) == one
    level = placebo(table({c: np.add(v, 0.3) for c, v in zeros.items()}), table(zeros))
    assert level.difference == pytest.approx(0), "what all questions gain is no difference"
    assert contamination(groups=((0, 1), (4, 1)), primary="accuracy/4x").placebo == ""


def test_figure_shows_the_final_step_of_every_seed(final_table):
    experiment = contamination()
    axes = Figure().subplots()
    estimates = final_table(experiment.estimates(table(RUN), table(CONTROL)))
    experiment.figure(estimates, axes)
    drawn = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_allclose(drawn["seed 0"], [-25, 25])
    assert set(drawn) == {"seed 0", "seed 1", "holdout"}
    assert [t.get_text() for t in axes.get_xticklabels()] == ["4×", "144×"]


def test_gains_by_benchmark_are_those_of_its_own_questions():
    run, control = (
        table(values).assign(benchmark=lambda t: t["item"].str[-1].map({"0": "a"}).fillna("b"))
        for values in (RUN, CONTROL)
    )
    experiment = contamination(by_benchmark=True)
    found = {(e.outcome, e.condition): e for e in experiment.estimates(run, control)}
    first = found["accuracy_above_holdout", "144x/a"]
    assert (first.value, first.control_value, first.n) == (1.0, 0.0, 2)
    second = found["accuracy_above_holdout", "144x/b"]
    assert (second.value, second.control_value) == pytest.approx((1 - 1 / 3, 1.0))
    assert len(found) == 11 + 8
    only_a = run[(run["benchmark"] == "a") | (run["condition"] == "0x")]
    kept = control[control["item"].isin(only_a["item"])]
    names = {e.condition for e in experiment.estimates(only_a, kept)}
    assert {"4x/a", "144x/a"} <= names and "4x/b" not in names


def test_the_curve_shows_every_step_of_every_seed(final_table):
    experiment = contamination(curve=True)
    axes = Figure().subplots()
    experiment.figure(final_table(experiment.estimates(table(RUN), table(CONTROL))), axes)
    drawn = [(line.get_label(), line.get_xdata(), line.get_ydata()) for line in axes.get_lines()]
    assert [label for label, *_ in drawn if not label.startswith("_")] == ["4×", "144×", "holdout"]
    gains = (-0.25, -0.25, 0.25, 0.25)  # of 4x and of 144x, for two seeds each
    for (_, x, y), gain in zip(drawn[:4], gains, strict=True):
        assert list(x) == [50, 100] and y == pytest.approx([gain] * 2)
