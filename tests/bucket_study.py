"""Make a study in an emulated bucket on several machines, with kills; compare it with a local one.

  PYTHONPATH=.:tests python tests/bucket_study.py

Each machine is a process with a separate cache. The control run is killed during a save, and
resumes as two processes on two other machines; the full run is killed, and resumes as one process
on another machine; a further machine evaluates and reports. It prints a JSON line.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import buckets
import numpy as np
import pytest
import studies
from conftest import write_text
from training.processes import free_port

from ttoaa import bucket, evaluate, plan, prepare, report, shared_files, train
from ttoaa.data.corpus import Corpus
from ttoaa.gcs_objects import Object
from ttoaa.parquet_io import read_outcomes
from ttoaa.planning.plan import Plan
from ttoaa.training.checkpoint_io import committed_steps, read_meta
from ttoaa.workdir import Workdir

URL = "gs://bucket/groups/study"


def run(command, *flags):
    assert studies.main(command, *flags) in (0, None)


def start(cache, *flags, slow=0.0):
    """Start a training process on the machine with this cache."""
    environment = buckets.environment(cache)
    environment |= {"XLA_FLAGS": studies.xla_flags(1), "TTOAA_TEST_SLOW": str(slow)}
    command = [sys.executable, "-m", "ttoaa.train", f"--workdir={URL}", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def end(*processes):
    """Wait for processes; return their seconds and last lines."""
    began = time.monotonic()
    said = [process.communicate(timeout=800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return {
        "seconds": round(time.monotonic() - began, 1),
        "said": [[x for x in text.splitlines() if "resumes" in x or "alive" in x] for text in said],
    }


def killed(process, folder, step):
    """Kill a trainer once it has begun to save this step; return what its checkpoints are then."""
    while str(step) not in shared_files.names(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return {"begun": shared_files.names(folder), "committed": committed_steps(folder)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the local study for a next time")
    asked = parser.parse_args()
    os.environ["XLA_FLAGS"] = studies.xla_flags(1)  # as the other processes have
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        root = asked.folder or pathlib.Path(temporary)
        gin, local = make_local(root)
        with tempfile.TemporaryDirectory() as caches:
            machines = pathlib.Path(caches)
            with buckets.emulated(patch, machines / "one"):
                result = in_bucket(patch, machines, gin)
                result |= compare(Workdir(local), Workdir(bucket.local_path(URL)))
                result["objects"] = len(list(Object("bucket", "groups").files()))
        print(json.dumps(result, indent=1))


def make_local(root):
    """Make the study in a folder, unless it is there; return its config file and folder."""
    local = root / "local"
    if (local / "report.html").exists():
        return root / "study.gin", local
    (root / "text").mkdir(parents=True)
    write_text(root / "text")
    gin = studies.write_gin(root, [str(root / "text")])
    run(prepare, local, f"--gin_file={gin}")
    run(plan, local)
    run(train, local, "--run=control")
    for command in (train, evaluate, report):
        run(command, local)
    return gin, local


def in_bucket(patch, root, gin):
    result = {}
    run(prepare, URL, f"--gin_file={gin}")
    run(plan, URL)
    there = Workdir(bucket.local_path(URL))
    for name in ("control", "run"):
        trainer = start(root / "one", f"--run={name}", slow=0.2)
        result[f"{name} killed"] = killed(trainer, there.run(name) / "checkpoints", 20)
    place = [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    pair = [
        start(root / cache, "--run=control", *place, f"--process_id={number}")
        for number, cache in enumerate(("two", "three"))
    ]
    result["control resumed by two processes"] = end(*pair)
    result["run resumed"] = end(start(root / "four", "--run=run"))
    buckets.enter(patch, root / "five")
    run(evaluate, URL)
    run(report, URL)
    return result


def compare(local, there):
    """Compare corpus, plan, parameters and tables of two studies."""
    corpora = [Corpus.open(each.corpus).fingerprint for each in (local, there)]
    plans = [Plan.open(each.plan).hash for each in (local, there)]
    prints = [
        read_meta(each.run("run") / "checkpoints", studies.STEPS)["fingerprints"]
        for each in (local, there)
    ]
    values = [
        {
            path.relative_to(each.tables).as_posix(): read_outcomes(path)
            for path in sorted(each.tables.glob("*/*/*.parquet"))
        }
        for each in (local, there)
    ]
    assert values[0].keys() == values[1].keys()
    alike = [name for name in values[0] if values[0][name].equals(values[1][name])]
    differences = [np.abs(values[0][n]["value"] - values[1][n]["value"]).max() for n in values[0]]
    return {
        "same corpus": len({*corpora}) == 1,
        "same plan": len({*plans}) == 1,
        "same bits of run": prints[0] == prints[1],
        "tables": len(values[0]),
        "same tables of run": sum(name.startswith("run/") for name in alike),
        "largest difference in tables": float(np.nanmax(differences)),
        "report": bucket.find(there.report).look().size,
    }


if __name__ == "__main__":
    main()
