"""The folder of a study: the paths in it, and how files and folders are written there.

A file or folder under its final name is always whole: it is written under another name, next to the
final one, and renamed once it is on disk. In the copy of a study in a bucket it is uploaded before.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

from ttoaa import bucket, shared_files, signals
from ttoaa.runs import CONTROL, PLAIN, REFERENCE, RUN, SUBSETS, check_run_name

RUNS = (CONTROL, RUN)
"""The runs that every study has."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of one study; those of seed s > 0 end in `-s<seed>`, those of seed 0 do not."""

    root: pathlib.Path
    seed: int = 0

    @property
    def config(self) -> pathlib.Path:
        return self.root / "config.gin"

    @property
    def corpus(self) -> pathlib.Path:
        return self.root / "corpus"

    @property
    def compilation_cache(self) -> pathlib.Path:
        return self.root / ".cache" / "xla"

    @property
    def summary(self) -> pathlib.Path:
        return self.root / "summary.json"

    @property
    def replication(self) -> pathlib.Path:
        return self.root / "replication.json"

    @property
    def report(self) -> pathlib.Path:
        return self.root / "report.html"

    @property
    def report_ledger(self) -> pathlib.Path:
        return self.root / "report_ledger.json"

    @property
    def preregistration(self) -> pathlib.Path:
        return self.root / "preregistration.json"

    @property
    def plan(self) -> pathlib.Path:
        return self._seeded("plan")

    def choices(self, experiment: str) -> pathlib.Path:
        """Return the table of what an experiment chose by the reference model."""
        return self._seeded("choices") / f"{experiment}.parquet"

    @property
    def tables(self) -> pathlib.Path:
        return self._seeded("tables")

    def run(self, name: str) -> pathlib.Path:
        """Return the folder of a run (see `ttoaa.runs`); raise ValueError for an invalid name."""
        if name == REFERENCE:  # one for all seeds
            return self.root / name
        check_run_name(name)
        kind, *one = name.split("/")
        return self._seeded(kind).joinpath(*one)

    def label(self, name: str) -> str:
        """Return a run's name with its seed, as its folder is called: 'alone-s1/canaries'."""
        return self.run(name).relative_to(self.root).as_posix()

    def runs(self) -> list[str]:
        """List the names of the runs of this seed: both standard ones, and other existing ones.

        Runs of an experiment that the plan does not have are omitted (see `strays`).
        """
        plain = [name for name in PLAIN if name in RUNS or self.run(name).is_dir()]
        return [
            *plain,
            *self._what_ifs(),
            *(name for name in self._subsets() if self._is_planned(name)),
        ]

    def strays(self) -> list[str]:
        """Return a line for each existing run of an experiment that the plan does not have."""
        return [
            f"{self.run(name)} is left out, as the plan has no experiment of that name (was it "
            "renamed?): move the folder away"
            for name in self._subsets()
            if not self._is_planned(name)
        ]

    def _subsets(self) -> list[str]:
        folders = {kind: self._seeded(kind) for kind in SUBSETS}
        return [
            f"{kind}/{path.name}"
            for kind, folder in folders.items()
            for path in sorted(folder.glob("*"))
            if path.is_dir()
        ]

    def _what_ifs(self) -> list[str]:
        """List the runs `control@STEP` and `run@STEP`, by step."""
        end = "" if self.seed == 0 else f"-s{self.seed}"
        pattern = re.compile(rf"((?:{'|'.join(RUNS)})@([1-9]\d*)){end}")
        found = [match for p in self.root.glob("*@*") if (match := pattern.fullmatch(p.name))]
        return [m[1] for m in sorted(found, key=lambda m: (m[1].partition("@")[0], int(m[2])))]

    def _is_planned(self, name: str) -> bool:
        items = self.plan / "items"
        experiment = name.partition("/")[2].partition("@")[0]
        return not items.exists() or (items / f"{experiment}.parquet").exists()

    def table(self, run: str, step: int, experiment: str) -> pathlib.Path:
        return self.tables / run / f"{step:08d}" / f"{experiment}.parquet"

    def _seeded(self, name: str) -> pathlib.Path:
        return self.root / (name if self.seed == 0 else f"{name}-s{self.seed}")

    def seeds(self) -> list[int]:
        """List the seeds that have a plan or a run here, ascending."""
        names = "|".join(("plan", *PLAIN, *SUBSETS))
        found = (
            re.fullmatch(rf"(?:{names})(?:@\d+)?(?:-s(\d+))?", p.name) for p in self.root.glob("*")
        )
        return sorted({int(match.group(1) or 0) for match in found if match})

    def trained_seeds(self) -> list[int]:
        """List the seeds with a checkpoint in some run, ascending."""
        return [
            each.seed
            for each in (Workdir(self.root, seed) for seed in self.seeds())
            if any(
                file.isdecimal()
                for name in each.runs()
                for file in shared_files.names(each.run(name) / "checkpoints")
            )
        ]


@contextlib.contextmanager
def atomic_writer(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when the context ends without an error, on disk by then.

    Raises OSError, naming the file, also where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = bucket.unfinished_name(path)
    with signals.unfinished(unfinished):
        try:
            with open(unfinished, "wb") as file:
                lock_while_open(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            bucket.publish(unfinished, path)
            os.replace(unfinished, path)
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            unfinished.unlink(missing_ok=True)


def lock_while_open(file: int) -> None:
    """Lock a file through the kernel, so that other processes see whether its owner is alive."""
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_of_dead_process(path: pathlib.Path) -> bool:
    """Return whether a file named …host-process… was left by a killed process of this machine.

    The kernel releases a dead process's lock. The process id alone is not sufficient: containers
    that share a folder and a host name number their processes independently.
    """
    found = re.search(rf"[-@]{re.escape(socket.gethostname())}-(\d+)(?:-[0-9a-f]+)?$", path.name)
    if not found or pathlib.Path("/proc", found[1]).exists():
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def remove_leftovers(root: pathlib.Path) -> None:
    """Remove the unfinished files that killed processes of this machine left in a study."""
    runs = ("*", *(f"{kind}*/*" for kind in SUBSETS))
    inside = [f"{folder}*.tmp-*" for run in runs for folder in (f"{run}/", f"{run}/controllers/")]
    tables = [f"tables*/{run}/*/*.tmp-*" for run in runs]
    for pattern in ("*.tmp-*", *inside, *tables):
        for path in root.glob(pattern):
            if path.is_file() and is_of_dead_process(path):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Write a file whole or not at all, as the functions below do too."""
    with atomic_writer(path) as file:
        file.write(content)


def write_text(path: pathlib.Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: pathlib.Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def unfinished_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield an empty folder next to `folder`, for `commit_folder`; removed if not committed.

    What killed processes left is removed first, so one process at a time may fill a folder.
    """
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(leftover)
    unfinished = bucket.unfinished_name(folder)
    with signals.unfinished(unfinished):
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def commit_folder(unfinished: pathlib.Path, folder: pathlib.Path) -> None:
    """Flush `unfinished` to disk, upload it, and rename it; OSError where `folder` has files."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # disks take many requests at once
        list(pool.map(_flush, [unfinished, *unfinished.rglob("*")]))
    bucket.publish_folder(unfinished, folder)
    os.replace(unfinished, folder)


def _flush(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_room(folder: str | os.PathLike[str], needed: float, what: str, fix: str) -> None:
    """Raise OSError, with how to fix it, where a folder's disk has fewer bytes free than needed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: {what} may need {needed / 1e6:,.1f} MB and the disk has "
            f"{free / 1e6:,.1f} MB free: {fix}"
        )
