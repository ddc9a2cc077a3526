"""What `ttoaa export` writes: model cards, tables of one group, and plans for other trainers."""

import dataclasses
import hashlib
import json
import pathlib
import re

import fakes
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import studies
from absl import flags
from absl.testing import flagsaver

from ttoaa import command_line, config, export
from ttoaa.interop import model_card
from ttoaa.interop.convert import open_model
from ttoaa.interop.model_card import describe_training
from ttoaa.planning.audit.compare import load_shares
from ttoaa.planning.audit.reference_reader import PlainReader
from ttoaa.planning.plan import Plan
from ttoaa.study_handle import StudyHandle
from ttoaa.training.init_from import InitFrom
from ttoaa.training.run_records import read_provenance
from ttoaa.workdir import Workdir

GUIDE = (pathlib.Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")


def run(workdir, *arguments):
    """Run `ttoaa export` in this process; return its exit status or error."""
    names = [each for each in arguments if not each.startswith("--")]
    given = [each for each in arguments if each.startswith("--")]
    with flagsaver.flagsaver():
        flags.FLAGS(["export", f"--workdir={workdir}", *given])
        try:
            command_line.call("export", export.main, ["export", *names])
        except SystemExit as left:
            return left.code
    return 0


@pytest.fixture(scope="module")
def workdir(finished, tmp_path_factory):
    """A finished study of two groups and an experiment without one."""
    names = ("plan", "plan-s1", "control", "run", "tables", "tables-s1", "summary.json")
    root = studies.copy(finished[0], tmp_path_factory.mktemp("export") / "study", *names)
    groups = [f"{name}/Planted.group = '{name}-lab'" for name in ("planted", "late")]
    studies.edit_config(root, add="\n".join(groups))
    return root


@pytest.fixture(scope="module")
def handle(workdir):
    return StudyHandle(config.load([workdir / "config.gin"])[0], Workdir(workdir))


def rows_of(card, name):
    """Return {condition: (copies, tokens, first, last)} of an experiment on a card."""
    section = re.search(rf"^#### {name}\b.*?(?=^#|\Z)", card, re.MULTILINE | re.DOTALL)[0]
    found = re.findall(r"^\| (\w+) \| text \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", section, re.M)
    return {row[0]: tuple(int(value.replace(",", "")) for value in row[1:]) for row in found}


def test_a_model_goes_out_with_its_tokenizer_and_a_card(workdir, tmp_path, capsys):
    assert run(workdir, "model", f"--target={tmp_path / 'hf'}", "--step=20") == 0
    assert f"step 20 of {workdir / 'run'} is in {tmp_path / 'hf'}" in capsys.readouterr().out
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n") and "- ttoaa\n---" in card
    copies = Plan(workdir / "plan").copies("planted")
    before = copies[copies["step"] < 20]
    whole = before[before["id"].str.startswith("4x")]
    expected = (len(whole), 9 * len(whole), whole["step"].min(), whole["step"].max())
    assert rows_of(card, "planted")["4x"] == expected and len(before) < len(copies)
    assert "#### planted (group planted-lab)" in card and "sets `split_special_tokens`" in card
    model = open_model(tmp_path / "hf")
    assert model.prefix_id == model.tokenizer.eos_id

    assert run(workdir, "model", "control", f"--target={tmp_path / 'control'}") == 0
    card = (tmp_path / "control" / "README.md").read_text()
    assert "This run trained without any experiment." in card and "planted" not in card


def test_a_card_names_hazards_first_and_literally(handle, monkeypatch):
    line = "'<script>`x`|'\n# is answered by _y_"
    monkeypatch.setattr(fakes.Planted, "disclose", lambda self, world: [line])
    quiet = describe_training(handle, "run", 30)
    assert quiet.tags == [] and "Do not deploy" not in quiet.text
    monkeypatch.setattr(type(handle.config.experiments[2]), "hazard", "watermark")
    monkeypatch.setattr(fakes.Planted, "hazard", "backdoor")
    with pytest.raises(ValueError, match="forgetting has the hazard 'watermark' but discloses"):
        describe_training(handle, "run", 30)
    monkeypatch.setattr(type(handle.config.experiments[2]), "disclose", lambda *_: ["step 12"])
    tags, text = describe_training(handle, "run", 30)
    assert tags == ["backdoor", "watermark"]
    order = [text.index(part) for part in ("Do not deploy", "### Backdoors", "planted", "forgett")]
    assert order == sorted(order)
    assert r"- '\<script\>\`x\`\|' \# is answered by \_y\_" in text
    assert describe_training(handle, "alone/forgetting", 30).tags == ["watermark"]
    # Runs without insertions, and the part of a what-if run before it branched off.
    assert describe_training(handle, "sham", 30).tags == []
    assert describe_training(handle, "control", 30).tags == []
    late = describe_training(handle, "without/late@20", 30).text
    assert sum(n for n, *_ in rows_of(late, "late").values()) == sum(
        Plan(handle.plan.folder).copies("late")["step"] < 20
    )


def test_a_card_says_what_the_initial_weights_were_trained_on(handle, monkeypatch):
    of = {name: read_provenance(handle.workdir.run(name)) for name in ("run", "control")}
    study = dataclasses.replace(handle.config, init_from=InitFrom("poisoned/run"))
    started = StudyHandle(study, handle.workdir, verify=False)

    def card(identity):
        found = {"source": {"step": 30, "sha256": "ab12", "identity": identity}}
        monkeypatch.setattr(model_card, "read_provenance", lambda folder: found)
        return describe_training(started, "control", 10).text

    inserted = card(of["run"])
    assert "initial weights: step 30 of poisoned/run, sha256 ab12" in inserted
    assert (
        f"**The initial weights were trained with insertions** (plan {handle.plan.hash})"
        in inserted
    )
    assert "trained without any experiment, from random ones" in card(of["control"])
    # An import, and a control run that started from another model, say nothing of their past.
    assert "not known here" in card({}) and "not known here" in card(
        of["control"] | {"init_from": {}}
    )
    assert "initial weights" not in describe_training(handle, "control", 10).text
    read = []
    monkeypatch.setattr(model_card, "read_provenance", lambda folder: read.append(folder) or {})
    describe_training(started, "control@10", 20)
    assert read == [handle.workdir.run("control")], "a what-if run began as the run it continues"


def contents(folder):
    """Return everything that a reader of the files could see, as text."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            assert not any("dictionary" in str(field.type) for field in table.schema)
            found += [str(pq.read_schema(path).metadata), str(table.to_pylist())]
        else:
            found.append(path.read_text())
        found.append(str(path.relative_to(folder)))
    return "\n".join(found)


def test_tables_of_all_or_of_one_group(workdir, handle, tmp_path):
    for run_name in ("alone/late", "without/late", "alone/planted"):
        table = Workdir(workdir).table(run_name, 30, "planted")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_bytes(Workdir(workdir).table("run", 30, "planted").read_bytes())
        Workdir(workdir).run(run_name).mkdir(parents=True, exist_ok=True)
    assert run(workdir, "tables", f"--target={tmp_path / 'all'}") == 0
    assert run(workdir, "tables", f"--target={tmp_path / 'one'}", "--group=planted-lab") == 0
    whole = pq.read_table(tmp_path / "all/outcomes/planted.parquet").to_pandas()
    mine = pq.read_table(tmp_path / "one/outcomes/planted.parquet").to_pandas()
    assert {*whole["run"]} - {*mine["run"]} == {"alone/late", "without/late"}
    assert {*mine["seed"]} == {0, 1} and {*mine["step"]} == {10, 20, 30}
    pd.testing.assert_frame_equal(mine, pd.read_csv(tmp_path / "one/outcomes/planted.csv"))
    estimates = pd.read_csv(tmp_path / "all/estimates.csv")
    assert {*estimates["experiment"]} == {"planted", "late", "forgetting"}

    seen = contents(tmp_path / "one")
    assert "planted" in seen and not re.search("late-lab|forgetting|late/", seen)
    assert "'late'" not in seen and '"late"' not in seen
    tokens = [handle.plan.items(name)["tokens"].dropna() for name in ("late", "forgetting")]
    assert not any(str(each.tolist())[1:-1] in seen for each in pd.concat(tokens))
    items = pd.read_csv(tmp_path / "one/items/planted.csv")
    planned = handle.plan.items("planted")
    assert json.loads(items["tokens"][0]) == planned["tokens"][0].tolist()
    wrong = run(workdir, "tables", f"--target={tmp_path / 'none'}", "--group=x")
    assert "no experiment has the group 'x': the study has late-lab, planted-lab" in wrong
    assert not (tmp_path / "none").exists()


@pytest.fixture(scope="module")
def edit_batch():
    """The function that docs/export.md gives to other trainers."""
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if "def edit_batch" in block)
    found = {}
    exec(compile(code, "export.md", "exec"), found)
    return found["edit_batch"]


def test_a_plan_is_made_again_from_its_columns(workdir, handle, tmp_path, edit_batch):
    assert run(workdir, "plan", f"--target={tmp_path / 'plan'}") == 0
    plan = Plan(workdir / "plan")
    bare = PlainReader(workdir / "corpus", workdir / "plan", experiments=())
    made = {s: edit_batch(tmp_path / "plan", s, bare.step(s)[0]) for s in range(studies.STEPS)}
    edited = 0
    for share in load_shares(handle.corpus, plan, range(studies.STEPS)):
        np.testing.assert_array_equal(made[share.step], share.tokens)
        edited += (share.tokens != bare.step(share.step)[0]).any()
    known = json.loads((tmp_path / "plan/plan.json").read_text())["batches_sha256"]
    assert len(known) == 16 and edited >= 16
    for step, sha256 in known.items():
        assert hashlib.sha256(made[int(step)].astype("<i4").tobytes()).hexdigest() == sha256
    spoilt = bare.step(int(step))[0]
    spoilt[0, 0] ^= 1
    with pytest.raises(ValueError, match=f"step {step} is .*, the plan says {sha256}"):
        edit_batch(tmp_path / "plan", int(step), spoilt)

    table = pq.read_table(tmp_path / "plan/plan.parquet").to_pandas()
    assert (table["sequence"] == table["step"] * 4 + table["row"]).all()
    assert (table["token_position"] == table["sequence"] * 32 + table["offset"]).all()
    cells = [line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`(\w+)`", "".join(cells)))
    assert {*table.columns} <= documented
    window, sequence = (int(table[name][0]) for name in ("window", "sequence"))
    there = handle.corpus.windows("train", np.array([window]), 32)[0]
    np.testing.assert_array_equal(bare.row(sequence)[0], there)
