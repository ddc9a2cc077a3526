"""Files of unsigned integers, raw or with a real NumPy header, and what is in them.

A corpus of token files that stay where they are, in the order of another run: OLMo's own.

OLMo's files are raw arrays, whatever their names end in. Each is cut into instances of `length`
tokens by itself, its remainder dropped; instances are numbered through the files in the order of
OLMo's config. `global_indices.npy`, raw uint32, lists the instances in the order of training: the
numbers of one epoch, shuffled by seed + epoch, of which the last few may be missing so that batches
or ranks divide them. (allenai/OLMo: olmo/data/memmap_dataset.py, iterable_dataset.py; OLMo-core
names a file for each epoch: global_indices_seed…_epoch…_size….npy.)
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from ttoaa import workdir
from ttoaa.data import corpus
from ttoaa.data import corpus as digests
from ttoaa.data.corpus import (
    ANOTHER_FOLDER,
    MANIFEST,
    TOKENIZER,
    Corpus,
    Manifest,
    Numbering,
    Shard,
    TokenFile,
    map_tokens,
)
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import Vocabulary
from ttoaa.identity import check

_INSPECTED = 1 << 24
_SAMPLES = 64, 1 << 14


def locate(path: pathlib.Path, dtype: str) -> TokenFile:
    """Where the values of a one-dimensional file begin, and how many there are.

    Raises ValueError for a header of another dtype or shape, and for a size that does not divide.
    """
    wanted, size, offset = np.dtype(dtype).newbyteorder("<"), path.stat().st_size, 0
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{path} has a header of another version than 1.0: save it anew")
            shape, _, stored = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
            if stored != wanted or shape != ((size - offset) / wanted.itemsize,):
                raise ValueError(
                    f"{path} says that it is {stored} of shape {shape}, not a row of {dtype} up "
                    f"to its end"
                )
    count, rest = divmod(size - offset, wanted.itemsize)
    if rest or not count:
        raise ValueError(f"{path} has {size - offset} bytes, which is no number of {dtype} values")
    return TokenFile(path, offset, count)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look at a file of token ids found; by samples, in those alone."""

    digest: str
    documents: int
    largest: int


def inspect_tokens(file: TokenFile, dtype: str, eos_id: int, kind: corpus.HashKind) -> Look:
    """Its digest, its documents (by EOS) and its largest id."""
    tokens = map_tokens(file.path, dtype, file.offset, (file.tokens,))
    starts, block = range(0, file.tokens, _INSPECTED), _INSPECTED
    if kind == "samples":
        count, block = _SAMPLES
        starts = range(0, file.tokens, max(block, -(-file.tokens // count)))
    documents, largest = 0, 0
    for start in starts:
        part = tokens[start : start + block]
        documents += int(np.count_nonzero(part == eos_id))
        largest = max(largest, int(part.max()))
    return Look(corpus.file_digest(file.path, kind), documents, largest)


_CHUNK = 1 << 24  # entries of the order file at once


@gin.configurable
@dataclasses.dataclass(frozen=True)
class OlmoCorpus:
    """Token files of an OLMo run and their order; a study trains on them as that run would have.

    Nothing is copied but the tokenizer. Window w of training is what the order file has at
    `first` + w, for `train_windows` of them or all; what comes after is the reserve.
    """

    files: Sequence[str]
    """Paths in the order of OLMo's config; one that ends in .txt has a path on each line."""
    order: str
    """The epoch's global_indices.npy; of an epoch in which the run goes on, that epoch's."""
    tokenizer: Vocabulary
    eos_id: int = 100_257
    """The id that ends documents: eos_token_id in OLMo's config."""
    dtype: str = "uint32"
    length: int = 4096
    first: int = 0
    """Where in the order the study begins: the step that it goes on from times OLMo's batch."""
    train_windows: int | None = None
    digest: str = "sha256"
    """How the files are recognised: by "sha256" of all bytes, or by "samples" of terabytes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        if self.dtype not in ("uint16", "uint32"):
            raise ValueError(f"OlmoCorpus.dtype must be 'uint16' or 'uint32', not {self.dtype!r}")
        if self.digest not in digests.HASH_KINDS:
            raise ValueError(f"OlmoCorpus.digest must be one of {digests.HASH_KINDS}")
        for name, least in (("length", 2), ("first", 0), ("eos_id", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"OlmoCorpus.{name} must be at least {least}")
        if not self.files or (self.train_windows is not None and self.train_windows < 1):
            raise ValueError("OlmoCorpus needs files, and at least one of train_windows")

    def identity(self) -> dict[str, Any]:
        """Dotted field names to values, as they read back from JSON."""
        fields = {"source": type(self).__name__, **dataclasses.asdict(self)}
        del fields["tokenizer"]
        parts = dataclasses.asdict(self.tokenizer)  # type: ignore[call-overload]
        fields |= {"tokenizer": type(self.tokenizer).__name__}
        fields |= {f"tokenizer.{name}": value for name, value in parts.items()}
        return json.loads(json.dumps(fields, default=str))

    def make(self, folder: str | os.PathLike[str]) -> Corpus:
        """Checks the files and writes `folder`, or finds it made.

        Raises ValueError, naming the file, for whatever does not fit together.
        """
        folder = pathlib.Path(folder)
        if (folder / MANIFEST).exists():
            return self._found(folder)
        self.tokenizer.check()
        shards = [locate(_local(path), self.dtype) for path in self._paths()]
        order = locate(_local(self.order), "uint32")
        train = self._check_order(shards, order)
        workdir.write_bytes(folder / TOKENIZER, self.tokenizer.make(()))
        tokenizer = self.tokenizer.load(folder / TOKENIZER)
        if tokenizer.eos_id != self.eos_id:
            raise ValueError(
                f"{tokenizer.path} ends documents with {tokenizer.eos_id}, OlmoCorpus.eos_id is "
                f"{self.eos_id}: name the tokenizer of these files, and its EOS"
            )
        described = self._describe(shards, tokenizer)
        numbering = Numbering(
            file=str(order.path),
            dtype="uint32",
            offset=order.offset,
            windows=order.tokens,
            sha256=digests.file_digest(order.path, self._kind),
            length=self.length,
            first=self.first,
            train=train,
            digest=self._kind,
        )
        manifest = self._manifest(tokenizer, described, numbering)
        workdir.write_bytes(folder / MANIFEST, manifest.to_bytes())
        return Corpus.open(folder, verify=False)

    @property
    def _kind(self) -> digests.HashKind:
        return "samples" if self.digest == "samples" else "sha256"

    def _found(self, folder: pathlib.Path) -> Corpus:
        corpus = Corpus.open(folder)
        check(folder, corpus.manifest.config, self.identity(), ANOTHER_FOLDER)
        return corpus

    def _paths(self) -> list[str]:
        paths: list[str] = []
        for name in self.files:
            if not name.endswith(".txt"):
                paths.append(name)
                continue
            folder = _local(name).parent
            lines = [line.strip() for line in _local(name).read_text("utf-8").splitlines()]
            paths += [
                line if "://" in line else str(folder / line)
                for line in lines
                if line and not line.startswith("#")
            ]
        if not paths:
            raise ValueError(f"{', '.join(self.files)} names no token file")
        return paths

    def _check_order(self, shards: Sequence[TokenFile], order: TokenFile) -> int:
        """How many training windows there are, if the order is one of these instances."""
        total = sum(shard.tokens // self.length for shard in shards)
        seen = np.zeros(total, bool)
        numbers = map_tokens(order.path, "uint32", order.offset, (order.tokens,))
        for start in range(0, order.tokens, _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            if chunk.max() >= total:
                raise ValueError(
                    f"{order.path} names instance {chunk.max()}, the files have {total} of "
                    f"{self.length} tokens: give all files of that run, its dtype and its length"
                )
            seen[chunk] = True
        if (distinct := np.count_nonzero(seen)) != order.tokens:
            raise ValueError(
                f"{order.path} names {order.tokens - distinct} instances twice (OLMo pads so "
                f"without drop_last), and the reserve must be disjoint: cut its end off"
            )
        rest = order.tokens - self.first
        train = rest if self.train_windows is None else self.train_windows
        if not 0 < train <= rest:
            raise ValueError(
                f"{order.path} has {order.tokens} windows: from OlmoCorpus.first {self.first} on "
                f"there are not {max(train, 1)} for training"
            )
        return train

    def _describe(self, shards: Sequence[TokenFile], tokenizer: Tokenizer) -> tuple[Shard, ...]:
        """The shards with their digests; all bytes are read, or samples of each."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            looks = list(
                pool.map(lambda s: inspect_tokens(s, self.dtype, self.eos_id, self._kind), shards)
            )
        for shard, look in zip(shards, looks, strict=True):
            if look.largest >= tokenizer.reserved_ids.start:
                raise ValueError(
                    f"{shard.path} has the id {look.largest}, {tokenizer.path} only "
                    f"{tokenizer.reserved_ids.start} ids: is it another tokenizer's or dtype's?"
                )
        if not any(look.documents for look in looks):
            raise ValueError(
                f"no document in {shards[0].path} or the others ends with id {self.eos_id}: name "
                f"the tokenizer and the dtype with which they were made"
            )
        counted = self._kind == "sha256"
        return tuple(
            Shard(str(s.path), "all", s.tokens, k.documents * counted, k.digest, s.offset)
            for s, k in zip(shards, looks, strict=True)
        )

    def _manifest(
        self, tokenizer: Tokenizer, shards: tuple[Shard, ...], numbering: Numbering
    ) -> Manifest:
        digest = hashlib.sha256("".join(shard.sha256 for shard in shards).encode())
        documents = {"all": sum(shard.documents for shard in shards)}
        return Manifest(
            version=1,
            dtype=self.dtype,
            vocab_size=tokenizer.vocab_size,
            vocabulary=tokenizer.fingerprint,
            eos_id=tokenizer.eos_id,
            reserved_ids=(tokenizer.reserved_ids.start, tokenizer.reserved_ids.stop),
            documents=documents if self._kind == "sha256" else {},
            source=f"{len(shards)} token files in the order of {numbering.file}",
            text=digest.hexdigest(),
            config=self.identity(),
            shards=shards,
            numbering=numbering,
        )


def _local(path: str) -> pathlib.Path:
    if "://" in path:
        raise ValueError(
            f"{path} is not on this machine, and must be: it is memory-mapped; copy it"
        )
    found = pathlib.Path(path).expanduser().resolve()
    if not found.is_file():
        raise ValueError(f"there is no file {found}")
    return found
