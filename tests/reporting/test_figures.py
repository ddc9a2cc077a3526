import json

import numpy as np
import pandas as pd
import pytest
from reporting.synthetic import STEPS, make_study

from ttoaa.reporting.effect_figures import show_texts
from ttoaa.reporting.figures import arm_losses, binned, draw_losses, losses
from ttoaa.workdir import Workdir, write_text


def test_binned_means_by_hand_and_missing_values():
    rows = pd.DataFrame({"step": range(1, 7), "loss": [1.0, 3.0, np.nan, 5.0, 7.0, 9.0]})
    steps, means = binned(rows, "loss", bins=3)
    assert list(steps) == [1.5, 4.0, 5.5]
    assert list(means) == [2.0, 5.0, 8.0]
    assert len(binned(rows.head(0), "loss")[0]) == 0


def test_losses_of_all_runs(tmp_path):
    make_study(tmp_path, {"a": ["0x", "4x"]}, seeds=(0, 1))
    table = losses(tmp_path, [0, 1])
    assert set(table.groupby(["kind", "seed"])["loss"].count()) == {STEPS}
    assert set(table.groupby(["kind", "seed"])["validation_loss"].count()) == {3}


def test_alternative_text_of_losses_has_the_mean_of_the_seeds():
    rows = [
        {"kind": kind, "seed": seed, "step": step, "loss": 4.0, "validation_loss": loss}
        for kind, ends in (("control", (2.0, 3.0)), ("run", (1.0, 2.0)))
        for seed, end in enumerate(ends)
        for step, loss in ((1, 9.0), (2, end), (3, np.nan))
    ]
    (picture,) = draw_losses(pd.DataFrame(rows))
    assert "at the end (mean of 2 seeds): control 2.500, run 1.500." in picture.alt
    (single,) = draw_losses(pd.DataFrame(rows).query("seed == 0"))
    assert "at the end: control 2.000, run 1.000." in single.alt


def test_arm_losses_are_weighted_by_tokens_and_joined_by_each_seeds_plan(tmp_path):
    make_study(tmp_path, {"a": ["0x", "4x"]}, seeds=(0, 1))
    plan = Workdir(tmp_path, 1).plan / "plan.json"
    swapped = json.loads(plan.read_text())
    for arm in swapped["contents"]["arms"]:
        arm["id"] = 3 - arm["id"]
    write_text(plan, json.dumps(swapped))
    for seed, arm in ((0, "2"), (1, "1")):
        lines = [
            {"step": 1, "arms": {"0": [50.0, 10], arm: [12.0, 6]}},
            {"step": STEPS, "arms": {"0": [40.0, 10], arm: [1.0 + seed, 2]}},
        ]
        path = Workdir(tmp_path, seed).run("run") / "arms.jsonl"
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    table = arm_losses(tmp_path, [0, 1])
    arm = table[table["experiment"] == "a"]
    assert set(arm["condition"]) == {"4x"}
    assert arm["loss"].tolist() == pytest.approx([2.0, 3 / 4])
    assert table[table["experiment"] == ""]["loss"].tolist() == pytest.approx([5.0, 4.0])


def test_texts_of_a_table_are_shown_not_run():
    shown = show_texts(pd.DataFrame({"text": ["<b>bold</b>"], "gain": [0.12345]})).to_html()
    assert "&lt;b&gt;bold" in shown and "0.123<" in shown
