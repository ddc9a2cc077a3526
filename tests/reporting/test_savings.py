import json

import pandas as pd
import pytest
from reporting.synthetic import make_study

from ttoaa.json_io import read_json
from ttoaa.reporting import page
from ttoaa.reporting.savings import measure_cost, validation_differences
from ttoaa.workdir import Workdir, write_json, write_text

NAMES = ["a", "b", "c"]
CONTROL, RUN = 105, 115
"""Seconds of a synthetic control and experiment run without probes, which take 5 each."""
ONCE, EACH = 4, (1 + 2 * 3 * 5 + 3 * 2) / 3
"""Corpus; and per experiment its part of the plan, probes of two runs, and scoring."""


def study(root, names=NAMES, **kwargs):
    return make_study(root, {name: ["0x", "4x"] for name in names}, **kwargs)


def trained(folder, name, phases, validation_loss=3.0, step=60):
    """A further run; the last validation loss of the synthetic runs is at step 60."""
    write_json(folder.run(name) / "ledger.json", {"seconds": phases})
    line = {"step": step, "loss": 3.0, "validation_loss": validation_loss}
    write_text(folder.run(name) / "metrics.jsonl", json.dumps(line) + "\n")


def test_pooled_and_separate_studies_by_hand(tmp_path):
    study(tmp_path)
    cost = measure_cost(tmp_path, [0], NAMES)
    each = 3 * EACH
    assert cost.seconds("pooled") == pytest.approx(ONCE + CONTROL + RUN + each)
    assert cost.seconds("shared") == pytest.approx(ONCE + CONTROL + 3 * RUN + each)
    assert cost.seconds("own") == pytest.approx(ONCE + 3 * CONTROL + 3 * RUN + each)
    assert cost.gross_saving() == pytest.approx(2 / 3)
    pooled = ONCE + CONTROL + RUN + each
    assert cost.net_saving() == pytest.approx(1 - pooled / (pooled + 2 * RUN))
    assert cost.net_saving("own") == pytest.approx(1 - pooled / (pooled + 2 * RUN + 2 * CONTROL))
    assert cost.net_saving("own") > cost.net_saving() and cost.alone == () and cost.checks == 0


@pytest.mark.parametrize("n", [1, 3, 100])
def test_other_numbers_of_experiments_by_hand(tmp_path, n):
    study(tmp_path)
    cost = measure_cost(tmp_path, [0], NAMES)
    assert cost.seconds("pooled", n) == pytest.approx(ONCE + CONTROL + RUN + n * EACH)
    assert cost.seconds("shared", n) == pytest.approx(ONCE + CONTROL + n * (RUN + EACH))
    assert cost.seconds("own", n) == pytest.approx(ONCE + n * (CONTROL + RUN + EACH))
    assert cost.gross_saving(n) == pytest.approx(1 - 1 / n)
    if n == 1:
        assert cost.net_saving("shared", 1) == cost.net_saving("own", 1) == 0


def test_seeds_add_up_but_share_the_corpus(tmp_path):
    study(tmp_path, seeds=(0, 1))
    one, two = (measure_cost(tmp_path, seeds, NAMES).seconds("pooled") for seeds in ([0], [0, 1]))
    assert two == pytest.approx(2 * one - ONCE)


def test_shared_runs_and_the_reference_model_are_on_both_sides(tmp_path):
    study(tmp_path)
    before, folder = measure_cost(tmp_path, [0], NAMES), Workdir(tmp_path)
    trained(folder, "sham", {"step": 40.0, "probe/a": 1.0})
    trained(folder, "reinitialised", {"step": 60.0, "validate": 2.0})
    write_json(tmp_path / "reference" / "ledger.json", {"seconds": {"step": 30.0}})
    after = measure_cost(tmp_path, [0], NAMES)
    more = [after.seconds(side) - before.seconds(side) for side in ("pooled", "shared", "own")]
    assert more == pytest.approx([40 + 62 + 1 + 30] * 2 + [3 * (40 + 62) + 1 + 30])
    assert after.gross_saving() == pytest.approx(2 / 3) and after.checks == 0


def test_measured_separate_runs_replace_the_assumption_and_are_on_no_side(tmp_path):
    study(tmp_path, seeds=(0, 1))
    before, folder = measure_cost(tmp_path, [0, 1], NAMES), Workdir(tmp_path)
    trained(folder, "alone/a", {"step": 100.0, "compile": 3.5, "probe/a": 5.0, "probe/b": 5.0})
    trained(folder, "alone/b", {"step": 126.5, "probe/b": 5.0})
    trained(folder, "without/a", {"step": 200.0})
    write_json(
        folder.run("alone/c") / "ledger.json", {"seconds": {"step": 1.0}, "incomplete": True}
    )
    # Of the four tables of b, one is of a run alone; those of c are of control and run.
    table = folder.table("alone/b", 60, "b")
    table.parent.mkdir(parents=True)
    table.write_bytes(folder.table("run", 60, "b").read_bytes())
    after = measure_cost(tmp_path, [0, 1], NAMES)
    scored = 2.0 / 5
    assert after.seconds("pooled") == pytest.approx(before.seconds("pooled") - scored)
    difference = (103.5 - RUN) + (126.5 - RUN)
    assert after.seconds("shared") == pytest.approx(before.seconds("shared") + difference - scored)
    assert after.alone_ratios == pytest.approx([0.9, 1.1])
    assert [(run.experiment, run.seed) for run in after.alone] == [("a", 0), ("b", 0)]
    assert after.checks == pytest.approx(113.5 + 131.5 + 200 + 1 + scored)
    assert after.gross_saving() == pytest.approx(1 - 2 * RUN / (6 * RUN + difference))


def test_validation_losses_are_those_of_trained_runs_only():
    rows = [
        ("control", 0, 40, 5.0),
        ("control", 0, 60, 4.0),
        ("run", 0, 60, 4.3),
        ("alone/a", 0, 60, 4.1),
        ("alone/b", 0, 60, 3.9),
        ("without/a", 0, 60, 4.2),
        ("alone/c", 0, 40, 9.0),  # not finished
        ("sham", 0, 60, 9.0),
        ("run", 1, 60, 9.0),  # no control run
    ]
    losses = pd.DataFrame(rows, columns=["kind", "seed", "step", "validation_loss"])
    found = validation_differences(losses, 10)
    assert {n: pytest.approx(values) for n, values in found.items()} == {
        10: [0.3],
        1: [0.1, -0.1],
        9: [0.2],
    }


def test_the_page_and_cost_json_say_what_is_extrapolated(tmp_path):
    experiments = study(tmp_path)
    trained(Workdir(tmp_path), "alone/a", {"step": 103.5, "probe/a": 5.0})
    _, report = page.write(tmp_path, "study", experiments)
    rows = read_json(tmp_path / "cost.json")["savings"]
    assert [row["experiments"] for row in rows if row["extrapolated"]] == [1, 10, 30, 100]
    assert [len(row["validation_differences"]) for row in rows] == [1, 1, 0, 0, 0]
    assert rows[-1]["edited_share"] == pytest.approx(rows[1]["edited_share"] * 100 / 3)
    html = report.read_text()
    assert html.count(">extrapolated<") == 4 and html.count("not measured") == 3
    assert "0.90 to 0.90 times" in html and "1 of 3 measured" in html
