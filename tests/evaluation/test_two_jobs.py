"""Two real jobs watch a folder in which a third process trains and deletes; one job is killed."""

import json

import pytest
import studies
import two_jobs


def test_every_table_is_committed_once(finished, tmp_path):
    workdir = studies.copy(finished[0], tmp_path / "work", "plan", "control")
    told = two_jobs.run(workdir, slow=0.1, seconds=0.1, timeout=300)
    assert told["good"], told


LINES = [
    {"what": "pin", "step": 2, "time": 10.0},
    {"what": "begin", "step": 2, "time": 11.0},
    {"what": "commit", "step": 2, "time": 12.0},
    {"what": "unpin", "step": 2, "time": 13.0, "began": 9.9},
]


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        ([{"what": "commit", "step": 2, "time": 14.0}], {"committed_twice": [["run", 2, "late"]]}),
        ([{"what": "begin", "step": 2, "time": 14.0}], {"begun_twice": [["run", 2, "late"]]}),
        (
            [{"what": "delete", "step": 2, "time": 12.5, "began": 11.0}],
            {"deleted_while_pinned": [["run", 2]]},
        ),
        (
            [
                {"what": "pin", "step": 4, "time": 20.0},
                {"what": "delete", "step": 4, "time": 90.0, "began": 89.0},
            ],
            {"deleted_while_pinned": [["run", 4]]},
        ),
        ([{"what": "delete", "step": 2, "time": 15.0, "began": 14.0}], {}),
        ([{"what": "delete", "step": 2, "time": 10.5, "began": 9.0}], {}),
    ],
)
def test_the_verdict_sees_what_is_broken(tmp_path, more, broken):
    told = [{"run": "run", "experiment": "late", "process": 7, **line} for line in LINES + more]
    (tmp_path / "audit").write_text("".join(json.dumps(line) + "\n" for line in told))
    (tmp_path / "tables/leases").mkdir(parents=True)
    for kind in ("control", "run"):
        (tmp_path / kind / "checkpoints").mkdir(parents=True)
    found = json.loads(json.dumps(two_jobs.verdict(tmp_path, [])))
    names = ("committed_twice", "begun_twice", "deleted_while_pinned")
    assert {name: found[name] for name in names if found[name]} == broken
    assert not found["good"] and ["run", 2, "late"] in found["missing"]
