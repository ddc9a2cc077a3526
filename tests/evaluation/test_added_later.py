"""An experiment that inserts nothing may be added to a study when its runs are over."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import studies
from fakes import HeldOut, Planted
from model import reference

from ttoaa import config, evaluate, plan, report, train
from ttoaa.experiments.base import Probe
from ttoaa.experiments.context import added_later, ask_reserve, intervene, make_worlds
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir

pytestmark = pytest.mark.usefixtures("sketched")

LIST = "Study.experiments = [@planted/Planted(), @late/Planted(), @Forgetting(), {}]"
ADDED = LIST.format("@asked/HeldOut()") + "\nasked/HeldOut.name = 'asked'\n"


@pytest.fixture
def workdir(finished, tmp_path):
    names = ("plan", "control", "run", "tables")
    folder = studies.copy(finished[0], tmp_path / "work", *names)
    studies.edit_config(folder, add=ADDED)
    return folder


def test_it_is_scored_on_all_checkpoints_without_training(workdir, finished, capsys):
    before = studies.contents(workdir)
    assert studies.main(evaluate, workdir) == 0
    out = capsys.readouterr().out
    assert "evaluate: 6 tables written" in out
    assert "asked is not in the plan: it inserts nothing and was added later" in out
    after = studies.contents(workdir)
    assert all(after[path] == before[path] for path in before if path.name != "ledger.json")
    model = config.load([workdir / "config.gin"])[0].model
    for kind in ("control", "run"):
        table = pd.read_parquet(Workdir(workdir).table(kind, 20, "asked"))
        params = studies.params(workdir, kind, 20)
        assert len(table) == 4 and set(table["condition"]) == {"0x"}
        items = planned_items(workdir)
        for row in table.itertuples():
            tokens = np.asarray(items.loc[row.item, "tokens"])
            expected = reference.log_probs(model, params, tokens[None]).mean()
            np.testing.assert_allclose(row.value, expected, atol=1e-5)


def planned_items(workdir):
    """Its items in a plan that has it from the start."""
    (workdir / "plan").rename(workdir / "before")
    try:
        assert studies.main(plan, workdir) in (0, None)
        return Plan.open(workdir / "plan").items("asked").set_index("id")
    finally:
        (workdir / "plan").rename(workdir / f"planned-{len(list(workdir.iterdir()))}")
        (workdir / "before").rename(workdir / "plan")


def test_the_other_commands_take_it(workdir, capsys):
    assert studies.main(plan, workdir) in (0, None)
    assert "is made already" in capsys.readouterr().out
    for flag in ("--run=control", "--run=run"):
        assert studies.main(train, workdir, flag) == 0
        assert "is finished already" in capsys.readouterr().out
    assert studies.main(evaluate, workdir) == 0
    assert studies.main(report, workdir) in (0, None)
    assert "asked" in (workdir / "summary.json").read_text()


def test_one_that_inserts_is_refused(workdir):
    studies.edit_config(workdir, ("asked/HeldOut", "asked/Planted"))
    error = studies.main(evaluate, workdir)
    assert "was made with experiments.asked absent, now it would be" in error
    assert "\n" not in error


def test_who_says_that_it_inserts_nothing_is_held_to_it(tiny_study, corpus):
    @dataclasses.dataclass(frozen=True)
    class Probing(HeldOut):
        def probes(self, world):
            return [Probe("p", np.zeros((1, 32), np.int32), (0,))]

    geometry = tiny_study.geometry
    for experiment, what in (
        (HeldOut("e", repetitions=(0, 2)), "item '2x-0'"),
        (HeldOut("e", windows=1), "item 'row-0'"),
        (Probing("e"), "reserve windows or probes"),
    ):
        reserve = ask_reserve([experiment], 0, geometry, corpus, 8)
        worlds = make_worlds([experiment], 0, geometry, corpus, reserve)
        with pytest.raises(ValueError, match=f"e declares inserts = False but has {what}"):
            intervene([experiment], worlds)


def test_what_is_in_the_plan_was_not_added_later(plan_of):
    planned = [Planted("planted"), HeldOut("asked")]
    made = plan_of(planned)
    later = [*planned, HeldOut("later"), Planted("inserts")]
    assert added_later(made, later) == ["later"]
    changed = HeldOut("asked", items=5)
    assert added_later(made, [changed]) == [], "its config was declared, and may not change"
