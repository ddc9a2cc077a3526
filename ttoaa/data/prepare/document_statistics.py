"""Statistics of a source's documents, and the sample that a tokenizer is trained on.

Consecutive units of a source form groups. Workers survey a group at a time, before anything is
written, into a file of a few bytes per document. From these files follow the fingerprint of the
text, the sizes of the splits, and where the corpus is cut into parts, so that any worker can write
any part. The sample is a share of the training documents, drawn by a hash of their text.
"""

import array
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ttoaa import workdir
from ttoaa.data.corpus import SPLITS
from ttoaa.data.sources.base import Source, encode_document, keyed_fraction
from ttoaa.data.tokenizer import TokenIds
from ttoaa.json_io import read_json

GROUP_BYTES = 64_000_000
"""What a worker reads at a time, at least, where there are many small files."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Consecutive units of a source."""

    units: tuple[str, ...]
    path: pathlib.Path
    """Of their survey, named by a hash of what decides its content: a file there is right."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """The survey of one group, with u units and n documents."""

    digest_ux32: np.ndarray
    """uint8: sha256 of a unit's documents, each preceded by its length in 8 bytes."""
    documents_u: np.ndarray
    most_tokens_u: np.ndarray
    """Upper bounds without EOS: a token of byte-level BPE spans at least one byte."""
    fraction_n: np.ndarray
    """float64 in [0, 1), from the text; a document below Prepare.reserve_fraction is reserve."""
    characters_n: np.ndarray

    @classmethod
    def load(cls, path: pathlib.Path) -> "Counts":
        with np.load(path) as stored:
            return cls(**stored)


@dataclasses.dataclass(frozen=True)
class Survey:
    """The survey of a whole source."""

    sha256: str
    """Of the digests of its units, in order."""
    most_tokens: int
    documents: dict[str, int]
    characters: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Cut:
    """The documents of part `number`: from document `start` of a group on, perhaps into others."""

    number: int
    group: int
    start: int
    documents: int


def group_units(source: Source, folder: pathlib.Path, size: int) -> list[Group]:
    """Group all units in order, files up to `size` bytes together, other units one by one.

    Surveys are kept in `folder`, where those of unchanged files may exist from an earlier call.
    """
    nonce = secrets.token_hex(8)  # other units may change unnoticed: survey them again
    kind = [type(source).__name__, dataclasses.asdict(source)]  # type: ignore[call-overload]
    groups: list[Group] = []
    units: list[tuple[str, Any]] = []
    total = 0

    def close_group() -> None:
        nonlocal total
        content = json.dumps([kind, units], default=str)
        name = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        groups.append(Group(tuple(unit for unit, _ in units), folder / f"survey-{name}.npz"))
        units.clear()
        total = 0

    for unit in source.units():
        version = _file_version(unit)
        units.append((unit, version or nonce))
        total += version[0] if version else size
        if total >= size:
            close_group()
    if units:
        close_group()
    return groups


def _file_version(unit: str) -> tuple[int, int] | None:
    """Return the size and modification time of a unit that is the path of a file."""
    if os.sep not in unit or not os.path.isfile(unit):
        return None
    stat = os.stat(unit)
    return stat.st_size, stat.st_mtime_ns


@dataclasses.dataclass(frozen=True)
class TakeSurvey:
    """The task: write the survey of a group; yields 1 for each document."""

    source: Source

    def __call__(self, group: Group) -> Iterator[int]:
        digests, documents_u, most_tokens_u = bytearray(), [], []
        fraction_n, characters_n = array.array("d"), array.array("q")  # compact: may be of millions
        for unit in group.units:
            digest, before, size = hashlib.sha256(), len(characters_n), 0
            for name, text in self.source.documents(unit):
                content = encode_document(name, text)
                digest.update(len(content).to_bytes(8, "little") + content)
                size += len(text if isinstance(text, TokenIds) else content)
                fraction_n.append(keyed_fraction("reserve", text))
                characters_n.append(len(text))
                yield 1
            digests += digest.digest()
            documents_u.append(len(characters_n) - before)
            most_tokens_u.append(size)
        counts = Counts(
            digest_ux32=np.frombuffer(digests, np.uint8).reshape(-1, 32),
            documents_u=np.array(documents_u, np.int64),
            most_tokens_u=np.array(most_tokens_u, np.int64),
            fraction_n=np.array(fraction_n, np.float64),
            characters_n=np.array(characters_n, np.int64),
        )
        with workdir.atomic_writer(group.path) as file:
            np.savez(file, **vars(counts))


def merge_surveys(groups: Sequence[Group], reserve_fraction: float) -> Survey:
    """Read and merge the surveys of all groups."""
    digest, size = hashlib.sha256(), 0
    documents, characters = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for each in groups:
        counts = Counts.load(each.path)
        digest.update(counts.digest_ux32.tobytes())
        size += int(counts.most_tokens_u.sum())
        reserve_n = counts.fraction_n < reserve_fraction
        for split, chosen_n in enumerate((~reserve_n, reserve_n)):
            documents[split] += chosen_n.sum()
            characters[split] += counts.characters_n[chosen_n].sum()
    return Survey(
        digest.hexdigest(),
        size,
        dict(zip(SPLITS, documents.tolist(), strict=True)),
        dict(zip(SPLITS, characters.tolist(), strict=True)),
    )


def cut_parts(groups: Sequence[Group], characters: int) -> list[Cut]:
    """Cut the documents into parts that end once they have that many characters."""
    sizes_by_group = (Counts.load(each.path).characters_n for each in groups)
    return list(_cut(sizes_by_group, characters))


def _cut(sizes_by_group: Iterable[np.ndarray], characters: int) -> Iterator[Cut]:
    number, begun, carried, before = 0, None, 0, 0  # of the open part: characters, documents
    for index, sizes_n in enumerate(sizes_by_group):
        end_n = np.cumsum(sizes_n)
        start = 0
        while start < len(sizes_n):
            begun = begun or (index, start)
            base = int(end_n[start - 1]) if start else 0
            last = int(np.searchsorted(end_n, base + characters - carried))
            if last == len(sizes_n):  # the part continues in the next group
                carried += int(end_n[-1]) - base
                before += last - start
                break
            yield Cut(number, *begun, before + last + 1 - start)
            number, begun, carried, before = number + 1, None, 0, 0
            start = last + 1
    if begun:
        yield Cut(number, *begun, before)


def read_documents(
    source: Source, groups: Sequence[Group], index: int, start: int
) -> Iterator[tuple[str, str, float]]:
    """Yield (name, text, fraction) of the documents from number `start` of group `index` on.

    Documents added to a unit since the survey are not read; ValueError for any other change.
    """
    for each in groups[index:]:
        counts = Counts.load(each.path)
        end = 0
        for unit, number in zip(each.units, counts.documents_u.tolist(), strict=True):
            begin, end = max(start, end), end + number
            if begin >= end:
                continue
            found = itertools.islice(source.documents(unit), number - (end - begin), number)
            for fraction in map(float, counts.fraction_n[begin:end]):
                name, text = next(found, (unit, ""))
                if keyed_fraction("reserve", text) != fraction:
                    raise ValueError(f"{name} changed since it was surveyed: start again")
                yield name, text, fraction
        start = 0


@dataclasses.dataclass(frozen=True)
class TakeSample:
    """The task: write a group's share of the sample; yields the characters read."""

    source: Source
    groups: tuple[Group, ...]
    reserve_fraction: float
    share: float
    folder: pathlib.Path

    def __call__(self, index: int) -> Iterator[int]:
        documents = read_documents(self.source, self.groups, index, 0)
        number = Counts.load(self.groups[index].path).documents_u.sum()
        sample: list[Any] = []
        for _, text, fraction in itertools.islice(documents, int(number)):
            train = fraction >= self.reserve_fraction
            if train and keyed_fraction("tokenizer", text) < self.share:
                if isinstance(text, TokenIds):
                    sample.append([text.vocabulary, text.ids.tolist()])
                else:
                    sample.append(text)
            yield len(text)
        workdir.write_text(self._path(index), json.dumps(sample, ensure_ascii=False))

    def texts(self, index: int) -> list[str | TokenIds]:
        """Return a group's share of the sample, after this task has run on it."""
        return [
            each if isinstance(each, str) else TokenIds(np.array(each[1], np.int32), each[0])
            for each in read_json(self._path(index))
        ]

    def _path(self, index: int) -> pathlib.Path:
        return self.folder / f"sample-{index:05d}.json"
