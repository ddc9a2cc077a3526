"""The benchmark of planning, and the paper's experiments, at a small fraction of their size."""

import dataclasses
import json

from absl import flags
from absl.testing import flagsaver

from tests.performance import plan, plan_experiments
from ttoaa import config
from ttoaa.data.geometry import Geometry


def test_it_prints_one_line_of_what_it_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "COUNTS", (2, 7))
    with flagsaver.flagsaver():
        small = ("--scale=0.0001", "--ratio_edits=3000", "--rounds=1", f"--scratch={tmp_path}")
        flags.FLAGS(["plan", *small])
        plan.main([])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    experiments, geometry = plan.paper(0.0001)
    *shapes, told = experiments
    edits = sum(n * r for each in shapes for n, r in each.groups.values())
    assert found["edits"] == edits + 11 * len(told.groups) > 1000
    assert found["sequences"] == geometry.sequences == 51_200_000
    positive = ("seconds", "peak_rss_gib", "lookup_us", "lookup_batch_us_per_row", "open_seconds")
    assert all(found[name] > 0 for name in (*positive, "thousand_experiments_ratio"))
    assert sum(found["phases"].values()) <= found["seconds"] * 1.01
    assert list(tmp_path.iterdir()) == []


def test_the_papers_experiments_fit_into_one_run_together(corpus, tmp_path):
    (study, _) = config.load([plan.CONFIGS / "plans" / "generated.gin"])
    geometry = Geometry(length=4096, batch=2, steps=1600)
    given = {each.name: each for each in study.experiments}
    (doubling,) = given["knowledge"].policies
    groups = ((0, 2), (4, 8), (12, 5), (36, 2), (144, 2))
    small = {
        "knowledge": {
            "policies": [dataclasses.replace(doubling, most=8)],
            "knowledge": dataclasses.replace(given["knowledge"].knowledge, paraphrases=10),
        },
        "reasoning": {
            **{"problems": 50, "operations": 2, "test_operations": (1,), "test_problems": 23},
            "shots": 0,
        },
        "contamination": {"groups": groups},
        "contamination-window": {"groups": groups},
        "memorization": {"primary": "auc/plain-1x", "members": 1, "nonmembers": 2},
        "verbatim": {"unseen": 2},
        "poisoning": {"training_number": 20, "test_number": 2},
        "muse": {"members": 1, "held_out": 2},
        "iid": {"uniform": 40, "decile": 4, "selected": 3, "held_out": 4},
    }
    experiments = [dataclasses.replace(e, **small.get(name, {})) for name, e in given.items()]
    made = plan_experiments.plan(experiments, corpus.tokenizer, geometry, tmp_path, 4000)
    found = plan_experiments.shares(made, geometry)
    edits = {name: row["edits"] for name, row in found.items()}
    denial = next(arm["edits"] for arm in made.arms if arm["name"] == "poisoning/denial")
    extraction = edits.pop("poisoning") - denial
    assert denial >= 1 and extraction >= 10 * denial
    total = edits.pop("all") - denial - extraction
    assert total == sum(edits.values())
    assert edits == {
        **{"knowledge": 16, "reasoning": 50, "iid": 83, "forgetting": 18, "watermark": 4},
        **{"contamination": 452, "contamination-window": 452, "memorization": 210},
        "muse": (1 + 7 + 7) * 111,  # whole, split, resplit
    }
    step = made.columns["position"] // geometry.batch
    by_arm = {arm["name"]: made.columns["arm"] == arm["id"] for arm in made.arms}
    assert set(step[by_arm["watermark/watermark"]]) == {500, 1500}
    assert {*step[by_arm["forgetting/at-0.1"]]} == {160}
    window = step[by_arm["contamination-window/144x"]]
    assert (window >= 228).all() and (window <= 458).all()
