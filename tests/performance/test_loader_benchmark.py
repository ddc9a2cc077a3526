"""The loader's benchmark at a tiny size: it runs, and measures what it says."""

import json
import subprocess
import sys

import pytest

TINY = ["--tokens=200000", "--shard_tokens=20000", "--length=64", "--batch=8", "--turn=4"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader") / "made"
    command = [sys.executable, "-m", "tests.performance.loader", f"--folder={folder}", *TINY]
    done = subprocess.run([*command, "--turns=5"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not folder.exists()  # nothing is left behind
    return json.loads(done.stdout)


def test_it_measures_a_plan_of_every_kind_of_edit(result):
    assert result["turns"] == 5 and result["batch"] == 8
    assert result["edits"] >= 10
    assert 0.005 < result["edited_share"] < 0.1
    assert result["corpus_tokens"] == 10 * (20_000 // 64) * 64


def test_rates_and_ratios_agree_with_each_other(result):
    none, bare = result["tokens_per_second_per_core"], result["bare_tokens_per_second"]
    assert none > 0 and bare > 0
    assert result["memmap_ratio"] == pytest.approx(none / bare, abs=1e-3)
    assert 0 < result["experiments_ratio"] < 5
    assert result["none_threads1_million"] > 0 and result["none_workers1_million"] > 0
