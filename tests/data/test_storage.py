"""Publishing and staging, by fsspec's memory and local file systems; no bucket was there to try."""

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import fsspec
import numpy as np
import pytest

import ttoaa
from ttoaa.data import storage
from ttoaa.data.corpus import Corpus
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus of several shards, with the lease that preparing leaves behind or not."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["the", "cat", "sat", "☃"], 40)) for _ in range(80)]
    (folder / "all.txt").write_text("\n%\n".join(texts))
    source = TextFiles([str(folder / "all.txt")], separator="\n%\n")
    config = Prepare(source, TrainBPE(300, 20), reserve_fraction=0.3, shard_characters=2_000)
    prepare(config, folder / "corpus", progress=False)
    (folder / "corpus" / "leases").mkdir(exist_ok=True)
    (folder / "corpus" / "leases" / "prepare").write_text("ours")
    return folder / "corpus"


@pytest.fixture
def url(request):
    url = f"memory://{request.node.name}/corpus"
    yield url
    fsspec.filesystem("memory").rm(f"/{request.node.name}", recursive=True)


@pytest.fixture
def published(made, url):
    assert storage.publish(made, url, progress=False)
    return fsspec.filesystem("memory"), url.removeprefix("memory:/")


def content(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and "leases" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_published_is_staged_to_the_byte(made, url, tmp_path):
    assert storage.publish(made, url, progress=False)
    storage.stage(url, tmp_path / "corpus", progress=False)
    assert content(tmp_path / "corpus") == content(made) and len(content(made)) > 6
    assert Corpus.open(tmp_path / "corpus").fingerprint == Corpus.open(made).fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_sums_are_those_of_sha256sum(made, tmp_path):
    url = f"file://{tmp_path}/there/corpus"
    storage.publish(made, url, progress=False)
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    subprocess.run(command, cwd=tmp_path / "there" / "corpus", check=True)
    listed = (tmp_path / "there" / "corpus" / "SHA256SUMS").read_text()
    assert {line.split("  ")[1] for line in listed.splitlines()} == {*content(made)} - {
        "manifest.json"
    }
    storage.stage(url, tmp_path / "back", progress=False)
    assert content(tmp_path / "back") == content(made)


def test_publishing_again_does_nothing_and_another_is_refused(made, url, published, tmp_path):
    system, root = published
    before = {path: system.created(path) for path in system.find(root)}
    assert storage.publish(made, url, progress=False) is False
    assert before == {path: system.created(path) for path in system.find(root)}
    shutil.copytree(made, tmp_path / "other")
    text = (made / "manifest.json").read_text()
    (tmp_path / "other" / "manifest.json").write_text(text.replace("text of", "texts of"))
    with pytest.raises(ValueError, match=r"has another manifest\.json: publish to another URL"):
        storage.publish(tmp_path / "other", url, progress=False)


def test_publishing_goes_on_where_it_stopped(made, url, published):
    system, root = published
    whole = {path: system.cat_file(path) for path in system.find(root)}
    system.rm_file(f"{root}/manifest.json")
    system.rm_file(f"{root}/train-00001.bin")
    system.pipe_file(f"{root}/train-00002.bin", b"half")
    kept = system.created(f"{root}/train-00000.bin")
    assert storage.publish(made, url, progress=False)
    assert {path: system.cat_file(path) for path in system.find(root)} == whole
    assert system.created(f"{root}/train-00000.bin") == kept


def test_what_another_publishing_left_unfinished_is_not_taken_for_ours(made, url, published):
    system, root = published
    shard = f"{root}/train-00000.bin"
    whole = system.cat_file(shard)
    system.rm_file(f"{root}/manifest.json")
    system.pipe_file(shard, bytes(len(whole)))
    system.pipe_file(f"{root}/SHA256SUMS", b"of something else")
    storage.publish(made, url, progress=False)
    assert system.cat_file(shard) == whole


def test_staging_keeps_what_is_right_and_replaces_what_is_not(made, url, published, tmp_path):
    unfinished = tmp_path / "corpus.fetching"
    shutil.copytree(made, unfinished, ignore=shutil.ignore_patterns("manifest.json", "leases"))
    kept = (unfinished / "train-00000.bin").stat()
    flipped = bytearray((unfinished / "train-00001.bin").read_bytes())
    flipped[7] ^= 1
    (unfinished / "train-00001.bin").write_bytes(flipped)
    (unfinished / "train-00002.bin").write_bytes(b"cut")
    (unfinished / "train-00003.bin.tmp-elsewhere-1").write_bytes(b"of a killed call")
    storage.stage(url, tmp_path / "corpus", progress=False)
    assert content(tmp_path / "corpus") == content(made)
    after = (tmp_path / "corpus" / "train-00000.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


CHILD = """
import os, signal, sys
from ttoaa.data import storage

replace, left = os.replace, int(sys.argv[3])

def replace_until_killed(old, new):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(old, new)

os.replace = replace_until_killed
storage.stage(sys.argv[1], sys.argv[2], progress=False)
"""


@pytest.mark.parametrize("writes", [0, 4, -2, -1])
def test_killed_it_goes_on(made, tmp_path, writes):
    """-2 is before manifest.json has its name, -1 before the folder has."""
    url = f"file://{tmp_path}/there"
    storage.publish(made, url, progress=False)
    count = writes if writes >= 0 else len(content(made)) + 1 + writes
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(ttoaa.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, url, str(tmp_path / "corpus"), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "corpus").exists()
    storage.stage(url, tmp_path / "corpus", progress=False)
    assert content(tmp_path / "corpus") == content(made)


def test_a_damaged_file_is_named_and_nothing_gets_the_final_name(url, published, tmp_path):
    system, root = published
    shard = bytearray(system.cat_file(f"{root}/train-00001.bin"))
    shard[9] ^= 1
    system.pipe_file(f"{root}/train-00001.bin", bytes(shard))
    with pytest.raises(OSError, match=r"corpus/train-00001\.bin is damaged"):
        storage.stage(url, tmp_path / "corpus", progress=False)
    assert not (tmp_path / "corpus").exists()
    assert not (tmp_path / "corpus.fetching" / "train-00001.bin").exists()


def test_a_corpus_copied_by_other_means_is_checked_by_its_manifest(made, url, published, tmp_path):
    system, root = published
    system.rm_file(f"{root}/SHA256SUMS")
    storage.stage(url, tmp_path / "corpus", progress=False)
    assert content(tmp_path / "corpus").keys() == content(made).keys() - {"ledger.json"}
    system.rm_file(f"{root}/reserve-00000.bin")
    with pytest.raises(ValueError, match=r"has no reserve-00000\.bin: publish it again"):
        storage.stage(url, tmp_path / "again", progress=False)


def test_a_plan_is_a_folder_like_any_other(url, tmp_path):
    plan = tmp_path / "plan"
    (plan / "columns").mkdir(parents=True)
    (plan / "columns" / "position.npy").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="no finished corpus or plan"):
        storage.publish(plan, url, progress=False)
    (plan / "plan.json").write_text('{"hash": "abc"}')
    storage.publish(plan, url, progress=False)
    storage.stage(url, tmp_path / "here", progress=False)
    assert content(tmp_path / "here") == content(plan)
    fsspec.filesystem("memory").rm_file(url.removeprefix("memory:/") + "/SHA256SUMS")
    with pytest.raises(ValueError, match="has no SHA256SUMS: publish the plan with"):
        storage.stage(url, tmp_path / "again", progress=False)


def test_a_corpus_of_files_elsewhere_is_not_published(made, tmp_path):
    shutil.copytree(made, tmp_path / "corpus")
    text = (made / "manifest.json").read_text()
    text = text.replace('"train-00000.bin"', '"/data/part-0.npy"')
    (tmp_path / "corpus" / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"token files outside of it, such as /data/part-0\.npy"):
        storage.publish(tmp_path / "corpus", "memory://elsewhere", progress=False)


def test_a_check_comes_before_any_copying(url, published, tmp_path):
    def refuse(content):
        raise ValueError(f"another config: {hashlib.sha256(content).hexdigest()}")

    digest = hashlib.sha256(published[0].cat_file(f"{published[1]}/manifest.json")).hexdigest()
    with pytest.raises(ValueError, match=f"another config: {digest}"):
        storage.stage(url, tmp_path / "corpus", progress=False, check=refuse)
    assert not list(tmp_path.iterdir())


def test_bad_places_are_named(made, url, published, tmp_path, monkeypatch):
    system, root = published
    with pytest.raises(ValueError, match=r"nowhere has no finished corpus or plan"):
        storage.stage("memory://nowhere", tmp_path / "a", progress=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train-00000.bin").write_bytes(b"of an unfinished corpus")
    with pytest.raises(ValueError, match="b holds something unfinished: remove it"):
        storage.stage(url, tmp_path / "b", progress=False)
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=r"may need \d+\.\d MB and the disk has 0\.0 MB free"):
            storage.stage(url, tmp_path / "c", progress=False)
    sums = system.cat_file(f"{root}/SHA256SUMS")
    system.pipe_file(f"{root}/SHA256SUMS", sums + b"00  ../../outside\n")
    with pytest.raises(ValueError, match=r"lists \.\./\.\./outside, which is outside its folder"):
        storage.stage(url, tmp_path / "d", progress=False)


def test_a_tokenizer_may_be_at_a_url(made):
    system = fsspec.filesystem("memory")
    system.put_file(str(made / "tokenizer.json"), "/tokenizers/ours.json")
    existing = ExistingTokenizer("memory://tokenizers/ours.json")
    existing.check()
    assert existing.make(()) == (made / "tokenizer.json").read_bytes()
