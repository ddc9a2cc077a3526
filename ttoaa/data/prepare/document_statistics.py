"""What a source holds, read once by many workers before anything is written.

Consecutive units form groups, and a worker surveys a group at a time. The survey of a group is a
file of a few bytes a document; from all of them follow the text's fingerprint, the splits' sizes
and where the corpus is cut into parts, which any worker can then write without the ones before.

What a tokenizer is trained on: a share of the training documents, drawn by text alone.
"""

import array
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import pickle
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ttoaa import workdir
from ttoaa.data.corpus import SPLITS
from ttoaa.data.sources.base import Source, encoded, keyed_fraction
from ttoaa.data.tokenizer import TokenIds

GROUP_BYTES = 64_000_000
"""What a worker reads at a time, at least, where there are many small files."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Consecutive units, and where their survey is kept."""

    units: tuple[str, ...]
    path: pathlib.Path
    """Its name is a digest of all that decides its content, so one that is there is right."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """The survey of a group of u units with n documents."""

    digest_ux32: np.ndarray
    """uint8: sha256 over a unit's documents, the length of each before it (8 bytes)."""
    documents_u: np.ndarray
    most_tokens_u: np.ndarray
    """A token of byte-level BPE spans a byte at least; EOS is not counted."""
    fraction_n: np.ndarray
    """float64: where in [0, 1) a document's text falls; below the reserve's share: reserve."""
    characters_n: np.ndarray

    @classmethod
    def load(cls, path: pathlib.Path) -> "Counts":
        with np.load(path) as stored:
            return cls(**stored)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What all groups hold together."""

    sha256: str
    """Over the digests of the units, in order."""
    most_tokens: int
    documents: dict[str, int]
    characters: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where part `number` begins: document `start` of a group; it may end in a later one."""

    number: int
    group: int
    start: int
    documents: int


def group(source: Source, folder: pathlib.Path, size: int) -> list[Group]:
    """All units in order, files together up to `size` bytes; units that are no files stay alone.

    The surveys are in `folder`; those of unchanged files may be there already.
    """
    nonce = secrets.token_hex(8)  # what is no file may change unseen: its survey is of this call
    kind = [type(source).__name__, dataclasses.asdict(source)]  # type: ignore[call-overload]
    groups: list[Group] = []
    units: list[tuple[str, Any]] = []
    total = 0

    def close() -> None:
        nonlocal total
        told = json.dumps([kind, units], default=str)
        name = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        groups.append(Group(tuple(unit for unit, _ in units), folder / f"survey-{name}.npz"))
        units.clear()
        total = 0

    for unit in source.units():
        version = _version(unit)
        units.append((unit, version or nonce))
        total += version[0] if version else size
        if total >= size:
            close()
    if units:
        close()
    return groups


def _version(unit: str) -> tuple[int, int] | None:
    """Bytes and time of change of a unit that is the path of a file."""
    if os.sep not in unit or not os.path.isfile(unit):
        return None
    stat = os.stat(unit)
    return stat.st_size, stat.st_mtime_ns


@dataclasses.dataclass(frozen=True)
class TakeSurvey:
    """The task: surveys a group, yields 1 for each document."""

    source: Source

    def __call__(self, group: Group) -> Iterator[int]:
        digests, documents_u, most_tokens_u = bytearray(), [], []
        fraction_n, characters_n = array.array("d"), array.array("q")  # a unit may be a mixture
        for unit in group.units:
            digest, before, size = hashlib.sha256(), len(characters_n), 0
            for name, text in self.source.documents(unit):
                content = encoded(name, text)
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


def merge(groups: Sequence[Group], reserve_fraction: float) -> Survey:
    """The survey of all groups, from their files."""
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


def cut(groups: Sequence[Group], characters: int) -> list[Cut]:
    """Consecutive documents, in parts that end once they have that many characters."""
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
            if last == len(sizes_n):  # it goes on in the next group
                carried += int(end_n[-1]) - base
                before += last - start
                break
            yield Cut(number, *begun, before + last + 1 - start)
            number, begun, carried, before = number + 1, None, 0, 0
            start = last + 1
    if begun:
        yield Cut(number, *begun, before)


def read(
    source: Source, groups: Sequence[Group], index: int, start: int
) -> Iterator[tuple[str, str, float]]:
    """(name, text, fraction) of the documents from number `start` of group `index` on.

    Raises ValueError where a unit is not what was surveyed; documents added to its end are not
    read.
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
                    raise ValueError(f"{name} changed since it was surveyed: start anew")
                yield name, text, fraction
        start = 0


@dataclasses.dataclass(frozen=True)
class TakeSample:
    """The task: leaves a group's share of the sample in a file; yields characters read."""

    source: Source
    groups: tuple[Group, ...]
    reserve_fraction: float
    share: float
    folder: pathlib.Path

    def __call__(self, index: int) -> Iterator[int]:
        documents = read(self.source, self.groups, index, 0)
        number = Counts.load(self.groups[index].path).documents_u.sum()
        taken = []
        for _, text, fraction in itertools.islice(documents, int(number)):
            train = fraction >= self.reserve_fraction
            if train and keyed_fraction("tokenizer", text) < self.share:
                taken.append(text)
            yield len(text)
        workdir.write_bytes(self._path(index), pickle.dumps(taken))  # may hold TokenIds

    def texts(self, index: int) -> list[str]:
        """What a group has of the sample, once it was read."""
        return pickle.loads(self._path(index).read_bytes())

    def _path(self, index: int) -> pathlib.Path:
        return self.folder / f"sample-{index:05d}.pickle"
