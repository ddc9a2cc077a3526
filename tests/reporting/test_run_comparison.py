"""Synthetic runs that are equal to the control run, differ a little or a lot, or are noisier."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from reporting.synthetic import make_study

from ttoaa.config_fields import FieldError
from ttoaa.experiments.contamination import Contamination
from ttoaa.reporting import page
from ttoaa.reporting.figures import losses
from ttoaa.reporting.run_comparison import compare_runs, differences, summarise
from ttoaa.statistics.run_equivalence import (
    DIFFERS,
    EQUIVALENT,
    UNRESOLVED,
    RunComparison,
    band_half_width,
    compare_seeds,
)
from ttoaa.training.metrics import layer_group_norms
from ttoaa.workdir import Workdir, write_text

STEPS, MARGIN = 100, 0.05
RULE = RunComparison({"loss": MARGIN})


def measured(shift, noise=0.004, seeds=5, run="run", quantity="loss", key=0):
    """The control's values, and those of a run with a shift for all seeds and noise for each."""
    rng = np.random.default_rng(key)
    tables = []
    for seed in range(seeds):
        control = 3 + 4 / np.arange(1, STEPS + 1) ** 0.5 + rng.normal(0, 0.2, STEPS)
        other = control + shift + rng.normal(0, noise) + rng.normal(0, noise, STEPS)
        for name, value in (("control", control), (run, other)):
            columns = {"run": name, "seed": seed, "step": range(1, STEPS + 1), "value": value}
            tables.append(pd.DataFrame(columns).assign(quantity=quantity))
    return pd.concat(tables)


def judged(table, rule=RULE):
    return {row["run"]: row for row in summarise(differences(table), rule, STEPS)}


def test_a_run_is_judged_by_the_size_of_its_difference():
    assert judged(measured(0.0))["run"]["verdict"] == EQUIVALENT
    assert judged(measured(0.02))["run"]["verdict"] == EQUIVALENT
    assert judged(measured(MARGIN))["run"]["verdict"] == UNRESOLVED
    for shift in (0.15, -0.15):
        row = judged(measured(shift))["run"]
        assert row["verdict"] == DIFFERS
        assert row["difference"] == pytest.approx(shift, abs=0.01)


def test_noisier_runs_are_not_called_different_and_few_seeds_prove_nothing():
    assert judged(measured(0.0, noise=0.2))["run"]["verdict"] == UNRESOLVED
    row = judged(measured(0.0, seeds=1))["run"]
    assert row["verdict"] == UNRESOLVED and row["low"] is None


def test_error_rates_of_both_verdicts_are_below_one_in_twenty():
    """Constant verdicts, which would need no run, fail one of these or the test above."""
    d_NxS = np.random.default_rng(1).normal(0, 0.03, (400, 3))
    equal = [compare_seeds(d_S, MARGIN).verdict for d_S in d_NxS]
    at_margin = [compare_seeds(d_S + MARGIN, MARGIN).verdict for d_S in d_NxS]
    assert equal.count(DIFFERS) <= 4
    assert at_margin.count(EQUIVALENT) <= 30 and at_margin.count(DIFFERS) <= 30


def test_equal_to_the_bit_is_equivalent():
    assert compare_seeds([0.0, 0.0], MARGIN).verdict == EQUIVALENT


def test_the_margin_is_the_band_of_the_reinitialised_run_unless_the_config_has_one():
    table = pd.concat([measured(0.0), measured(0.0, 0.04, run="reinitialised", key=2)])
    table = table.drop_duplicates(["run", "seed", "step"])
    reinitialised = judged(table, RunComparison())["reinitialised"]
    assert reinitialised["verdict"] is None
    assert reinitialised["margin"] == band_half_width([*reinitialised["seeds"].values()])
    row = judged(table, RunComparison())["run"]
    assert row["margin"] == reinitialised["margin"] and row["margin_from"] == "reinitialised"
    assert judged(table)["run"]["margin"] == MARGIN
    assert judged(measured(0.0), RunComparison())["run"]["verdict"] is None
    assert band_half_width([3.0, -4.0]) == pytest.approx(1.96 * 12.5**0.5)


def test_norms_are_compared_by_log_ratio_over_the_last_part():
    table = measured(0.0, noise=0, seeds=2, quantity="grad_norm")
    late = (table["run"] == "run") & (table["step"] > 50)
    table.loc[late, "value"] *= 1.1
    for last, wanted in ((0.5, np.log(1.1)), (1.0, np.log(1.1) / 2)):
        row = judged(table, RunComparison(last=last))["run"]
        assert row["difference"] == pytest.approx(wanted)


def test_margins_of_unknown_quantities_are_refused():
    with pytest.raises(ValueError, match="did you mean validation_loss"):
        RunComparison({"validation_los": 0.1})
    with pytest.raises(FieldError, match="above 0"):
        RunComparison({"loss": 0.0})


def test_norms_of_layer_groups():
    block = {"attention": {"query": 3.0, "query_norm": {"scale": 1.0}}, "mlp": {"up": 2.0}}
    params = {"embedding": 9.0, "block_00": block, "block_01": block, "norm": {"scale": 1.0}}
    found = layer_group_norms({name: _arrays(value) for name, value in params.items()})
    wanted = {"norm/attention": 18**0.5, "norm/mlp": 8**0.5, "norm/norms": 3**0.5}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted)


def _arrays(value):
    if isinstance(value, dict):
        return {name: _arrays(part) for name, part in value.items()}
    return jnp.array([value])


@dataclasses.dataclass(frozen=True)
class Questions(Contamination):
    def figure(self, estimates, axes):
        axes.set(xlabel="step")


def questions(root, seeds, accuracy):
    """A contamination experiment whose questions, all held out, have four options."""
    experiment = Questions("a", "accuracy/0x", 1, groups=((0, 30),))
    for folder in (Workdir(root, seed) for seed in seeds):
        path = folder.plan / "items" / "a.parquet"
        fields = json.dumps({"continuations": ["a", "b", "c", "d"]})
        names = [f"0x-{k}" for k in range(30)]
        items = {"id": names, "condition": "0x", "repetitions": 0, "text": "", "fields": fields}
        pd.DataFrame(items).to_parquet(path)
        for kind in ("control", "run"):
            for step in (30, 60):
                right = np.arange(30) < 30 * accuracy
                columns = {"accuracy": right.astype(float), "gold_log_likelihood": right - 5.0}
                parts = [
                    pd.DataFrame({"item": names, "condition": "0x", "outcome": o, "value": v})
                    for o, v in columns.items()
                ]
                pd.concat(parts).assign(benchmark="x").to_parquet(folder.table(kind, step, "a"))
    return experiment


@pytest.mark.parametrize(("accuracy", "floor"), [(0.25, True), (0.9, False)])
def test_held_out_questions_are_at_floor_where_accuracy_is_at_chance(tmp_path, accuracy, floor):
    make_study(tmp_path, {"a": ["0x"]}, seeds=(0, 1))
    experiment = questions(tmp_path, (0, 1), accuracy)
    table = losses(tmp_path, [0, 1])
    found = {
        each.rows[0]["quantity"]: each.rows[0]
        for each in compare_runs(tmp_path, table, [experiment], RULE, 60)
    }
    for name in ("held_out_accuracy", "held_out_log_likelihood"):
        assert found[name]["at_floor"] is floor and found[name]["difference"] == 0
    assert not found["loss"]["at_floor"] and found["loss"]["margin"] == MARGIN


def test_the_page_has_a_section_and_says_how_to_get_a_margin(tmp_path):
    experiments = make_study(tmp_path, {"a": ["0x", "4x"]}, seeds=(0, 1))
    for seed in (0, 1):
        folder = Workdir(tmp_path, seed).run("control")
        lines = [{"step": step, "arms": {"0": [30.0, 10]}} for step in range(1, 61)]
        lines[3]["arms"] = {"1": [30.0, 10]}  # a whole batch was inserted
        write_text(folder / "arms.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _, report = page.write(tmp_path, "study", experiments)
    html = report.read_text()
    assert "Run against control" in html and "--run=reinitialised" in html
    rows = json.loads((tmp_path / "run_comparison.json").read_text())
    assert [row["quantity"] for row in rows] == ["loss", "corpus_loss", "validation_loss"]
    assert all(row["verdict"] is None for row in rows)
    rule = RunComparison(dict.fromkeys(("loss", "corpus_loss", "validation_loss"), 9.0))
    _, report = page.write(tmp_path, "study", experiments, rule=rule)
    assert EQUIVALENT in report.read_text()
    assert "--run=reinitialised" not in report.read_text()
