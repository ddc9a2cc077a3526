"""The command that compares bursts with the full runs of a finished tiny study."""

import shutil

import pandas as pd
import pytest
import studies
from interactions.effect_frames import effects

from ttoaa import dependence
from ttoaa.interactions.full_runs import subtract_control
from ttoaa.parquet_io import read_table, write_table
from ttoaa.workdir import Workdir

NAMES = {"e0": "planted", "e1": "late", "e2": "forgetting"}


@pytest.fixture
def root(finished, tmp_path):
    kinds = ("plan", "control", "run", "tables")
    parts = [f"{kind}{seed}" for kind in kinds for seed in ("", "-s1")]
    return studies.copy(finished[0], tmp_path / "work", *parts)


def test_missing_runs_are_listed_with_the_command_that_makes_them(root, capsys):
    left = studies.main(dependence, root, "--full_runs")
    assert "full runs are judged from two complete seeds on, not 0" in left
    printed = capsys.readouterr().out
    assert "6 full runs are missing or not scored (alone/planted, alone/late, " in printed
    assert f"ttoaa study --workdir={root} --seeds=0,1 '--gin_bindings=Study.runs = [" in printed
    assert "no bursts to compare with" in printed


def test_scored_runs_are_judged_by_the_outcomes_of_the_bursts(root, capsys):
    """The runs alone are copies of the full run: no experiment loses anything next to others."""
    for seed in (0, 1):
        folder = Workdir(root, seed)
        for name in NAMES.values():
            shutil.copytree(folder.tables / "run", folder.tables / "alone" / name)
    renamed = NAMES | {f"alone/{key}": f"alone/{name}" for key, name in NAMES.items()}
    frame = effects(n=3).replace(renamed)
    frame["outcome"] = frame["experiment"].map(
        {"planted": "log_likelihood/3x", "late": "unknown", "forgetting": "cross_entropy/lag-1"}
    )
    write_table(frame, root / "bursts" / "step-effects.parquet", {})
    assert not studies.main(dependence, root, "--full_runs")
    printed = capsys.readouterr().out
    assert "missing" not in printed and "bursts from step 10:" in printed
    found, source, _ = read_table(root / "dependence-full-effects.parquet", "")
    assert source == {"seeds": [0, 1]} and len(found) == 2 * 4 * 3
    assert set(found["row"]) == {"run", *(f"alone/{name}" for name in NAMES.values())}
    text = (root / "dependence-full.md").read_text()
    assert "Step 30, seeds 0, 1." in text
    few = frame[frame["seed"] < 5]
    write_table(few, root / "bursts" / "step-effects.parquet", {})
    assert not studies.main(dependence, root, "--full_runs")
    assert "no bursts to compare with yet: a dependence matrix needs" in capsys.readouterr().out


def test_a_contrast_within_a_run_is_compared_with_that_of_the_control_run():
    """All runs have the contrast of the control run: no experiment has an effect on it."""
    frame = effects(seeds=2, n=2, own=0.0, noise=0.0)
    frame[["estimate", "ci_low", "ci_high"]] += 1.25 + frame[["seed"]].to_numpy()
    control = frame[frame["row"] == "run"].assign(row="control")
    found = subtract_control(pd.concat([frame, control]))
    assert len(found) == len(frame) and not found["estimate"].any()
    assert found["ci_high"].tolist() == pytest.approx([0.3] * len(frame))
