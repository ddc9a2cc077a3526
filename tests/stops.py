"""Commands that get SIGINT or SIGTERM at random moments, are started again, and end as ever."""

import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import studies

from ttoaa.training.checkpoint_io import read_meta

NUMBERS = (signal.SIGINT, signal.SIGTERM)
PARTS = ("corpus", "plan", "control", "run", "tables", "report.html", "summary.json")
HANG = 120.0
"""Seconds after a signal within which a command must have ended."""
LONG = 1800.0
"""Seconds that a whole command may take on a busy machine."""


@dataclasses.dataclass(frozen=True)
class Command:
    """A command, the parts of a study that it needs, and those that it makes."""

    module: str
    needs: tuple[str, ...]
    makes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    slow: float = 0.0
    """Seconds that each batch takes."""

    @property
    def name(self):
        return self.module


COMMANDS = (
    Command("prepare", (), ("corpus/*.bin", "corpus/*.json")),
    Command("plan", PARTS[:1], ("plan/*",)),
    Command("train", PARTS[:1], (), ("--run=control",), slow=0.05),
    Command("evaluate", PARTS[:4], ("tables/*/*/*.parquet",)),
    Command("report", PARTS[:5], ("summary.json",)),
    Command("status", PARTS),
    # Its tables name the checkpoints they were made from, whose metadata hold seconds.
    Command("study", PARTS[:1], ("summary.json",), slow=0.02),
    Command("compile", (), flags=("--topology=cpu:1",)),
    Command(
        "export",
        PARTS[:4],
        ("exported/model.safetensors", "exported/README.md"),
        ("model", "--target={workdir}/exported"),
    ),
)
VARYING = ("ledger.json",)
"""Files that hold seconds."""


class Whole:
    """A finished study, and what each command makes of its parts when nothing disturbs it."""

    def __init__(self, root, workdir):
        self.root, self.workdir, self._made = root, workdir, {}

    def copy(self, command, name):
        folder = self.root / name
        folder.mkdir()
        for part in ("config.gin", *command.needs):
            copied = shutil.copytree if (self.workdir / part).is_dir() else shutil.copy
            copied(self.workdir / part, folder / part)
        return folder

    def made(self, command):
        """(seconds, contents) of the command, undisturbed; made once."""
        if command.name not in self._made:
            folder = self.copy(command, f"whole-{command.name}".replace(" ", "-"))
            began = time.monotonic()
            process = start(command, folder)
            assert process.wait(LONG) == 0, told(folder)
            self._made[command.name] = time.monotonic() - began, contents(command, folder)
            shutil.rmtree(folder)
        return self._made[command.name]


def start(command, folder):
    """The command on this folder; what it prints goes to <folder>/told."""
    given = [flag.format(workdir=folder) for flag in command.flags]
    given += [f"--workdir={folder}"]
    environment = {
        **os.environ,
        "PYTHONPATH": studies.PYTHONPATH,
        "TTOAA_TEST_SLOW": str(command.slow),
        "XLA_FLAGS": studies.xla_flags(1),
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    with open(folder / "told", "wb") as file:
        line = [sys.executable, "-m", f"ttoaa.{command.module}", *given]
        options = {"stdout": file, "stderr": subprocess.STDOUT, "cwd": folder.anchor}
        process = subprocess.Popen(line, env=environment, **options)
    return process


def told(folder):
    return (folder / "told").read_text(errors="replace").replace("\r", "\n")


def contents(command, folder):
    paths = [path for pattern in command.makes for path in sorted(folder.glob(pattern))]
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file() and path.name not in VARYING
    }
    if command.module == "train" and (folder / "control/finished.json").exists():
        meta = read_meta(folder / "control/checkpoints", studies.STEPS)
        found |= {
            "parameters": meta["fingerprints"],
            "records": studies.records(folder / "control"),
        }
    return found


def handles(process):
    """Whether the process has come to the first line of ours: it handles SIGTERM."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def stop(command, folder, number, after):
    """Start the command, send a signal so many seconds after its first line; what came of it."""
    process = start(command, folder)
    while process.poll() is None and not handles(process):
        time.sleep(0.001)
    time.sleep(after)
    hit = process.poll() is None
    process.send_signal(number)
    began = time.monotonic()
    try:
        code = process.wait(HANG)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    return {
        "command": command.name,
        "signal": number.name,
        "after": round(after, 3),
        "hit": hit and code != 0,
        "code": code,
        "seconds": round(time.monotonic() - began, 2),
        "problems": _problems(command, folder, number, code, hit),
    }


def _problems(command, folder, number, code, hit):
    text = told(folder)
    found = [word for word in ("Traceback", "Exception ignored", "leaked") if word in text]
    if code is None:
        found.append("hang")
    elif code not in (128 + number, 0):  # 0: it came to its end
        found.append(f"exit code {code}")
    lines = [line for line in text.splitlines() if "stopped" in line]
    if code == 128 + number and len(lines) != 1:
        found.append(f"{len(lines)} lines")
    if hit and code == 0 and not _is_complete(command, folder):
        found.append("exit code 0 although stopped")
    found += [str(path.relative_to(folder)) for path in left_over(folder)]
    return [*found, text[-2000:]] if found else []


def _is_complete(command, folder):
    return bool(contents(command, folder)) or not (command.makes or command.module == "train")


def left_over(folder):
    """Unfinished files, leases and pins; an unfinished preparation is kept for the next start."""
    found = [*folder.rglob("*.tmp-*"), *folder.rglob("leases/*"), *folder.rglob("pins/*")]
    return [path for path in found if path.is_file() or ".tmp-" in path.name]


def chains(whole, count, seed, commands=COMMANDS):
    """Yield what came of `count` signals; each command is stopped a few times, then ends.

    What it then made must be what it makes undisturbed.
    """
    rng, done, chain = random.Random(seed), 0, 0
    while done < count:
        command = commands[chain % len(commands)]
        chain += 1
        seconds, expected = whole.made(command)
        folder = whole.copy(command, f"chain-{chain}")
        for _ in range(rng.randint(1, 4)):
            # Half of the moments lie in the imports, which are most of a tiny command.
            after = rng.uniform(0, rng.choice((0.3, 1.0)) * seconds)
            line = stop(command, folder, rng.choice(NUMBERS), after)
            done += line["hit"]
            yield line
            if line["code"] == 0:
                break
        if code := line["code"]:  # some commands refuse to make again what they made
            code = start(command, folder).wait(LONG)
        ended = {"command": command.name, "then": code, "problems": []}
        if code or contents(command, folder) != expected:
            ended["problems"] = [f"exit code {code}, or other results", told(folder)[-2000:]]
        elif left := left_over(folder):
            ended["problems"] = [str(path) for path in left]
        yield ended
        shutil.rmtree(folder, ignore_errors=True)
