"""Prepare a corpus: survey the source, make the tokenizer, write the shards, then the manifest."""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence, Sized
from typing import Annotated, Any, TypedDict

import gin
from tqdm import tqdm

from ttoaa import workdir
from ttoaa.checksums import write_record
from ttoaa.config_fields import Above, Below, PositiveInt, config_class
from ttoaa.data.corpus import ANOTHER_FOLDER, MANIFEST, TOKENIZER, Corpus, Manifest
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.prepare import document_statistics, shard_writer
from ttoaa.data.prepare.document_statistics import Group, Survey, TakeSample, TakeSurvey
from ttoaa.data.prepare.workers import Engine, Local, Task
from ttoaa.data.sources.base import Source
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.sources.seqio_task import SeqioTask
from ttoaa.data.tokenizer import TokenIds, Tokenizer
from ttoaa.data.vocabulary import NO_BPE, TrainBPE, Vocabulary
from ttoaa.identity import check, with_defaults
from ttoaa.json_io import read_json
from ttoaa.locks import exclusive
from ttoaa.progress import progress_bar

_BYTES_PER_TOKEN = 4  # at most; the vocabulary may not be known yet
UNFINISHED = "unfinished"
_STATE = f"{UNFINISHED}/state.json"
_RESTART = "remove its folder and start again"


class _Begun(TypedDict):
    config: dict[str, Any]
    text: str
    seconds: dict[str, float]


@gin.configurable
@config_class
class Prepare:
    """The corpus of a study; every field is part of the corpus' identity."""

    source: Source = dataclasses.field(default_factory=EmbeddedPython)
    tokenizer: Vocabulary = dataclasses.field(default_factory=TrainBPE)
    reserve_fraction: Annotated[float, Above(0), Below(1)] = 0.1
    """The share of documents that no epoch trains on."""
    shard_characters: PositiveInt = 32_000_000
    """Text per shard, and so the most that a killed preparation repeats."""

    def __post_init__(self) -> None:
        ids = isinstance(self.source, SeqioTask) and self.source.use == "tokens"
        if ids and isinstance(self.tokenizer, TrainBPE):
            raise ValueError(f"Prepare: {NO_BPE}")

    def identity(self) -> dict[str, Any]:
        """Return dotted field names and their values, as JSON; part of the corpus' bytes."""
        fields: dict[str, Any] = {}
        for name in ("source", "tokenizer"):
            part: Any = getattr(self, name)
            fields[name] = type(part).__name__
            fields |= {f"{name}.{k}": v for k, v in dataclasses.asdict(part).items()}
        fields |= {name: getattr(self, name) for name in ("reserve_fraction", "shard_characters")}
        return json.loads(json.dumps(fields, default=str))


def prepare(
    config: Prepare | OlmoCorpus,
    folder: str | os.PathLike[str],
    progress: bool = True,
    engine: Engine | None = None,
) -> Corpus:
    """Prepare the corpus in `folder`, resume a killed preparation, or open a finished one.

    The bytes do not depend on the engine (by default, processes of this machine), and each engine
    resumes what another left unfinished.

    Raises:
        ValueError: the folder has a corpus of another config, the source's text changed since an
            unfinished preparation began, or another process prepares the folder.
        OSError: the disk has too little room.
    """
    if isinstance(config, OlmoCorpus):
        return config.make(folder)
    folder = pathlib.Path(folder)
    existed = (folder / MANIFEST).exists()
    if not existed:
        config.tokenizer.check()
        with exclusive(folder, "prepare", "prepared") as is_ours:
            if not (folder / MANIFEST).exists():  # a process waited for may have finished it
                _make(_Job(config, folder, engine or Local(), progress))
            if not is_ours():
                raise ValueError(f"{folder} was taken over by another process: start again")
    corpus = Corpus.open(folder, verify=existed)
    check(folder, corpus.manifest.config, with_defaults(config.identity(), config), ANOTHER_FOLDER)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return corpus


def is_begun(folder: pathlib.Path) -> bool:
    """Return whether the folder has a corpus, finished or not."""
    return any((folder / name).exists() for name in (MANIFEST, _STATE))


@dataclasses.dataclass(frozen=True)
class _Job:
    """One preparation: what, where and with which engine."""

    config: Prepare
    folder: pathlib.Path
    engine: Engine
    progress: bool

    @property
    def unfinished(self) -> pathlib.Path:
        return self.folder / UNFINISHED

    def run(self, task: Task, pieces: Sequence[Any], bar: "tqdm[Any]") -> None:
        for amount in self.engine(task, pieces):
            bar.update(amount)

    def bar(
        self, what: str, work: Sized, total: int | None, unit: str = " characters"
    ) -> "tqdm[Any]":
        """Open a progress bar, which stays hidden if no work remains."""
        disable = not (self.progress and work)
        return progress_bar(desc=what, total=total, unit=unit, unit_scale=True, disable=disable)


def _make(job: _Job) -> None:
    """Run all stages that an earlier call did not finish."""
    if (job.folder / _STATE).exists():
        begun = read_json(job.folder / _STATE, _Begun, _RESTART)
        check(
            job.folder,
            begun["config"],
            with_defaults(job.config.identity(), job.config),
            ANOTHER_FOLDER,
        )
    started = time.monotonic()
    groups, surveyed = _survey(job)
    seconds = {"survey": time.monotonic() - started}
    _check_room(job, surveyed)
    tokenizer, seconds = _make_tokenizer(job, groups, surveyed, seconds)
    written = _write_parts(job, groups, surveyed, tokenizer)
    _write_manifest(job, tokenizer, surveyed, written, seconds)


def _survey(
    job: _Job,
) -> tuple[tuple[Group, ...], Survey]:
    source = job.config.source
    groups = tuple(
        document_statistics.group_units(source, job.unfinished, document_statistics.GROUP_BYTES)
    )
    missing = [group for group in groups if not group.path.exists()]
    with job.bar("reading", missing, None, " documents") as bar:
        job.run(TakeSurvey(source), missing, bar)
    surveyed = document_statistics.merge_surveys(groups, job.config.reserve_fraction)
    if not all(surveyed.documents.values()):
        raise ValueError(
            f"{source.description}: of {sum(surveyed.documents.values())} documents "
            f"{surveyed.documents['train']} go to training and {surveyed.documents['reserve']} to "
            f"the reserve: give more text, or cut it into more documents"
        )
    return groups, surveyed


def _check_room(job: _Job, surveyed: Survey) -> None:
    finished = shard_writer.finished_parts(job.unfinished).values()
    done = sum(shard.tokens for part in finished for shard in part.shards)
    tokens = surveyed.most_tokens + sum(surveyed.documents.values()) - done
    needed = _BYTES_PER_TOKEN * tokens
    workdir.check_room(job.folder, needed, "the corpus", "free some, or use another --workdir")


def _make_tokenizer(
    job: _Job,
    groups: tuple[Group, ...],
    surveyed: Survey,
    seconds: dict[str, float],
) -> tuple[Tokenizer, dict[str, float]]:
    """Make or load the tokenizer; returns it with the seconds spent before the first part."""
    vocabulary, source = job.config.tokenizer, job.config.source
    path, state = job.folder / TOKENIZER, job.folder / _STATE
    if not state.exists():
        started = time.monotonic()
        workdir.write_bytes(path, vocabulary.make(_sample(job, groups, surveyed)))
        seconds = {**seconds, "tokenizer": time.monotonic() - started}
        begun = {"config": job.config.identity(), "text": surveyed.sha256, "seconds": seconds}
        workdir.write_json(state, begun)
    begun = read_json(state, _Begun, _RESTART)
    if begun["text"] != surveyed.sha256:
        raise ValueError(
            f"{source.description} changed since {job.folder} was begun: "
            f"remove that folder and start again"
        )
    return vocabulary.load(path), begun["seconds"]


def _sample(job: _Job, groups: tuple[Group, ...], surveyed: Survey) -> Iterator[str | TokenIds]:
    """Draw the texts to train a tokenizer on; none, at no cost, if it needs none."""
    config = job.config
    wanted, there = config.tokenizer.training_characters, surveyed.characters["train"]
    reserve, share = config.reserve_fraction, wanted / there
    task = TakeSample(config.source, groups, reserve, share, job.unfinished)
    indices = range(len(groups) if wanted else 0)
    if indices:
        with job.bar(
            "sampling for the tokenizer", indices, sum(surveyed.characters.values())
        ) as bar:
            job.run(task, indices, bar)

    def texts() -> Iterator[str | TokenIds]:
        with job.bar("training the tokenizer", indices, min(wanted, there)) as bar:
            for text in itertools.chain.from_iterable(map(task.texts, indices)):
                bar.update(len(text))
                yield text

    return texts()


def _write_parts(
    job: _Job,
    groups: tuple[Group, ...],
    surveyed: Survey,
    tokenizer: Tokenizer,
) -> list[shard_writer.Part]:
    config = job.config
    cuts = document_statistics.cut_parts(groups, config.shard_characters)
    finished = shard_writer.finished_parts(job.unfinished)
    task = shard_writer.WriteParts(
        config.source, groups, tokenizer, config.reserve_fraction, job.folder, job.unfinished
    )
    todo = itertools.groupby((c for c in cuts if c.number not in finished), lambda c: c.group)
    pieces = [tuple(same) for _, same in todo]
    with job.bar("tokenizing", pieces, sum(surveyed.characters.values())) as bar:
        bar.update(sum(part.characters for part in finished.values()))
        job.run(task, pieces, bar)
    finished = shard_writer.finished_parts(job.unfinished)
    return [finished[cut.number] for cut in cuts]


def _write_manifest(
    job: _Job,
    tokenizer: Tokenizer,
    surveyed: Survey,
    written: list[shard_writer.Part],
    seconds: dict[str, float],
) -> None:
    shards = tuple(shard for part in written for shard in part.shards)
    manifest = Manifest(
        version=1,
        dtype=shard_writer.token_dtype(tokenizer.vocab_size).name,
        vocab_size=tokenizer.vocab_size,
        vocabulary=tokenizer.fingerprint,
        eos_id=tokenizer.eos_id,
        reserved_ids=(tokenizer.reserved_ids.start, tokenizer.reserved_ids.stop),
        documents=surveyed.documents,
        source=job.config.source.description,
        text=surveyed.sha256,
        config=job.config.identity(),
        shards=shards,
    )
    ledger = {
        "seconds": {**seconds, "tokenize": sum(part.seconds for part in written)},
        "tokens": sum(shard.tokens for shard in shards),
    }
    for leftover in job.folder.glob("*.tmp-*"):
        leftover.unlink()
    write_record(job.folder / "ledger.json", ledger)
    workdir.write_bytes(job.folder / MANIFEST, manifest.to_bytes())
