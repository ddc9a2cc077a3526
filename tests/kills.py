"""The kill matrix: python -m tests.kills prints a JSON line for each moment, and a summary.

A tiny run is killed at a moment, by SIGTERM or `kill -9`, started again and left to end: its
parameters, moments and records must be those of a run that nothing disturbed, to the bit. Of two
processes one is killed, and the other must end by itself soon. Exits with 1 where anything differs.

With --signals=200, all commands get so many SIGINT and SIGTERM at random moments instead, from
their first line on (stops.py). Every one must end with 130 or 143, one line, and nothing left; the
command is then started again, and must make what it makes undisturbed.
"""

import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import signal
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import stops
import studies
from interrupted import Interrupted, Kill, Study, random_kills, write_text

TERM = signal.SIGTERM
MIDWAY = Kill("commit after")
"""Checkpoint 4 is there, so that the next start restores."""


def cases(seed):
    """{name: Interrupted}: every phase, one process and two."""
    one = {
        "first state": (Kill("init after"),),
        "first record": (Kill("note before"),),
        "compile": (Kill("compile before", number=TERM),),
        "restore": (MIDWAY, Kill("restore after")),
        "restore, SIGTERM": (MIDWAY, Kill("restore after", number=TERM)),
        "restored": (MIDWAY, Kill("compile after")),
        "step": (Kill("step before", 6),),
        "step, SIGTERM": (Kill("step before", 6, TERM),),
        "save": (Kill("save before", 5),),
        "save, SIGTERM": (Kill("save before", 2, TERM),),
        "before the rename": (Kill("commit before", 2),),
        "after the rename": (Kill("commit after", 2),),
        "commit, SIGTERM": (Kill("commit before", 1, TERM),),
        "probe": (Kill("evaluate after", 5),),
        "validation, SIGTERM": (Kill("evaluate after", 4, TERM),),
        "deletion": (Kill("delete before"),),
        "deletion done": (Kill("delete after"),),
        "last rename": (Kill("commit before", 3),),
        "finishing": (Kill("finish before"),),
        "finishing, ledger written": (Kill("write before", 3),),
    }
    two = {
        "compile": (Kill("compile before", process=1),),
        "restore": (MIDWAY, Kill("restore before", process=1)),
        "step": (Kill("step before", 6, process=1),),
        "step, SIGTERM": (Kill("step before", 2, TERM, process=1),),
        "step of the primary": (Kill("step before", 6),),
        "save": (Kill("save before", 5),),
        "save, SIGTERM": (Kill("save before", 2, TERM),),
        "before the rename": (Kill("commit before", 2),),
        "after the rename": (Kill("commit after", 2),),
        "probe": (Kill("evaluate after", 5, process=1),),
        "deletion": (Kill("delete before"),),
        "finishing": (Kill("finish before"),),
    }
    one |= {f"random {k}": (kill,) for k, kill in enumerate(random_kills(seed, 4))}
    two |= {f"random {k}": (kill,) for k, kill in enumerate(random_kills(seed, 2, 2))}
    named = {f"1 process, {name}": Interrupted(kills) for name, kills in one.items()}
    return named | {f"2 processes, {name}": Interrupted(kills, 2) for name, kills in two.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a pattern of names of cases")
    parser.add_argument("--workers", type=int, default=2, help="cases at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--signals", type=int, default=0, help="signals to all commands instead")
    asked = parser.parse_args()
    if asked.signals:
        sys.exit(signals(asked.signals, asked.seed, asked.only))
    chosen = {name: c for name, c in cases(asked.seed).items() if re.search(asked.only, name)}
    with tempfile.TemporaryDirectory() as root:
        study = Study(pathlib.Path(root) / "study", write_text(pathlib.Path(root) / "text"))
        for processes in sorted({case.processes for case in chosen.values()}):
            study.uninterrupted(processes)
        with concurrent.futures.ThreadPoolExecutor(asked.workers) as pool:
            told = []
            for line in pool.map(study.run, chosen, chosen.values()):
                print(json.dumps(line), flush=True)
                told.append(line)
    last = [line["kills"][-1] for line in told]
    summary = {
        "moments": len(told),
        "by_phase": collections.Counter(kill["phase"] for kill in last),
        "by_signal": collections.Counter(kill["signal"] for kill in last),
        "two_processes": sum(line["processes"] == 2 for line in told),
        "longest_wait_for_the_other": max((kill["seconds"] for kill in last), default=0),
        "bad": [line["case"] for line in told if not line["good"]],
    }
    print(json.dumps(summary))
    sys.exit(bool(summary["bad"]))


def signals(count, seed, only):
    """Send so many signals; print a JSON line for each, and a table. Returns the exit code."""
    commands = [command for command in stops.COMMANDS if re.search(only, command.name)]
    with tempfile.TemporaryDirectory() as root:
        folder = pathlib.Path(root)
        workdir, gin = folder / "work", studies.write_gin(folder, write_text(folder / "text"))
        code, _, error = studies.run("study", workdir, f"--gin_file={gin}")
        assert code == 0, error
        told = []
        for line in stops.chains(stops.Whole(folder, workdir), count, seed, commands):
            print(json.dumps(line), flush=True)
            told.append(line)
    hits = [line for line in told if line.get("hit")]
    print("| command | signals | SIGINT | exit codes | median s | longest s | problems |")
    print("|---|---|---|---|---|---|---|")
    for name in (command.name for command in commands):
        ours = [line for line in hits if line["command"] == name]
        codes = dict(collections.Counter(line["code"] for line in ours))
        seconds = [line["seconds"] for line in ours] or [0.0]
        ints = sum(line["signal"] == "SIGINT" for line in ours)
        bad = sum(bool(line["problems"]) for line in told if line["command"] == name)
        times = f"{statistics.median(seconds):.2f} | {max(seconds):.2f}"
        print(f"| {name} | {len(ours)} | {ints} | {codes} | {times} | {bad} |")
    bad = [line for line in told if line["problems"]]
    print(json.dumps({"signals": len(hits), "restarts": len(told) - len(hits), "bad": len(bad)}))
    return int(bool(bad))


if __name__ == "__main__":
    main()
