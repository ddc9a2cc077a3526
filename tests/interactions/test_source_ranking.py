"""Rankings of data sources: order, corrections, and their error rates by simulation."""

import json

import numpy as np
import pytest
import studies
from fakes import Planted
from interactions.effect_frames import effects as effects_of

from ttoaa import dependence, plan
from ttoaa.interactions.matrix import IncompleteMatrix
from ttoaa.interactions.source_ranking import (
    HARMS,
    UNDECIDED,
    WORTH,
    find_candidates,
    rank,
    rank_values,
    write_ranking,
)
from ttoaa.planning.plan import Plan

NAMES = [f"e{k}" for k in range(4)]


ADDED = """
import ttoaa.experiments.data_source
Study.experiments = [@planted/Planted(), @late/Planted(), @Forgetting(), @mix/DataSource()]
mix/DataSource.name = 'mix'
mix/DataSource.primary = 'cross_entropy/target'
mix/DataSource.expected_sign = -1
mix/DataSource.source = @Passages()
mix/DataSource.target = @Passages()
mix/DataSource.held_out = 2
Passages.count = 60
"""


def frame(seeds=6):
    planted = [("alone/e1", "e0", 2.0), ("alone/e2", "e0", -3.0)]
    return effects_of(seeds=seeds, planted=planted).assign(outcome="cross_entropy/target")


def test_the_ranking_has_the_right_order_and_verdicts(tmp_path):
    (ranking,) = rank(frame(), NAMES, "e0")
    assert [c.name for c in ranking.candidates] == ["e0", "e1", "e3", "e2"]
    assert [c.verdict for c in ranking.candidates] == [WORTH, WORTH, UNDECIDED, HARMS]
    assert ranking.candidates[0].p_below_best is None
    assert all(c.p_below_best < 0.05 for c in ranking.candidates[1:])
    printed = write_ranking(tmp_path / "ranking.json", frame(), NAMES, "e0")
    assert str(ranking) in printed and "ranking.json" in printed
    (found,) = json.loads((tmp_path / "ranking.json").read_text())["rankings"]
    assert found["seeds"] == [0, 1, 2, 3, 4, 5] and found["experiment"] == "e0"
    text = str(ranking).splitlines()
    assert "cross_entropy/target of e0" in text[0] and text[1].startswith("  1. e0 +")


def test_missing_seeds_and_rows_are_reported():
    with pytest.raises(IncompleteMatrix, match="at least 6 seeds, not 5"):
        rank(frame(5), NAMES, "e0")
    effects = frame()
    lost = (effects["row"] == "alone/e2") & (effects["seed"] == 3)
    with pytest.raises(IncompleteMatrix, match="seed 3: the effect of alone/e2 on e0 is missing"):
        rank(effects[~lost], NAMES, "e0")
    with pytest.raises(IncompleteMatrix, match="no candidate has an effect on e9"):
        rank(effects, NAMES, "e9")
    assert write_ranking(None, frame(5), NAMES, "e0").startswith("no ranking yet: ")
    with pytest.raises(ValueError, match="--rank_by: 'e9' is none of planted"):
        find_candidates([Planted("planted")], "e9")
    with pytest.raises(ValueError, match="has no DataSource experiment"):
        find_candidates([Planted("planted")], "planted")


def test_the_best_of_ten_null_sources_is_corrected_for_the_choice():
    rng, covered, naive, found, separated = np.random.default_rng(0), 0, 0, 0, 0
    trials, names = 400, [str(k) for k in range(10)]
    for _ in range(trials):
        values_SxN = rng.normal(size=(6, 10)) + rng.normal(size=(6, 1))  # a common null row
        ranked = rank_values(names, values_SxN)
        best = ranked[0]
        own = values_SxN[:, int(best.name)]
        reach = 2.571 * own.std(ddof=1) / np.sqrt(6)  # the t interval of one source
        covered += best.ci_low <= 0 <= best.ci_high
        naive += abs(own.mean()) <= reach
        found += any(c.verdict != UNDECIDED for c in ranked)
        separated += any(c.p_below_best <= 0.05 for c in ranked[1:])
    assert covered / trials >= 0.95 > 0.9 > naive / trials
    assert found / trials <= 0.05 and separated / trials <= 0.05


def test_the_command_makes_the_rows_of_the_candidates_only(finished, tmp_path, capsys):
    workdir = studies.copy(finished[0], tmp_path / "work", "control")
    studies.edit_config(workdir, add=ADDED)
    assert not studies.main(plan, workdir)
    given = ["--checkpoints=20", "--burst_steps=8", "--share=0.1", "--burst_seeds=0"]
    assert not studies.main(dependence, workdir, *given, "--rank_by=planted")
    printed = capsys.readouterr().out
    assert "2 rows trained, 8 tables written" in printed
    assert "no ranking yet: a dependence matrix needs at least 6 seeds, not 1" in printed
    folder = workdir / "bursts/step-20"
    assert not (folder / "alone/planted").exists() and (folder / "alone/mix").is_dir()
    items = Plan.open(folder / "plan").items("mix")
    assert (items["condition"] == "mixed").sum() == 3, "a tenth of 8 steps of 4 rows"
