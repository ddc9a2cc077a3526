import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from ttoaa.data.corpus import Corpus, file_sha256
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning.audit import PlainReader, differences
from ttoaa.planning.overlay import Overlay
from ttoaa.planning.plan import Plan

# The corpus has 139 training windows of 32 tokens: epochs end inside the steps 17 and 34.
STEPS = (0, 16, 17, 18, 25, 34, 39)


@pytest.fixture
def folders(corpus_folder, tiny_plan, tmp_path):
    """A copy of (corpus, plan), for whoever plants a fault."""
    return [
        shutil.copytree(source, tmp_path / source.name)
        for source in (corpus_folder, tiny_plan.folder)
    ]


def loaded(corpus, plan, steps=STEPS):
    """(step, tokens, arms) of the fast loader, without the checks that opening makes."""
    corpus, plan = Corpus.open(corpus, verify=False), Plan(plan)
    order = Order(**plan.contents["order"])
    for step in steps:
        batch = next(
            batches(corpus, order, plan.geometry, [Overlay(plan, corpus)], start=step, threads=0)
        )
        yield batch["step"], batch["tokens"], batch["arms"]


def test_no_difference_in_any_epoch(corpus_folder, tiny_plan):
    reader = PlainReader(corpus_folder, tiny_plan.folder)
    assert differences(reader, loaded(corpus_folder, tiny_plan.folder, range(40))) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_no_difference_with_other_seeds(plan_of, tiny_study, seed):
    plan = plan_of(tiny_study.experiments, seed)
    reader = PlainReader(plan.folder.parent / "corpus", plan.folder)
    assert differences(reader, loaded(reader.corpus, plan.folder)) == []


def test_one_wrong_token_of_the_loader_is_found(corpus_folder, tiny_plan):
    batch = [(k, tokens, arms) for k, tokens, arms in loaded(corpus_folder, tiny_plan.folder)]
    right = int(batch[3][1][6, 13])
    batch[3][1][6, 13] = (right + 1) % 320
    found = differences(PlainReader(corpus_folder, tiny_plan.folder), batch)
    assert found == [
        f"step 18 row 6 token 13: token {(right + 1) % 320} in the loader, {right} by the plan"
    ]


def test_one_wrong_arm_of_the_loader_is_found(corpus_folder, tiny_plan):
    batch = [(k, tokens, arms) for k, tokens, arms in loaded(corpus_folder, tiny_plan.folder)]
    batch[0][2][0, 0] ^= 1
    assert len(differences(PlainReader(corpus_folder, tiny_plan.folder), batch)) == 1


def test_one_token_of_the_plan_is_found(corpus_folder, tiny_plan, folders):
    """The loader reads a corrupted copy, the reader the plan as it was made."""
    _, plan = folders
    tokens = np.load(plan / "tokens.npy")
    edit = int(np.flatnonzero(tiny_plan.columns["kind"] == 0)[0])
    source, arm = (int(tiny_plan.columns[name][edit]) for name in ("source", "arm"))
    tokens[source + 2] = (tokens[source + 2] + 1) % 320
    np.save(plan / "tokens.npy", tokens)
    found = differences(
        PlainReader(corpus_folder, tiny_plan.folder), loaded(corpus_folder, plan, range(40))
    )
    items = tiny_plan.columns["item"]
    assert len(found) == (items == items[edit]).sum() and arm
    position = int(tiny_plan.columns["position"][edit])
    offset = int(tiny_plan.columns["offset"][edit]) + 2
    assert found[0].startswith(f"step {position // 8} row {position % 8} token {offset}: token")


@pytest.mark.parametrize("name", ["offset", "source", "arm", "length"])
def test_one_wrong_entry_of_a_column_is_found(corpus_folder, tiny_plan, folders, name):
    _, plan = folders
    column = np.load(plan / "columns" / f"{name}.npy")
    edit = int(np.flatnonzero(tiny_plan.columns["kind"] == 0)[4])
    column[edit] = column[edit] - 1 if column[edit] else 1
    np.save(plan / "columns" / f"{name}.npy", column)
    found = differences(
        PlainReader(corpus_folder, tiny_plan.folder), loaded(corpus_folder, plan, range(40))
    )
    position = int(tiny_plan.columns["position"][edit])
    assert found
    assert all(f.startswith(f"step {position // 8} row {position % 8} token") for f in found)


def test_one_changed_byte_of_the_corpus_is_found(corpus_folder, tiny_plan, folders):
    corpus, _ = folders
    shard = sorted(corpus.glob("train-*.bin"))[1]
    content = bytearray(shard.read_bytes())
    content[2 * 100] ^= 1
    shard.write_bytes(content)
    found = differences(
        PlainReader(corpus_folder, tiny_plan.folder), loaded(corpus, tiny_plan.folder, range(40))
    )
    # Its window is trained on two or three times, and no edit covers it every time.
    assert 1 <= len(found) <= 3 and len({f.partition("token ")[2][:3] for f in found}) == 1
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        Corpus.open(corpus)


def test_another_order_is_found(corpus_folder, tiny_plan, folders):
    _, plan = folders
    meta = json.loads((plan / "plan.json").read_text())
    meta["contents"]["order"]["seed"] = 5
    (plan / "plan.json").write_text(json.dumps(meta))
    found = differences(
        PlainReader(corpus_folder, tiny_plan.folder), loaded(corpus_folder, plan, [0])
    )
    assert len(found) > 100


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
    assert differences(PlainReader(corpus, plan), loaded(corpus, plan)) == []
    assert differences(PlainReader(corpus, plan), loaded(corpus_folder, tiny_plan.folder)) == []


def test_a_window_beyond_the_corpus_is_an_error(corpus_folder, tiny_plan, folders):
    _, plan = folders
    source = np.load(plan / "columns" / "source.npy")
    source[tiny_plan.columns["kind"] == 1] = 64
    np.save(plan / "columns" / "source.npy", source)
    with pytest.raises(ValueError, match="window 64 of reserve does not exist"):
        [PlainReader(corpus_folder, plan).step(k) for k in range(40)]


def test_it_shares_no_code_with_loader_and_planner():
    """A second opinion is worth something only if it is one (C5)."""
    code = "import sys, ttoaa.planning.audit\n"
    code += "print(*sorted(m for m in sys.modules if m.startswith('ttoaa')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ttoaa", "ttoaa.planning", "ttoaa.planning.audit"]
