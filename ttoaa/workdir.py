"""Where everything of a study lies: one folder, nothing hidden elsewhere."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

RUNS = ("control", "run")


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of one study. Seed 0 has the plain names, seed s > 0 has `-s<seed>` behind them."""

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
    def report(self) -> pathlib.Path:
        return self.root / "report.html"

    @property
    def plan(self) -> pathlib.Path:
        return self._seeded("plan")

    @property
    def tables(self) -> pathlib.Path:
        return self._seeded("tables")

    def run(self, kind: str) -> pathlib.Path:
        """The folder of the 'control' run or of the experiments' 'run'."""
        if kind not in RUNS:
            raise ValueError(f"a run is one of {RUNS}, not {kind!r}")
        return self._seeded(kind)

    def table(self, kind: str, step: int, experiment: str) -> pathlib.Path:
        return self.tables / kind / f"{step:08d}" / f"{experiment}.parquet"

    def _seeded(self, name: str) -> pathlib.Path:
        return self.root / (name if self.seed == 0 else f"{name}-s{self.seed}")

    def seeds(self) -> list[int]:
        """Seeds of which a control run, plan or run exists here, ascending."""
        names = "|".join(("plan", *RUNS))
        found = (re.fullmatch(rf"(?:{names})(?:-s(\d+))?", p.name) for p in self.root.glob("*"))
        return sorted({int(match.group(1) or 0) for match in found if match})


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """A file to write, whole or not at all: nothing half-written ever has the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # A full disk does not say which file it had no room for.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    with writing(path) as file:
        file.write(content)


def write_text(path: pathlib.Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: pathlib.Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def json_lines(path: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line and what it says; a last line that a kill cut short is left out."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield line, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path} is damaged: line {number} is not JSON") from error


def read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [record for _, record in json_lines(path)]
