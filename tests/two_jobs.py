"""Two evaluation jobs, a trainer that deletes, and a kill -9: python -m tests.two_jobs

Both jobs watch a folder in which a run trains and keeps its newest checkpoints alone. One job is
killed while it scores. Prints a JSON line: what was committed, begun and deleted, and whether that
is as it must be; exits with 1 where it is not.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import studies
from interrupted import write_text

EXPERIMENTS = ("planted", "late", "forgetting")
GIN = """
import auditing

Training.checkpoint_every = 2
Training.keep = @Keep()
Keep.last = 2
"""


def run(workdir, slow=0.2, seconds=0.2, timeout=600):
    """The verdict, as printed, on a folder with a finished control run and a plan.

    A batch takes `slow` seconds and an outcome `seconds` at least.
    """
    studies.edit_config(workdir, add=GIN)
    os.environ["TTOAA_TEST_AUDIT"] = str(seconds)
    limit = time.monotonic() + timeout
    try:
        jobs = [_start("evaluate", workdir, "--watch") for _ in range(2)]
        while len(list((workdir / "tables/leases").glob("job-*"))) < 2:
            _check(jobs, limit)
        trainer = _start("train", workdir, slow=slow)
    finally:
        del os.environ["TTOAA_TEST_AUDIT"]
    killed, opened = _kill_one(jobs, workdir, limit)
    (left,) = (job for job in jobs if job is not killed)
    codes = {"trainer": trainer.wait(timeout), "job": left.wait(timeout), "killed": killed.wait()}
    told = {**verdict(workdir, opened), "told_unscored": _told_unscored(left)}
    # It may not have seen those that came and went while it scored one table.
    good = told["good"] and told["told_unscored"] <= told["deleted_unread"]
    good = good and codes == {"trainer": 0, "job": 0, "killed": -signal.SIGKILL}
    return {**told, "codes": codes, "good": good}


def _told_unscored(job):
    """How many checkpoints it said at its end were deleted before they were scored."""
    found = re.search(r"before they were scored: (\d+)", job.told.read_text())
    return int(found.group(1)) if found else 0


def prepared(root, paths):
    """A new folder with what `run` needs."""
    gin, workdir = studies.write_gin(root, paths), root / "work"
    for stage in (("prepare", f"--gin_file={gin}"), ("train", "--run=control"), ("plan",)):
        code, _, told = studies.run(stage[0], workdir, *stage[1:])
        assert code == 0, told
    return workdir


def _start(module, workdir, *more, slow=0.0):
    with tempfile.NamedTemporaryFile(dir=workdir.parent, delete=False) as told:
        options = {"stdout": told, "stderr": subprocess.STDOUT}
        process = studies.start(module, workdir, *more, slow=slow, **options)
    process.told = pathlib.Path(told.name)
    return process


def _check(jobs, limit):
    """That they all run, and that it is not too late."""
    for job in jobs:
        assert job.poll() is None, job.told.read_text()[-2000:]
    assert time.monotonic() < limit, "too late"
    time.sleep(0.01)


def audit(workdir):
    path = workdir / "audit"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def _kill_one(jobs, workdir, limit):
    """(job killed, tables that it had open): one that made some and is at one of the run."""
    while True:
        for job in jobs:
            begun = _of(job, "begin", workdir)
            if begun and begun[-1][0] == "run" and _of(job, "commit", workdir):
                job.send_signal(signal.SIGKILL)
                job.wait()
                done = _of(job, "commit", workdir)
                return job, [t for t in _of(job, "begin", workdir) if t not in done]
        _check(jobs, limit)


def _of(job, what, workdir):
    lines = audit(workdir)
    return [_table(x) for x in lines if (x["what"], x["process"]) == (what, job.pid)]


def verdict(workdir, opened):
    """What the audit and the folder say; `opened` are the tables that the killed job had open."""
    lines = audit(workdir)
    by_kind = collections.defaultdict(list)
    for line in lines:
        by_kind[line["what"]].append(line)
    commits = collections.Counter(map(_table, by_kind["commit"]))
    begun = collections.Counter(map(_table, by_kind["begin"]))
    read = {(x["run"], x["step"]) for x in by_kind["pin"]}
    there = {
        (kind, int(path.name))
        for kind in ("control", "run")
        for path in (workdir / kind / "checkpoints").iterdir()
        if path.name.isdecimal()
    }
    wanted = {(*where, name) for where in read | there for name in EXPERIMENTS}
    found = {
        (path.parts[-3], int(path.parts[-2]), path.stem)
        for path in (workdir / "tables").glob("*/*/*.parquet")
    }
    # What a dead job has pinned stays pinned.
    ends = {(x["process"], x["run"], x["step"], x["began"]): x["time"] for x in by_kind["unpin"]}
    pinned = [(x["run"], x["step"], x["time"], _end(ends, x)) for x in by_kind["pin"]]
    while_pinned = [
        (x["run"], x["step"])
        for x in by_kind["delete"]
        for run, step, since, until in pinned
        if (x["run"], x["step"]) == (run, step) and since < x["began"] and until > x["time"]
    ]
    told = {
        "tables": len(found),
        "missing": sorted(wanted - found),
        "committed_twice": sorted(table for table, times in commits.items() if times > 1),
        "begun_twice": sorted(table for table, times in begun.items() if times > 1),
        "open_when_killed": opened,
        "by_job": dict(collections.Counter(x["process"] for x in by_kind["commit"])),
        "checkpoints_read_twice": len(by_kind["pin"]) - len(read),
        "deleted": len(by_kind["delete"]),
        "deleted_unread": len({(x["run"], x["step"]) for x in by_kind["delete"]} - read),
        "deleted_while_pinned": while_pinned,
        "leases_left": [path.name for path in (workdir / "tables/leases").iterdir()],
    }
    good = not (told["missing"] or told["committed_twice"] or while_pinned or told["leases_left"])
    good = good and set(commits) == found and told["begun_twice"] in ([], sorted(opened))
    return {**told, "good": good and len(told["by_job"]) == 2 and told["deleted"] > 0}


def _end(ends, pin):
    """When that pin was taken back; never, for a killed job's."""
    later = [
        until
        for (process, run, step, began), until in ends.items()
        if (process, run, step) == (pin["process"], pin["run"], pin["step"])
        and began <= pin["time"] <= until
    ]
    return min(later, default=float("inf"))


def _table(line):
    return line["run"], line["step"], line["experiment"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    asked, good = parser.parse_args(), True
    for _ in range(asked.repeats):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            told = run(prepared(root, write_text(root / "text")))
            good = good and told["good"]
            print(json.dumps(told), flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
