"""Runs of a tiny study that are killed where a test says and gone on with, and how they ended."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import studies
from fakes import SENTENCE
from training.processes import free_port

from ttoaa import config, training_job
from ttoaa.training.checkpoint_io import committed_steps, read_checkpoint

STEPS = 12
GIN = f"""
import killing

Geometry.steps = {STEPS}
Training.checkpoint_every = 4
Training.validate_every = 4
Training.keep = @Keep()
Keep.last = 1
planted/Planted.probe_steps = (0, 3, 8, {STEPS})
"""
PHASES = {
    "init": "start-up",
    "restore": "start-up: restore",
    "note": "start-up",
    "compile": "start-up",
    "step": "step",
    "decide": "evaluation",
    "evaluate": "evaluation",
    "save": "async save",
    "commit": "commit",
    "delete": "deletion of an old checkpoint",
    "write": "finishing",
    "finish": "finishing",
}
OURS = ("train: ", "control: resumes on")
JAXS = "another task died"
"""In what JAX says when it is the first to notice that a process is gone; it aborts then."""
SOON = 75.0
"""Seconds within which the other process must have ended; --join_timeout is the longest wait."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """A signal at a place (killing.py), or so many seconds after the run's first such place."""

    place: str
    """'<point> <before|after>'; '' with `after` for the start of the process."""
    visit: int = 1
    number: signal.Signals = signal.SIGKILL
    process: int = 0
    after: float | None = None

    @property
    def slow(self):
        """Whether the run must not be over before the signal is heard."""
        return self.after is not None or self.number == signal.SIGTERM

    @property
    def target(self):
        return "" if self.after is not None else f"{self.place} {self.visit} {self.number:d}"


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A run killed at all these, one start each, and then left to end."""

    kills: tuple[Kill, ...]
    processes: int = 1


class Study:
    """Many runs of one study."""

    def __init__(self, root, paths, corpus=None):
        self.root, self.whole = root, {}
        gin = studies.write_gin(root, paths)
        gin.write_text(gin.read_text() + GIN)
        self.flags = [
            f"--gin_file={gin}",
            "--run=control",
            "--heartbeat_timeout=10",
            "--join_timeout=60",
        ]
        self.corpus = corpus or self._prepared(gin)
        self.state = training_job.compiled_step(config.load([gin])[0]).state

    def _prepared(self, gin):
        told = studies.run("prepare", self.root / "prepared", f"--gin_file={gin}")
        assert told[0] == 0, told
        return self.root / "prepared/corpus"

    def folder(self, name):
        folder = self.root / name.replace(" ", "-")
        folder.mkdir()
        (folder / "corpus").symlink_to(self.corpus)
        return folder

    def uninterrupted(self, processes):
        """The folder of a run that nothing disturbed; made once."""
        if processes not in self.whole:
            self.whole[processes] = folder = self.folder(f"whole {processes}")
            told = self.ends(self.start(folder, processes))
            assert [end["code"] for end in told] == [0] * processes, told
        return self.whole[processes]

    def run(self, name, case):
        """What is told of the case: a dict for JSON, its "good" says whether all is as it must."""
        whole, folder = self.uninterrupted(case.processes), self.folder(name)
        kills = [self.killed(folder, case.processes, kill) for kill in case.kills]
        ends = self.ends(self.start(folder, case.processes))
        same = self._same(folder, whole)
        codes = [end["code"] for end in ends]
        good = all(kill["good"] for kill in kills) and all(same.values()) and not any(codes)
        told = {"case": name, "processes": case.processes, "kills": kills, "then": codes}
        if any(codes):
            told["last"] = [end["last"] for end in ends]
        return {**told, "same": same, "good": good}

    def start(self, folder, processes, kill=None, devices=1, **layout):
        """All processes of the run, each with so many fake devices."""
        command = [sys.executable, "-m", "ttoaa.train", f"--workdir={folder}", *self.flags]
        command += [f"--gin_bindings=Layout.{axis} = {size}" for axis, size in layout.items()]
        if processes > 1:
            command += [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
        common = {
            **os.environ,
            "PYTHONPATH": studies.PYTHONPATH,
            "TTOAA_TEST_SLOW": "0.1" if kill and kill.slow else "0",
            "XLA_FLAGS": studies.xla_flags(devices),
        }
        running = []
        for process in range(processes):
            (folder / f"places-{process}").unlink(missing_ok=True)
            own = {"TTOAA_TEST_KILL": kill.target if kill and kill.process == process else ""}
            more = [f"--process_id={process}"] if processes > 1 else []
            with open(folder / f"told-{process}", "w") as told:
                options = {"stdout": told, "stderr": subprocess.STDOUT, "cwd": folder.anchor}
                running.append(subprocess.Popen([*command, *more], env=common | own, **options))
        for number, process in enumerate(running):
            process.told = folder / f"told-{number}"
        return running

    def ends(self, running, timeout=180):
        """Of each process its exit code, the lines that are ours, and when it ended."""
        ended, limit = {}, time.monotonic() + timeout
        while len(ended) < len(running):
            for number, process in enumerate(running):
                if number not in ended and process.poll() is not None:
                    ended[number] = time.monotonic()
                elif time.monotonic() > limit:
                    process.kill()
            time.sleep(0.02)
        told = []
        for number, process in enumerate(running):
            text = process.told.read_text(errors="replace").replace("\r", "\n").splitlines()
            ours = [line[:300] for line in text if line.startswith(OURS) or JAXS in line]
            end = {"code": process.returncode, "told": ours, "when": ended[number]}
            told.append(end | {"last": text[-20:]})
        return told

    def killed(self, folder, processes, kill, **where):
        """What is told of a start that ends with this kill."""
        running = self.start(folder, processes, kill, **where)
        if kill.after is not None:
            while kill.place and kill.place not in _places(folder, kill.process):
                assert running[kill.process].poll() is None, "ended before its kill"
                time.sleep(0.005)
            time.sleep(kill.after)
            running[kill.process].send_signal(kill.number)
        told = self.ends(running)
        places = _places(folder, kill.process)
        hit = {
            "signal": kill.number.name,
            "process": kill.process,
            "phase": _phase(places, kill),
            "place": f"{kill.place} {kill.visit}" if kill.after is None else f"{kill.after:.2f} s",
            "steps": places.count("step before"),
            "left": _left(folder / "control"),
            "codes": [end["code"] for end in told],
            "told": [line for end in told for line in end["told"]],
            "seconds": round(max(e["when"] for e in told) - min(e["when"] for e in told), 1),
        }
        reached = kill.after is not None or places.count(kill.place) >= kill.visit
        if not (reached and _as_it_should(kill, told, hit["seconds"])):
            return {**hit, "good": False, "last": [end["last"] for end in told]}
        return {**hit, "good": True}

    def _same(self, folder, whole):
        """Which parts of how it ended are those of the whole run, to the bit."""
        items = {name: self.state[name] for name in ("params", "opt", "guard")}
        folders = [path / "control" for path in (folder, whole)]
        one, other = (read_checkpoint(path / "checkpoints", STEPS, **items) for path in folders)
        same = {name: studies.same_bits(one[name], other[name]) for name in items}
        ours, theirs = map(studies.records, folders)
        finished = [json.loads((path / "finished.json").read_text()) for path in folders]
        for each in finished:  # metrics have times
            del each["records"], each["sha256"]
        left = [_left(path) for path in folders]
        same |= {name: ours[name] == theirs[name] for name in ours}
        return same | {"finished": finished[0] == finished[1], "left": left[0] == left[1]}


def random_kills(seed, number, processes=1):
    """At random: every other one from the first step on, the others from the process's start."""
    rng = np.random.default_rng(seed)
    for k in range(number):
        after = float(rng.uniform(0, 6 if k % 2 else 1.5))
        place, process = ("", "step before")[k % 2 == 0], int(rng.integers(processes))
        yield Kill(place, after=after, process=process)


def _places(folder, process):
    path = folder / f"places-{process}"
    return path.read_text().splitlines() if path.exists() else []


def _phase(places, kill):
    """By the place of the kill; of a random one by what was begun and not ended."""
    if kill.after is None:
        return PHASES[kill.place.split()[0]]
    begun = [place.split()[0] for place in places if place.endswith("before")]
    ended = [place.split()[0] for place in places if place.endswith("after")]
    inside = {PHASES[point] for point in begun if begun.count(point) > ended.count(point)}
    return " + ".join(sorted(inside)) or ("step" if "compile" in ended else "start-up")


def _left(run):
    """What a kill left of checkpoints."""
    folder = run / "checkpoints"
    names = sorted(path.name for path in folder.glob("*")) if folder.exists() else []
    other = [name for name in names if not name.isdecimal() and not name.startswith(".")]
    return {"checkpoints": committed_steps(folder), "other": other}


def _as_it_should(kill, told, seconds):
    code = told[kill.process]["code"]
    if kill.number == signal.SIGTERM:
        # All stop with 143; a start-up ends at once; what is nearly over ends as usual.
        codes = {end["code"] for end in told}
        return len(codes) == 1 and codes <= {143, 0, -signal.SIGTERM}
    others = [end for end in told if end is not told[kill.process]]
    # Our one line, unless JAX, in a thread of its own, is faster to abort; it may talk meanwhile.
    missed = all(
        (end["code"] == 1 and sum(line.startswith("train: ") for line in end["told"]) == 1)
        or end["code"] == -signal.SIGABRT
        for end in others
    )
    return code == -signal.SIGKILL and missed and seconds < SOON


def write_text(folder):
    """Paths of 100 documents of common words."""
    rng = np.random.default_rng(13)
    texts = [" ".join(rng.choice(SENTENCE.split(), rng.integers(10, 40))) for _ in range(100)]
    folder.mkdir(parents=True)
    (folder / "all.txt").write_text("\n%%\n".join(texts))
    return [str(folder)]
