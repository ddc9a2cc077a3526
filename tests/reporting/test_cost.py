import pytest
from reporting.synthetic import BATCH, LENGTH, STEPS, make_study

from ttoaa.json_io import read_json
from ttoaa.reporting import page
from ttoaa.reporting.cost import added, cost_of_one, stages
from ttoaa.workdir import Workdir, write_json

NAMES = ["a", "b", "c"]


def test_cost_by_hand(tmp_path):
    make_study(tmp_path, {name: ["0x", "4x"] for name in NAMES})
    cost = cost_of_one(tmp_path, [0], 3)
    once = 4 + 1 + 100 + 2 * 3 * 5 + 3 * 2 + 2 * 5  # corpus, plan, control, probes, scores, rest
    assert cost.pooled == pytest.approx(once + 110)
    assert cost.separate == pytest.approx(once + 3 * 110)
    assert cost.gross_saving == pytest.approx(2 / 3)
    assert cost.net_saving == pytest.approx(1 - (once + 110) / (once + 330))


def test_seeds_add_up_but_share_the_corpus(tmp_path):
    make_study(tmp_path, {name: ["0x", "4x"] for name in NAMES}, seeds=(0, 1))
    one, two = cost_of_one(tmp_path, [0], 3), cost_of_one(tmp_path, [0, 1], 3)
    assert two.pooled == pytest.approx(2 * one.pooled - 4)


def test_one_experiment_saves_nothing(tmp_path):
    make_study(tmp_path, {"a": ["0x", "4x"]})
    cost = cost_of_one(tmp_path, [0], 1)
    assert cost.gross_saving == cost.net_saving == 0


def test_what_each_experiment_added(tmp_path):
    make_study(tmp_path, {"a": ["0x", "4x", "16x"], "b": ["0x"]}, seeds=(0, 1))
    rows = added(tmp_path, [0, 1], ["a", "b"]).set_index("experiment")
    assert rows.loc["a", "tokens"] == 300 and rows.loc["a", "edits"] == 30
    assert rows.loc["a", "share"] == pytest.approx(300 / (STEPS * BATCH * LENGTH))
    assert rows.loc["a", "probe_seconds"] == pytest.approx(20)  # 5 in each of four runs
    assert rows.loc["a", "score_seconds"] == pytest.approx(4)
    assert rows.loc["b", "tokens"] == 0


def test_stages_name_every_run_and_what_evaluation_did(tmp_path):
    experiments = make_study(tmp_path, {"a": ["0x", "4x"]}, seeds=(0, 1))
    before = cost_of_one(tmp_path, [0, 1], 1)
    folder = Workdir(tmp_path, 1)
    for name, seconds in (("sham", 50.0), ("alone/a", 20.0)):
        write_json(folder.run(name) / "ledger.json", {"seconds": {"step": seconds, "probe/a": 1.0}})
    evaluation = {"restore": 1.0, "score/a": 2.0, "generate/a": 4.0}
    write_json(folder.tables / "ledger.json", {"seconds": evaluation})
    found = stages(tmp_path, [0, 1], report=3.0)
    assert {stage.name: stage.seconds for stage in found} == {
        "prepare": 4.0,
        "plan": 2.0,
        "train control": 2 * (3 + 100 + 2 + 5),
        "train run": 2 * (3 + 110 + 2 + 5),
        "train sham": 51.0,
        "train alone/a": 21.0,
        "evaluate a": 4.0,
        "evaluate restore": 1.0,
        "evaluate a: generation": 4.0,
        "report": 3.0,
    }
    assert sum(stage.seconds for stage in found if stage.scoring) == 9.0
    assert added(tmp_path, [0, 1], ["a"])["score_seconds"].tolist() == [8.0]
    cost = cost_of_one(tmp_path, [0, 1], 1)
    assert cost.pooled == pytest.approx(before.pooled + 51 + 21 + 5) == cost.separate
    page.write(tmp_path, "study", experiments)
    assert read_json(Workdir(tmp_path).report_ledger)["seconds"] > 0
