import pytest
from reporting.synthetic import BATCH, LENGTH, STEPS, make_study

from ttoaa.json_io import read_json
from ttoaa.reporting import page
from ttoaa.reporting.cost import added, stages
from ttoaa.workdir import Workdir, write_json

pytestmark = pytest.mark.usefixtures("sketched")


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
    page.write(tmp_path, "study", experiments)
    assert read_json(Workdir(tmp_path).report_ledger)["seconds"] > 0
