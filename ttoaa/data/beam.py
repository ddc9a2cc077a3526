"""Preparing and scanning a corpus as pipelines of Apache Beam (`pip install 'ttoaa[beam]'`).

The folder of the corpus must be on a file system that all workers see under the same path: the
pieces of work lie there, workers leave their results there, and only the numbers of the pieces go
through Beam. So the pipelines are short, what one engine left unfinished any other goes on with,
and the bytes are those of the local way. Tried with Beam's DirectRunner alone (in memory, and with
several worker processes); on Dataflow, Flink or Spark workers need this package installed.
"""

import dataclasses
import os
import pathlib
import pickle
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from ttoaa import workdir
from ttoaa.data import ngram_search as scanning
from ttoaa.data.corpus import Corpus, Split
from ttoaa.data.ngram_search import Patterns
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.prepare.pipeline import UNFINISHED, Prepare, prepare
from ttoaa.data.prepare.workers import Task

try:
    import apache_beam
    import cloudpickle
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError(f"{error}: pip install 'ttoaa[beam]'") from error

_WORK, _FAULT = "work.pickle", "fault-{}.txt"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """An engine that runs pieces of work as a Beam pipeline."""

    options: PipelineOptions
    folder: pathlib.Path
    """What all workers see; of use while it runs."""

    def __call__(self, task: Task, pieces: Sequence[Any]) -> Iterator[int]:
        if not pieces:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        folder = self.folder / secrets.token_hex(8)  # workers of a killed command find theirs gone
        workdir.write_bytes(folder / _WORK, cloudpickle.dumps((task, list(pieces))))
        done = self._run(folder, len(pieces))
        for number in range(len(pieces)):
            fault = folder / _FAULT.format(number)
            if fault.exists():
                raise ValueError(fault.read_text(encoding="utf-8"))
        shutil.rmtree(self.folder)
        yield done

    def _run(self, folder: pathlib.Path, pieces: int) -> int:
        """Runs all pieces; gives how much they say is done. OSError where Beam gives up."""
        pipeline = apache_beam.Pipeline(options=self.options)
        (
            pipeline
            | apache_beam.Create(range(pieces))
            | apache_beam.Reshuffle()  # or one worker would take them all
            | apache_beam.ParDo(_Piece(str(folder)))
        )
        try:
            result = pipeline.run()
            state = result.wait_until_finish()
        except Exception as error:  # runners raise what they like
            told = str(error).strip().splitlines() or [type(error).__name__]
            raise OSError(f"the Beam pipeline failed: {told[-1]}") from error
        if state != "DONE":
            raise OSError(f"the Beam pipeline ended as {state}: see the runner's own log")
        try:
            counters = result.metrics().query(MetricsFilter().with_name(_Piece.DONE))["counters"]
        except NotImplementedError:  # some runners count nothing; it is for the bar alone
            return 0
        return sum(counter.result or 0 for counter in counters)


class _Piece(apache_beam.DoFn):
    """Does the piece of a number. What is wrong with the piece itself is told, not tried again."""

    DONE = "done"

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self) -> None:
        path = pathlib.Path(self.folder, _WORK)
        if not path.exists():
            raise OSError(f"a worker does not see {path}: all need a file system that they share")
        self.task, self.pieces = pickle.loads(path.read_bytes())

    def process(self, number: int) -> None:
        done = Metrics.counter("ttoaa", self.DONE)
        try:
            for amount in self.task(self.pieces[number]):
                done.inc(amount)
        except ValueError as error:
            workdir.write_text(pathlib.Path(self.folder, _FAULT.format(number)), str(error))


def prepare_with_beam(
    config: Prepare | OlmoCorpus,
    folder: str | os.PathLike[str],
    options: PipelineOptions,
    progress: bool = True,
) -> Corpus:
    """`prepare`, its work done by Beam's workers; the same corpus to the byte.

    Raises what `prepare` does, and OSError with Beam's last line where the pipeline fails.
    """
    folder = pathlib.Path(folder).resolve()  # workers may stand elsewhere
    return prepare(config, folder, progress, Pipeline(options, folder / UNFINISHED / "beam"))


@dataclasses.dataclass(frozen=True)
class _ScanPiece:
    """The task: leaves what a piece has where `scan` looks for it; yields tokens."""

    corpus: pathlib.Path
    patterns: pathlib.Path
    length: int | None
    kept: pathlib.Path

    def __call__(self, piece: scanning.Piece) -> Iterator[int]:
        found = scanning.scan_piece(self.corpus, piece, self.patterns, self.length)
        scanning.merge([found]).save(self.kept / f"{piece.start}-{piece.stop}.npy")
        yield piece.stop - piece.start


def scan_with_beam(
    corpus: Corpus,
    split: Split,
    patterns: Patterns,
    options: PipelineOptions,
    length: int | None = None,
) -> scanning.Occurrences:
    """`scan`, its work done by Beam's workers; the same occurrences, kept in the same file."""
    folder = corpus.folder.resolve()  # workers may stand elsewhere
    path = scanning.scan_path(corpus, split, patterns, length).resolve()
    kept = path.with_suffix(".parts")
    engine = Pipeline(options, path.with_suffix(".beam"))
    if not path.exists():
        patterns.save(kept / "patterns.npz")
        task = _ScanPiece(folder, kept / "patterns.npz", length, kept)
        work = scanning.pieces(corpus, split, length)
        missing = [p for p in work if not (kept / f"{p.start}-{p.stop}.npy").exists()]
        for _ in engine(task, missing):
            pass
    return scanning.scan(corpus, split, patterns, length)
