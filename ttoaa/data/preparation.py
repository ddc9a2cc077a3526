"""Text to a corpus: survey the source, make the tokenizer, write the shards, then the manifest."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import gin
from tqdm import tqdm

from ttoaa import workdir
from ttoaa.data import writer
from ttoaa.data.corpus import MANIFEST, SPLITS, TOKENIZER, Corpus, Manifest
from ttoaa.data.sources import EmbeddedPython, Source, all_documents, keyed_fraction
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import TrainBPE, Vocabulary

_BYTES_PER_TOKEN = 4  # at most; the vocabulary may not be known yet
_UNFINISHED = "unfinished"
_STATE = f"{_UNFINISHED}/state.json"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Prepare:
    """What the corpus of a study is. Every field is part of the corpus' identity."""

    source: Source = dataclasses.field(default_factory=EmbeddedPython)
    tokenizer: Vocabulary = dataclasses.field(default_factory=TrainBPE)
    reserve_fraction: float = 0.1
    """The share of documents that no epoch trains on."""
    shard_characters: int = 32_000_000
    """Text per shard, and so what a killed preparation does again at most."""

    def __post_init__(self) -> None:
        if not 0 < self.reserve_fraction < 1:
            raise ValueError(
                f"Prepare.reserve_fraction must be in (0, 1), not {self.reserve_fraction}"
            )
        if self.shard_characters < 1:
            raise ValueError("Prepare.shard_characters must be positive")

    def identity(self) -> dict[str, Any]:
        """Dotted field names to values, and the kinds of source and tokenizer."""
        fields: dict[str, Any] = {}
        for name in ("source", "tokenizer"):
            part: Any = getattr(self, name)
            fields[name] = type(part).__name__
            fields |= {f"{name}.{k}": v for k, v in dataclasses.asdict(part).items()}
        fields |= {name: getattr(self, name) for name in ("reserve_fraction", "shard_characters")}
        return json.loads(json.dumps(fields, default=str))  # as it reads back


@dataclasses.dataclass(frozen=True)
class _Survey:
    """What the source holds, counted before anything is written."""

    bytes: int
    characters: int
    training_characters: int
    documents: dict[str, int]
    sha256: str
    seconds: float


def prepare(config: Prepare, folder: str | os.PathLike[str], progress: bool = True) -> Corpus:
    """Makes the corpus in `folder`, goes on where a killed call stopped, or finds it made.

    Raises ValueError, naming what differs, where the folder has a corpus of another config or the
    source's text changed under an unfinished one; OSError where the disk has too little room.
    """
    folder = pathlib.Path(folder)
    unfinished = folder / _UNFINISHED
    if (folder / MANIFEST).exists():
        corpus = Corpus.open(folder)
        _check_same(folder, corpus.manifest.config, config.identity())
        shutil.rmtree(unfinished, ignore_errors=True)
        return corpus
    if (folder / _STATE).exists():
        state = workdir.read_json(folder / _STATE)
        _check_same(folder, state["config"], config.identity())
    config.tokenizer.check()
    survey = _survey(config, progress)
    _check_room(folder, unfinished, survey)
    tokenizer, seconds = _begin(config, folder, unfinished, survey, progress)
    written = _write_parts(config, folder, unfinished, tokenizer, survey, progress)
    _finish(config, folder, tokenizer, survey, written, seconds)
    shutil.rmtree(unfinished)
    return Corpus.open(folder, verify=False)


def is_begun(folder: pathlib.Path) -> bool:
    """Whether the corpus of some config is there, made or half made."""
    return any((folder / name).exists() for name in (MANIFEST, _STATE))


def _check_same(folder: pathlib.Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    names = [name for name in there | here if there.get(name) != here.get(name)]
    if names:
        shared = [name for name in names if name in there and name in here]
        differences = "; ".join(
            f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in shared or names
        )
        raise ValueError(
            f"{folder} was made by another config: {differences} "
            f"(take another --workdir, or remove that folder)"
        )


def _survey(config: Prepare, progress: bool) -> _Survey:
    started = time.monotonic()
    digest = hashlib.sha256()
    documents: dict[str, int] = {split: 0 for split in SPLITS}
    characters: dict[str, int] = {split: 0 for split in SPLITS}
    size = 0
    source = all_documents(config.source)
    for name, text in tqdm(source, "reading", unit=" documents", disable=not progress):
        try:
            content = text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} is not valid Unicode: {error}") from error
        size += len(content)
        digest.update(len(content).to_bytes(8, "little") + content)
        split = writer.split_of(text, config.reserve_fraction)
        documents[split] += 1
        characters[split] += len(text)
    if not all(documents.values()):
        raise ValueError(
            f"{config.source.description}: of {sum(documents.values())} documents "
            f"{documents['train']} go to training and {documents['reserve']} to the reserve: "
            f"give more text, or cut it into more documents"
        )
    return _Survey(
        bytes=size,
        characters=sum(characters.values()),
        training_characters=characters["train"],
        documents=documents,
        sha256=digest.hexdigest(),
        seconds=time.monotonic() - started,
    )


def _finished_parts(unfinished: pathlib.Path) -> dict[int, writer.Part]:
    paths = unfinished.glob("part-?????.json")
    return {int(path.stem.removeprefix("part-")): writer.Part.load(path) for path in paths}


def _check_room(folder: pathlib.Path, unfinished: pathlib.Path, survey: _Survey) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = sum(s.tokens for part in _finished_parts(unfinished).values() for s in part.shards)
    # A token of byte-level BPE spans a byte at least; each document ends with one more, EOS.
    tokens = survey.bytes + sum(survey.documents.values()) - done
    needed = _BYTES_PER_TOKEN * tokens
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: the corpus may need {needed / 1e6:,.1f} MB and the disk has "
            f"{free / 1e6:,.1f} MB free: free some, or take another --workdir"
        )


def _begin(
    config: Prepare, folder: pathlib.Path, unfinished: pathlib.Path, survey: _Survey, progress: bool
) -> tuple[Tokenizer, dict[str, float]]:
    """The tokenizer, and the seconds spent before the first part; made once, then kept."""
    path, state = folder / TOKENIZER, folder / _STATE
    if not state.exists():
        started = time.monotonic()
        workdir.write_bytes(path, config.tokenizer.make(_sample(config, survey, progress)))
        seconds = {"survey": survey.seconds, "tokenizer": time.monotonic() - started}
        begun = {"config": config.identity(), "text": survey.sha256, "seconds": seconds}
        workdir.write_json(state, begun)
    begun = workdir.read_json(state)
    if begun["text"] != survey.sha256:
        raise ValueError(
            f"{config.source.description} changed since {folder} was begun: "
            f"remove that folder to start anew"
        )
    return config.tokenizer.load(path), begun["seconds"]


def _sample(config: Prepare, survey: _Survey, progress: bool) -> Iterator[str]:
    share = config.tokenizer.training_characters / survey.training_characters
    total = min(config.tokenizer.training_characters, survey.training_characters)
    with _bar("training the tokenizer", total, progress) as bar:
        for _, text in all_documents(config.source):
            train = writer.split_of(text, config.reserve_fraction) == "train"
            if train and keyed_fraction("tokenizer", text) < share:
                bar.update(len(text))
                yield text


def _write_parts(
    config: Prepare,
    folder: pathlib.Path,
    unfinished: pathlib.Path,
    tokenizer: Tokenizer,
    survey: _Survey,
    progress: bool,
) -> list[writer.Part]:
    finished = _finished_parts(unfinished)
    with _bar("tokenizing", survey.characters, progress) as bar:
        for number, documents in enumerate(
            writer.parts(all_documents(config.source), config.shard_characters)
        ):
            if number in finished:
                bar.update(finished[number].characters)
                continue
            finished[number] = writer.write_part(
                number, documents, folder, tokenizer, config.reserve_fraction, bar.update
            )
            writer.save(unfinished / f"part-{number:05d}.json", finished[number])
    return [finished[number] for number in sorted(finished)]


def _finish(
    config: Prepare,
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    survey: _Survey,
    written: list[writer.Part],
    seconds: dict[str, float],
) -> None:
    if sum(part.characters for part in written) != survey.characters:
        raise ValueError(f"{config.source.description} changed while it was read: start anew")
    shards = tuple(shard for part in written for shard in part.shards)
    manifest = Manifest(
        version=1,
        dtype=writer.token_dtype(tokenizer.vocab_size).name,
        vocab_size=tokenizer.vocab_size,
        vocabulary=tokenizer.fingerprint,
        eos_id=tokenizer.eos_id,
        reserved_ids=(tokenizer.reserved_ids.start, tokenizer.reserved_ids.stop),
        documents=survey.documents,
        source=config.source.description,
        text=survey.sha256,
        config=config.identity(),
        shards=shards,
    )
    ledger = {
        "seconds": {**seconds, "tokenize": sum(part.seconds for part in written)},
        "tokens": sum(shard.tokens for shard in shards),
    }
    for leftover in folder.glob("*.tmp-*"):
        leftover.unlink()
    workdir.write_json(folder / "ledger.json", ledger)
    workdir.write_bytes(folder / MANIFEST, manifest.to_bytes())


def _bar(what: str, characters: int, progress: bool) -> "tqdm[Any]":
    return tqdm(
        desc=what, total=characters, unit=" characters", unit_scale=True, disable=not progress
    )
