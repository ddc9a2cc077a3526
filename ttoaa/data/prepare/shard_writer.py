"""Write documents as token shards, part by part; a finished part is never written again."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ttoaa import workdir
from ttoaa.data.corpus import SPLITS, Shard, Split
from ttoaa.data.prepare.document_statistics import Cut, Group, read_documents
from ttoaa.data.sources.base import Source
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.json_io import read_json

_BATCH_CHARACTERS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Part:
    """The shards of consecutive documents: one for each split that occurs among them."""

    characters: int
    seconds: float
    shards: tuple[Shard, ...]

    @classmethod
    def load(cls, path: pathlib.Path) -> "Part":
        fields = read_json(path)
        return cls(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})


class _Document(NamedTuple):
    name: str
    text: str
    split: Split


@dataclasses.dataclass(frozen=True)
class WriteParts:
    """The task: write the parts that begin in a group, reading it once; yields characters."""

    source: Source
    groups: tuple[Group, ...]
    tokenizer: Tokenizer
    reserve_fraction: float
    folder: pathlib.Path
    records: pathlib.Path

    def __call__(self, cuts: tuple[Cut, ...]) -> Iterator[int]:
        index, start = cuts[0].group, cuts[0].start
        documents = (
            _Document(name, text, "reserve" if fraction < self.reserve_fraction else "train")
            for name, text, fraction in read_documents(self.source, self.groups, index, start)
        )
        for cut in cuts:
            finished = cut.start - start
            next(itertools.islice(documents, finished, finished), None)  # skip finished parts
            yield from self._write(cut.number, itertools.islice(documents, cut.documents))
            start = cut.start + cut.documents

    def _write(self, number: int, documents: Iterable[_Document]) -> Iterator[int]:
        started = time.monotonic()
        characters = 0
        tokens: dict[Split, list[np.ndarray]] = {split: [] for split in SPLITS}
        for batch in _batches(documents):
            texts = [document.text for document in batch]
            for document, ids in zip(batch, self.tokenizer.encode_batch(texts), strict=True):
                _check_ids(document.name, ids, self.tokenizer)
                tokens[document.split].append(np.append(ids, self.tokenizer.eos_id))
            size = sum(map(len, texts))
            characters += size
            yield size
        dtype = token_dtype(self.tokenizer.vocab_size)
        shards = tuple(
            _write_shard(self.folder, f"{split}-{number:05d}.bin", split, arrays, dtype)
            for split, arrays in tokens.items()
            if arrays
        )
        part = Part(characters, time.monotonic() - started, shards)
        text = json.dumps(dataclasses.asdict(part))
        workdir.write_text(self.records / f"part-{number:05d}.json", text)


def finished_parts(records: pathlib.Path) -> dict[int, Part]:
    """Load the records of all finished parts, by number."""
    paths = records.glob("part-*.json")
    return {int(path.stem.removeprefix("part-")): Part.load(path) for path in paths}


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def _batches(documents: Iterable[_Document]) -> Iterator[list[_Document]]:
    batch: list[_Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _check_ids(name: str, ids: np.ndarray, tokenizer: Tokenizer) -> None:
    if (ids >= tokenizer.reserved_ids.start).any() or (ids == tokenizer.eos_id).any():
        raise ValueError(
            f"{name} has text that {tokenizer.path} encodes as EOS or as a reserved id: "
            f"mark that token as special in the tokenizer, or remove the text"
        )


def _write_shard(
    folder: pathlib.Path, name: str, split: Split, documents: list[np.ndarray], dtype: np.dtype
) -> Shard:
    content = np.concatenate(documents).astype(dtype).tobytes()
    workdir.write_bytes(folder / name, content)
    tokens = len(content) // dtype.itemsize
    return Shard(name, split, tokens, len(documents), hashlib.sha256(content).hexdigest())
