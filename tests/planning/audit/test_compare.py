import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.checksums import write_record
from ttoaa.data.corpus import Corpus
from ttoaa.planning import controller_log
from ttoaa.planning.audit import compare
from ttoaa.planning.audit.compare import cuts, load_shares
from ttoaa.planning.audit.reference_reader import PlainReader, differences
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import MARK, RESERVE, SLOT, TOKENS, Item
from ttoaa.planning.placement import PerInterval
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir, file_sha256

# The corpus has 139 training windows of 32 tokens: epochs end inside the steps 17 and 34.
STEPS = (0, 16, 17, 18, 25, 34, 39)


@pytest.fixture
def folders(corpus_folder, tiny_plan, tmp_path):
    """A copy of (corpus, plan), for whoever plants a fault."""
    return [
        shutil.copytree(source, tmp_path / source.name)
        for source in (corpus_folder, tiny_plan.folder)
    ]


def loaded(corpus, plan, steps=STEPS, hosts=(1,)):
    """What the fast loader gives, without the checks that opening makes."""
    return list(load_shares(Corpus.open(corpus, verify=False), Plan(plan), steps, hosts))


def found(corpus, plan, shares):
    return list(differences(PlainReader(corpus, plan), shares))


def test_no_difference_in_any_epoch(corpus_folder, tiny_plan):
    every = loaded(corpus_folder, tiny_plan.folder, range(40))
    assert found(corpus_folder, tiny_plan.folder, every) == [] and len(every) == 40


@pytest.mark.parametrize("hosts", [2, 3, 8])
def test_no_difference_on_any_number_of_hosts(corpus_folder, tiny_plan, hosts):
    shares = loaded(corpus_folder, tiny_plan.folder, [17], [hosts])
    assert found(corpus_folder, tiny_plan.folder, shares) == []
    rows = [share.rows.tolist() for share in shares]
    assert len(rows) == 2 * hosts
    for cut in (rows[:hosts], rows[hosts:]):
        assert sorted(row for part in cut for row in part) == list(range(8))
    assert rows[0] == list(range(len(rows[0]))) and rows[hosts] == list(range(0, 8, hosts))


def test_more_hosts_than_rows_are_refused():
    with pytest.raises(ValueError, match="a batch of 8 rows can be cut for 1 to 8 hosts, not 9"):
        list(cuts(8, 9))


@pytest.mark.parametrize("seed", [1, 2])
def test_no_difference_with_other_seeds(plan_of, tiny_study, seed):
    plan = plan_of(tiny_study.experiments, seed)
    corpus = plan.folder.parent / "corpus"
    assert found(corpus, plan.folder, loaded(corpus, plan.folder)) == []


def test_one_wrong_token_of_the_loader_is_found(corpus_folder, tiny_plan):
    shares = loaded(corpus_folder, tiny_plan.folder)
    right = int(shares[3].tokens[6, 13])
    shares[3].tokens[6, 13] = (right + 1) % 320
    assert found(corpus_folder, tiny_plan.folder, shares) == [
        f"step 18 row 6 token 13: token {(right + 1) % 320} in the loader, {right} by the plan"
    ]


def test_one_wrong_arm_of_the_loader_is_found(corpus_folder, tiny_plan):
    shares = loaded(corpus_folder, tiny_plan.folder)
    shares[0].arms[0, 0] ^= 1
    assert len(found(corpus_folder, tiny_plan.folder, shares)) == 1


def test_two_rows_swapped_on_one_host_are_found(corpus_folder, tiny_plan):
    shares = loaded(corpus_folder, tiny_plan.folder, [17], [1, 4])
    (wrong,) = (share for share in shares if share.host == "host 2 of 4, strided")
    wrong.tokens[:] = wrong.tokens[::-1].copy()
    lines = found(corpus_folder, tiny_plan.folder, shares)
    assert len(lines) > 20  # the rows are words of one small language
    assert all(re.match(r"step 17 row [26] token \d+ on host 2 of 4, strided: ", x) for x in lines)


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t.astype(np.int64)])
def test_another_shape_or_dtype_is_found(corpus_folder, tiny_plan, change):
    (share,) = loaded(corpus_folder, tiny_plan.folder, [5])
    share = dataclasses.replace(share, tokens=change(share.tokens))
    (line,) = found(corpus_folder, tiny_plan.folder, [share])
    assert line.startswith("step 5: tokens are int") and "int32[8, 32] by the plan" in line


def test_one_token_of_the_plan_is_found(corpus_folder, tiny_plan, folders):
    """The loader reads a corrupted copy, the reader the plan as it was made."""
    _, plan = folders
    tokens = np.load(plan / "tokens.npy")
    edit = int(np.flatnonzero(tiny_plan.columns["kind"] == 0)[0])
    source, arm = (int(tiny_plan.columns[name][edit]) for name in ("source", "arm"))
    tokens[source + 2] = (tokens[source + 2] + 1) % 320
    np.save(plan / "tokens.npy", tokens)
    lines = found(corpus_folder, tiny_plan.folder, loaded(corpus_folder, plan, range(40)))
    items = tiny_plan.columns["item"]
    assert len(lines) == (items == items[edit]).sum() and arm
    position = int(tiny_plan.columns["position"][edit])
    offset = int(tiny_plan.columns["offset"][edit]) + 2
    assert lines[0].startswith(f"step {position // 8} row {position % 8} token {offset}: token")


@pytest.mark.parametrize("name", ["offset", "source", "arm", "length"])
def test_one_wrong_entry_of_a_column_is_found(corpus_folder, tiny_plan, folders, name):
    _, plan = folders
    column = np.load(plan / "columns" / f"{name}.npy")
    edit = int(np.flatnonzero(tiny_plan.columns["kind"] == 0)[4])
    column[edit] = column[edit] - 1 if column[edit] else 1
    np.save(plan / "columns" / f"{name}.npy", column)
    lines = found(corpus_folder, tiny_plan.folder, loaded(corpus_folder, plan, range(40)))
    position = int(tiny_plan.columns["position"][edit])
    assert lines
    assert all(f.startswith(f"step {position // 8} row {position % 8} token") for f in lines)


def test_one_changed_byte_of_the_corpus_is_found(corpus_folder, tiny_plan, folders):
    corpus, _ = folders
    shard = sorted(corpus.glob("train-*.bin"))[1]
    content = bytearray(shard.read_bytes())
    content[2 * 100] ^= 1
    shard.write_bytes(content)
    every = loaded(corpus, tiny_plan.folder, range(40))
    lines = found(corpus_folder, tiny_plan.folder, every)
    # Its window is trained on two or three times, and no edit covers it every time.
    assert 1 <= len(lines) <= 3 and len({f.partition("token ")[2][:3] for f in lines}) == 1
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        Corpus.open(corpus)


def test_another_order_is_found(corpus_folder, tiny_plan, folders):
    _, plan = folders
    meta = json.loads((plan / "plan.json").read_text())
    meta["contents"]["order"]["seed"] = 5
    write_record(plan / "plan.json", meta)
    lines = found(corpus_folder, tiny_plan.folder, loaded(corpus_folder, plan, [0]))
    assert len(lines) > 100


def test_wide_tokens_are_read_too(corpus_folder, tiny_plan, folders):
    """A vocabulary above 65,536 is stored in four bytes a token."""
    corpus, plan = folders
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["dtype"] = "uint32"
    for shard in manifest["shards"]:
        path = corpus / shard["name"]
        np.fromfile(path, "<u2").astype("<u4").tofile(path)
        shard["sha256"] = file_sha256(path)
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    assert found(corpus, plan, loaded(corpus, plan)) == []
    assert found(corpus, plan, loaded(corpus_folder, tiny_plan.folder)) == []


def test_a_window_beyond_the_corpus_is_an_error(corpus_folder, tiny_plan, folders):
    _, plan = folders
    source = np.load(plan / "columns" / "source.npy")
    source[tiny_plan.columns["kind"] == 1] = 261
    np.save(plan / "columns" / "source.npy", source)
    with pytest.raises(ValueError, match="window 261 of reserve does not exist"):
        [PlainReader(corpus_folder, plan).step(k) for k in range(40)]


def test_it_shares_no_code_with_loader_and_planner():
    """A second opinion is worth something only if it is one (C5)."""
    code = "import sys, ttoaa.planning.audit.reference_reader\n"
    code += "print(*sorted(m for m in sys.modules if m.startswith('ttoaa')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "ttoaa",
        "ttoaa.planning",
        "ttoaa.planning.audit",
        "ttoaa.planning.audit.reference_reader",
    ]


@pytest.fixture(scope="module")
def of_every_kind(plan_of):
    """A plan with copied tokens, reserve rows, a controller's slots and marks."""
    items = (
        Item("slot", "kept", 5, slot=6),
        Item("mark", "seen", 5, mark=7),
        Item("text", "told", 5, np.arange(9, dtype=np.int32) + 40),
    )
    return plan_of([Given("given", items=items), Planted("rows", windows=4)])


@pytest.mark.parametrize("kind", [TOKENS, RESERVE, SLOT, MARK])
@pytest.mark.parametrize("what", ["tokens", "arms"])
def test_one_wrong_value_in_an_edit_of_any_kind_is_found(of_every_kind, kind, what):
    columns, corpus = of_every_kind.columns, of_every_kind.folder.parent / "corpus"
    edit = int(np.flatnonzero(columns["kind"] == kind)[2])
    position, offset = int(columns["position"][edit]), int(columns["offset"][edit])
    step, row, column = position // 8, position % 8, offset + int(columns["length"][edit]) - 1
    (share,) = loaded(corpus, of_every_kind.folder, [step])
    assert found(corpus, of_every_kind.folder, [share]) == []
    value = getattr(share, what)
    assert share.arms[row, column] == (0 if kind == SLOT else columns["arm"][edit])
    value[row, column] ^= 1
    (line,) = found(corpus, of_every_kind.folder, [share])
    assert line.startswith(f"step {step} row {row} token {column}: {what[:-1]} ")


@pytest.mark.parametrize("kind", [SLOT, MARK])
def test_a_slot_or_a_mark_that_the_loader_takes_for_tokens_is_found(of_every_kind, kind, tmp_path):
    plan, corpus = of_every_kind, of_every_kind.folder.parent / "corpus"
    folder = shutil.copytree(plan.folder, tmp_path / "plan")
    wrong, first = plan.columns["kind"].copy(), int(np.argmax(plan.columns["kind"] == kind))
    wrong[first] = TOKENS
    np.save(folder / "columns" / "kind.npy", wrong)
    source = plan.columns["source"].copy()
    source[first] = 0
    np.save(folder / "columns" / "source.npy", source)
    step = int(plan.columns["position"][first]) // 8
    assert found(corpus, plan.folder, loaded(corpus, folder, [step]))


def test_a_kind_that_there_is_not_is_an_error(of_every_kind, tmp_path):
    folder = shutil.copytree(of_every_kind.folder, tmp_path / "plan")
    kinds = np.load(folder / "columns" / "kind.npy")
    kinds[3] = 5
    np.save(folder / "columns" / "kind.npy", kinds)
    reader = PlainReader(of_every_kind.folder.parent / "corpus", folder)
    with pytest.raises(ValueError, match="edit 3 of the plan has the unknown kind 5"):
        [reader.step(step) for step in range(40)]


@pytest.fixture
def controlled(plan_of):
    """A workdir whose run decided on the first 24 of 40 steps, with two controllers."""
    items = (
        Item("held", "told", 0, np.arange(9, dtype=np.int32) + 40),
        Item("fast", "fast", 40, slot=6, placement=PerInterval(4)),
        Item("slow", "slow", 10, slot=4, placement=PerInterval(8)),
    )
    plan = plan_of([Planted("before"), Given("given", items=items)])
    workdir = Workdir(plan.folder.parent)
    texts = [[np.arange(k, k + 2 + k % 3, dtype=np.int32) + 100 for k in range(5)], [[7, 8, 9]]]
    controller_log.store_slot_texts(
        workdir.run("run") / controller_log.SLOT_TEXTS_FOLDER,
        [SlotTexts("given", "fast", 4, texts[0]), SlotTexts("given", "slow", 8, texts[1])],
    )
    log = controller_log.ControllerLog(workdir.run("run") / controller_log.LOG_NAME, "root")
    for interval in range(6):
        chosen = [(interval + k) % 5 for k in range(interval % 4)]
        told = {"experiment": "given", "slots": "fast", "interval": interval, "chosen": chosen}
        log.append([{**told, "step": 4 * interval, "log_p": [], "state": {}}])
        if interval % 2 == 0:
            told |= {"slots": "slow", "interval": interval // 2, "chosen": [0]}
            log.append([{**told, "step": 4 * interval, "log_p": [], "state": {}}])
    return workdir, plan


def test_what_a_run_decided_is_audited_too(controlled):
    workdir, plan = controlled
    run = workdir.run("run")
    reader = PlainReader(workdir.corpus, workdir.plan, run)
    assert reader.decided == 24
    sizes = [2 + (interval + k) % 5 % 3 for interval in range(6) for k in range(interval % 4)]
    assert sum(map(len, reader.filled.values())) == sum(sizes) + 3 * 3
    assert compare.audit(workdir, 40, 0, hosts=[1, 2]) == (
        "24 batches (6,144 tokens and arms) audited as each of 1, 2 hosts, with the decisions "
        "of the run, no difference"
    )
    with pytest.raises(
        ValueError, match="the run has decided steps 0 to 23: step 24 cannot be audited"
    ):
        compare.audit(workdir, 0, 0, [24])
    arms = {arm["name"]: arm["id"] for arm in plan.arms}
    written = np.concatenate([reader.step(step)[1] for step in range(24)])
    assert (written == arms["given/slow"]).sum() == 9
    assert (written == arms["given/fast"]).sum() == sum(sizes)


@pytest.mark.parametrize("what", ["chosen", "token"])
def test_a_wrong_decision_or_text_is_found(controlled, monkeypatch, what):
    workdir, _ = controlled
    folder = workdir.run("run")
    right = controller_log.load_slot_texts(folder / controller_log.SLOT_TEXTS_FOLDER)
    if what == "token":
        right[1].texts[0][2] += 1
        monkeypatch.setattr(controller_log, "load_slot_texts", lambda folder: right)
    else:
        lines = controller_log.read_log(folder / controller_log.LOG_NAME)
        lines[-1]["chosen"] = [(text + 1) % 5 for text in lines[-1]["chosen"]]
        monkeypatch.setattr(controller_log, "read_log", lambda path: lines)
    with pytest.raises(ValueError, match=r"the audit found \d+ differences; first: step \d+ row"):
        compare.audit(workdir, 40, 0)


def test_where_nothing_is_decided_or_asked_there_is_nothing_to_audit(controlled):
    workdir, _ = controlled
    with pytest.raises(ValueError, match="--audit compares at least 1 batch, not 0"):
        compare.audit(workdir, 0, 0)
    (workdir.run("run") / controller_log.LOG_NAME).write_bytes(b"")
    with pytest.raises(ValueError, match="run has made no decision yet"):
        compare.audit(workdir, 5, 0)


def test_a_broken_chain_of_decisions_is_named(controlled):
    workdir, _ = controlled
    path = workdir.run("run") / controller_log.LOG_NAME
    path.write_bytes(path.read_bytes() + b'{"cut short')  # by a kill: no line yet
    assert PlainReader(workdir.corpus, workdir.plan, path.parent).decided == 24
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(ValueError, match="line 3 breaks its chain of hashes"):
        PlainReader(workdir.corpus, workdir.plan, path.parent)
