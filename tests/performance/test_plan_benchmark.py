"""The benchmark of planning, at a ten-thousandth of the paper's items."""

import json

from absl import flags
from absl.testing import flagsaver

from tests.performance import plan


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
