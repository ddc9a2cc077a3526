import json
import pathlib
import subprocess
import sys

import numpy as np

from tests.performance.scan import search

ROOT = pathlib.Path(__file__).parents[2]


def test_the_benchmark_finds_all_that_it_planted():
    command = [sys.executable, "-m", "tests.performance.scan", "--timings=1", "--planted=0.05"]
    sizes = ["--corpus_tokens=300000", "--few=50", "--many=2000"]
    done = subprocess.run([*command, *sizes], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["missed"] == result["false_matches"] == 0
    assert 309 <= result["planted"] <= result["found_1m"] and result["decoys"] >= 300
    assert 100 < result["found_1k"] < result["found_1m"]
    for size in ("1k", "1m"):
        assert result[f"tokens_per_second_per_core_{size}"] > 100_000


def test_the_plain_search_finds_what_stands_there():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, 4000).astype(np.uint32)
    patterns = np.stack([tokens[i : i + 50] for i in (0, 77, 3950, 1000)] + [np.arange(50)])
    tokens[1030] += 1  # the last of them is a near miss now
    assert search(tokens, patterns.astype(np.uint32)) == {(0, 0), (77, 1), (3950, 2)}
