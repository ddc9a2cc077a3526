"""Prepare and scan a corpus with Apache Beam (`pip install 'ttoaa[beam]'`).

The folder of the corpus must be on a file system that all workers see under the same path. The task
and its pieces are in a JSON file there, workers leave their results there, and only the numbers of
the pieces go through Beam. So the bytes are those of a local preparation, and each engine resumes
what another left unfinished. Tested with Beam's DirectRunner alone (in memory, and with several
worker processes); on Dataflow, Flink or Spark, workers need this package installed.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from ttoaa import workdir
from ttoaa.data import ngram_search
from ttoaa.data.corpus import Corpus, Split
from ttoaa.data.ngram_search import Patterns
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.prepare.pipeline import UNFINISHED, Prepare, prepare
from ttoaa.data.prepare.workers import Task
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.json_io import read_json

try:
    import apache_beam
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError(f"{error}: pip install 'ttoaa[beam]'") from error

_WORK, _FAULT = "work.json", "fault-{}.txt"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """An engine (see `workers.Engine`) that runs the pieces of a task as a Beam pipeline."""

    options: PipelineOptions
    folder: pathlib.Path
    """Seen by all workers; exists only while the pipeline runs."""

    def __call__(self, task: Task, pieces: Sequence[Any]) -> Iterator[int]:
        if not pieces:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        folder = self.folder / secrets.token_hex(8)  # workers of a killed command find theirs gone
        workdir.write_json(folder / _WORK, {"task": encode(task), "pieces": encode(list(pieces))})
        done = self._run(folder, len(pieces))
        for number in range(len(pieces)):
            fault = folder / _FAULT.format(number)
            if fault.exists():
                raise ValueError(fault.read_text(encoding="utf-8"))
        shutil.rmtree(self.folder)
        yield done

    def _run(self, folder: pathlib.Path, pieces: int) -> int:
        """Run all pieces; returns how much work they report. OSError where Beam gives up."""
        pipeline = apache_beam.Pipeline(options=self.options)
        (
            pipeline
            | apache_beam.Create(range(pieces))
            | apache_beam.Reshuffle()  # or one worker would take them all
            | apache_beam.ParDo(_RunPiece(str(folder)))
        )
        try:
            result = pipeline.run()
            state = result.wait_until_finish()
        except Exception as error:  # the type depends on the runner
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise OSError(f"the Beam pipeline failed: {lines[-1]}") from error
        if state != "DONE":
            raise OSError(f"the Beam pipeline ended as {state}: see the runner's own log")
        try:
            counters = result.metrics().query(MetricsFilter().with_name(_RunPiece.DONE))["counters"]
        except NotImplementedError:  # some runners have no counters; only the bar needs them
            return 0
        return sum(counter.result or 0 for counter in counters)


class _RunPiece(apache_beam.DoFn):
    """Run the piece with a given number. A fault of the piece itself is recorded, not retried."""

    DONE = "done"

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self) -> None:
        path = pathlib.Path(self.folder, _WORK)
        if not path.exists():
            raise OSError(f"a worker does not see {path}: all workers must share a file system")
        work = read_json(path)
        self.task, self.pieces = decode(work["task"]), decode(work["pieces"])

    def process(self, number: int) -> None:
        done = Metrics.counter("ttoaa", self.DONE)
        try:
            for amount in self.task(self.pieces[number]):
                done.inc(amount)
        except ValueError as error:
            workdir.write_text(pathlib.Path(self.folder, _FAULT.format(number)), str(error))


def encode(value: Any) -> Any:
    """Encode a task or piece as JSON: plain values, lists, tuples, dicts, paths, dataclasses.

    Raises ValueError for a value of another type, and for a class that workers cannot import.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [encode(each) for each in value]
    if kind is tuple:
        return {"tuple": encode(list(value))}
    if kind is dict:
        return {"dict": [encode(list(pair)) for pair in value.items()]}
    if isinstance(value, pathlib.Path):
        return {"path": str(value)}
    if kind is Tokenizer:
        fields = {"path": value.path, "vocab_size": value.vocab_size, "eos_id": value.eos_id}
    elif dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    else:
        raise ValueError(f"Beam's workers cannot be sent a {kind.__name__}: make it a dataclass")
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        raise ValueError(f"Beam's workers cannot import {kind.__qualname__}: move it to a module")
    name = f"{kind.__module__}:{kind.__qualname__}"
    return {"class": name, "fields": {key: encode(each) for key, each in fields.items()}}


def decode(value: Any) -> Any:
    """Make the value again that `encode` was given; classes are imported by name."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "class" in value:
        module, _, name = value["class"].partition(":")
        kind: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        known = kind is Tokenizer or dataclasses.is_dataclass(kind)
        if not known:
            raise ValueError(f"{value['class']} is not a dataclass")
        return kind(**{key: decode(each) for key, each in value["fields"].items()})
    if "path" in value:
        return pathlib.Path(value["path"])
    return tuple(decode(value["tuple"])) if "tuple" in value else dict(decode(value["dict"]))


def prepare_with_beam(
    config: Prepare | OlmoCorpus,
    folder: str | os.PathLike[str],
    options: PipelineOptions,
    progress: bool = True,
) -> Corpus:
    """Prepare a corpus on Beam's workers; the result is that of `prepare`, to the byte.

    Raises what `prepare` does, and OSError with Beam's last line where the pipeline fails.
    """
    folder = pathlib.Path(folder).resolve()  # workers may have another working directory
    return prepare(config, folder, progress, Pipeline(options, folder / UNFINISHED / "beam"))


@dataclasses.dataclass(frozen=True)
class _ScanPiece:
    """The task: save the occurrences in a piece where `scan` looks for them; yields tokens."""

    corpus: pathlib.Path
    patterns: pathlib.Path
    length: int | None
    parts: pathlib.Path

    def __call__(self, piece: ngram_search.Piece) -> Iterator[int]:
        found = ngram_search.scan_piece(self.corpus, piece, self.patterns, self.length)
        ngram_search.merge([found]).save(self.parts / f"{piece.start}-{piece.stop}.npy")
        yield piece.stop - piece.start


def scan_with_beam(
    corpus: Corpus,
    split: Split,
    patterns: Patterns,
    options: PipelineOptions,
    length: int | None = None,
) -> ngram_search.Occurrences:
    """Scan a corpus on Beam's workers; same occurrences and same file as those of `scan`."""
    folder = corpus.folder.resolve()  # workers may have another working directory
    path = ngram_search.scan_path(corpus, split, patterns, length).resolve()
    parts = path.with_suffix(".parts")
    engine = Pipeline(options, path.with_suffix(".beam"))
    if ngram_search.Occurrences.load(path) is None:
        patterns.save(parts / "patterns.npz")
        task = _ScanPiece(folder, parts / "patterns.npz", length, parts)
        pieces = ngram_search.pieces(corpus, split, length)
        missing = [p for p in pieces if not (parts / f"{p.start}-{p.stop}.npy").exists()]
        for _ in engine(task, missing):
            pass
    return ngram_search.scan(corpus, split, patterns, length)
