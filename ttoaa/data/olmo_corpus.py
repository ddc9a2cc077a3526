"""A corpus of OLMo's own token files, in the order of an OLMo run; the files are not copied.

OLMo's files are raw arrays, whatever their suffix. Each by itself is cut into instances of `length`
tokens, its remainder dropped; instances are numbered through the files in the order of OLMo's
config. `global_indices.npy`, raw uint32, lists the instances in the order of training: those of one
epoch, shuffled by seed + epoch, perhaps without the last few, so that their number is divisible.
(allenai/OLMo: olmo/data/memmap_dataset.py, iterable_dataset.py. OLMo-core has a file per epoch:
global_indices_seed…_epoch…_size….npy.)
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import gin
import numpy as np

from ttoaa import workdir
from ttoaa.config_fields import (
    AtLeast,
    AtMost,
    Count,
    Name,
    OneOf,
    Paths,
    PositiveInt,
    config_class,
)
from ttoaa.data.corpus import (
    ANOTHER_FOLDER,
    HASH_KINDS,
    MANIFEST,
    TOKENIZER,
    Corpus,
    HashKind,
    Manifest,
    Numbering,
    Shard,
    TokenFile,
    file_digest,
    map_tokens,
)
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import Vocabulary
from ttoaa.identity import check, with_defaults

_CHUNK = 1 << 24  # tokens or instance numbers read at a time
_CHANCE = 1e-3  # of rejecting a valid order
_SAMPLES = 64, 1 << 14  # pieces of a file, tokens of each


def locate(path: pathlib.Path, dtype: str) -> TokenFile:
    """Find where the values of a raw or .npy file begin, and how many there are.

    Raises ValueError for a header of another dtype or shape, or an incomplete last value.
    """
    wanted, size, offset = np.dtype(dtype).newbyteorder("<"), path.stat().st_size, 0
    with open(path, "rb") as file:
        if file.read(6) == b"\x93NUMPY":
            file.seek(0)
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError(f"{path} has a header of another version than 1.0: save it again")
            shape, _, stored = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
            if stored != wanted or shape != ((size - offset) / wanted.itemsize,):
                raise ValueError(
                    f"{path} has {stored} of shape {shape} in its header, not one dimension of "
                    f"{dtype} that fills the file"
                )
    count, rest = divmod(size - offset, wanted.itemsize)
    if rest or not count:
        raise ValueError(f"{path} has {size - offset} bytes of values, not whole {dtype} values")
    return TokenFile(path, offset, count)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What a file of token ids holds; with digest "samples", what the samples hold."""

    digest: str
    documents: int
    largest: int


def inspect_tokens(file: TokenFile, dtype: str, eos_id: int, kind: HashKind) -> Inspection:
    """Compute a file's digest, count its documents (by EOS), and find its largest id."""
    tokens = map_tokens(file.path, dtype, file.offset, (file.tokens,))
    starts, block = range(0, file.tokens, _CHUNK), _CHUNK
    if kind == "samples":
        count, block = _SAMPLES
        starts = range(0, file.tokens, max(block, -(-file.tokens // count)))
    documents, largest = 0, 0
    for start in starts:
        part = tokens[start : start + block]
        documents += int(np.count_nonzero(part == eos_id))
        largest = max(largest, int(part.max()))
    return Inspection(file_digest(file.path, kind), documents, largest)


@gin.configurable
@config_class
class OlmoCorpus:
    """Token files of an OLMo run and their order; a study trains on them as that run would.

    Only the tokenizer is copied. Window w of training is entry `first` + w of the order file, for
    `train_windows` windows or all that follow; the entries after them are the reserve.
    """

    files: Paths
    """Paths in the order of OLMo's config; one that ends in .txt has a path on each line."""
    order: Name
    """global_indices.npy of the epoch that the study trains in."""
    tokenizer: Vocabulary
    eos_id: Count = 100_257
    """The id that ends a document: eos_token_id in OLMo's config."""
    dtype: Literal["uint16", "uint32"] = "uint32"
    length: Annotated[int, AtLeast(2), AtMost(2**31 - 1)] = 4096
    first: Count = 0
    """Where in the order the study begins: the step it continues from times OLMo's batch size."""
    train_windows: PositiveInt | None = None
    instances: PositiveInt | None = None
    """Number of instances of `length` tokens in the files, as OLMo's log reports it.

    With None, the order may omit random instances (drop_last), but not those with the highest
    numbers: such an order was made for another length or for fewer files."""
    digest: Annotated[str, OneOf(HASH_KINDS)] = "sha256"
    """How files are fingerprinted: the "sha256" of all bytes or, for terabytes, of "samples"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))

    def identity(self) -> dict[str, Any]:
        """Return dotted field names and their values, as JSON; part of the manifest."""
        fields = {"source": type(self).__name__, **dataclasses.asdict(self)}
        del fields["tokenizer"]
        parts = dataclasses.asdict(self.tokenizer)  # type: ignore[call-overload]
        fields |= {"tokenizer": type(self.tokenizer).__name__}
        fields |= {f"tokenizer.{name}": value for name, value in parts.items()}
        return json.loads(json.dumps(fields, default=str))

    def make(self, folder: str | os.PathLike[str]) -> Corpus:
        """Check the files and write the corpus in `folder`, or open a finished one.

        Raises ValueError, naming the file, where files, order and tokenizer do not fit together.
        """
        folder = pathlib.Path(folder)
        if (folder / MANIFEST).exists():
            return self._open(folder)
        self.tokenizer.check()
        shards = [locate(_existing_file(path), self.dtype) for path in self._paths()]
        order = locate(_existing_file(self.order), "uint32")
        train = self._check_order(shards, order)
        workdir.write_bytes(folder / TOKENIZER, self.tokenizer.make(()))
        tokenizer = self.tokenizer.load(folder / TOKENIZER)
        if tokenizer.eos_id != self.eos_id:
            raise ValueError(
                f"{tokenizer.path} ends documents with {tokenizer.eos_id}, OlmoCorpus.eos_id is "
                f"{self.eos_id}: set the tokenizer of these files, and its EOS"
            )
        described = self._inspect(shards, tokenizer)
        numbering = Numbering(
            file=str(order.path),
            dtype="uint32",
            offset=order.offset,
            windows=order.tokens,
            sha256=file_digest(order.path, self._kind),
            length=self.length,
            first=self.first,
            train=train,
            digest=self._kind,
        )
        manifest = self._manifest(tokenizer, described, numbering)
        workdir.write_bytes(folder / MANIFEST, manifest.to_bytes())
        return Corpus.open(folder, verify=False)

    @property
    def _kind(self) -> HashKind:
        return "samples" if self.digest == "samples" else "sha256"

    def _open(self, folder: pathlib.Path) -> Corpus:
        corpus = Corpus.open(folder)
        check(folder, corpus.manifest.config, with_defaults(self.identity(), self), ANOTHER_FOLDER)
        return corpus

    def _paths(self) -> list[str]:
        """List the token files, those in .txt lists included."""
        paths: list[str] = []
        for name in self.files:
            if not name.endswith(".txt"):
                paths.append(name)
                continue
            folder = _existing_file(name).parent
            try:
                text = _existing_file(name).read_text("utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{name} is not UTF-8 at byte {error.start}: convert it"
                ) from error
            lines = [line.strip() for line in text.splitlines()]
            paths += [
                line if "://" in line else str(folder / line)
                for line in lines
                if line and not line.startswith("#")
            ]
        if not paths:
            raise ValueError(f"{', '.join(self.files)} lists no token file")
        return paths

    def _check_order(self, shards: Sequence[TokenFile], order: TokenFile) -> int:
        """Check that the order is one of these instances; returns the number of train windows."""
        total = sum(shard.tokens // self.length for shard in shards)
        seen = np.zeros(total, bool)
        numbers = map_tokens(order.path, "uint32", order.offset, (order.tokens,))
        for start in range(0, order.tokens, _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            if chunk.max() >= total:
                raise ValueError(
                    f"{order.path} lists instance {chunk.max()}, but the files have {total} "
                    f"instances of {self.length} tokens: set the files, dtype and length of that "
                    "OLMo run"
                )
            seen[chunk] = True
        if (distinct := np.count_nonzero(seen)) != order.tokens:
            raise ValueError(
                f"{order.path} lists {order.tokens - distinct} instances twice (as OLMo does "
                f"without drop_last), and the reserve must be disjoint: cut off its end"
            )
        self._check_total(total, order, int(np.argmax(seen[::-1])))
        rest = order.tokens - self.first
        train = rest if self.train_windows is None else self.train_windows
        if not 0 < train <= rest:
            raise ValueError(
                f"{order.path} has {order.tokens} windows, too few for {max(train, 1)} training "
                f"windows from OlmoCorpus.first {self.first} on"
            )
        return train

    def _check_total(self, total: int, order: TokenFile, trailing: int) -> None:
        """Raise ValueError if the order was made for another number of instances than `total`.

        `trailing` counts the highest numbers that the order does not list. OLMo drops instances at
        random, so the chance that it dropped exactly these is below (dropped / total) ** trailing.
        """
        dropped = total - order.tokens
        unlikely = trailing == dropped or (dropped / total) ** trailing < _CHANCE
        where = f"but the files have {total} instances of {self.length} tokens"
        fix = "set the files, dtype and length of that OLMo run"
        if self.instances not in (None, total):
            raise ValueError(f"OlmoCorpus.instances is {self.instances}, {where}: {fix}")
        if self.instances is None and trailing and unlikely:
            raise ValueError(
                f"{order.path} lists no instance after {total - 1 - trailing}, {where}: {fix}; if "
                f"OLMo had that many, set OlmoCorpus.instances = {total}"
            )

    def _inspect(self, shards: Sequence[TokenFile], tokenizer: Tokenizer) -> tuple[Shard, ...]:
        """Inspect all files; returns them as shards with their digests."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(
                pool.map(lambda s: inspect_tokens(s, self.dtype, self.eos_id, self._kind), shards)
            )
        for shard, look in zip(shards, found, strict=True):
            if look.largest >= tokenizer.reserved_ids.start:
                raise ValueError(
                    f"{shard.path} has the id {look.largest}, {tokenizer.path} only "
                    f"{tokenizer.reserved_ids.start} ids: check the tokenizer and the dtype"
                )
        if not any(look.documents for look in found):
            raise ValueError(
                f"no document in {shards[0].path} or the other files ends with id {self.eos_id}: "
                f"set the tokenizer and the dtype that they were made with"
            )
        counted = self._kind == "sha256"
        return tuple(
            Shard(str(s.path), "all", s.tokens, k.documents * counted, k.digest, s.offset)
            for s, k in zip(shards, found, strict=True)
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


def _existing_file(path: str) -> pathlib.Path:
    if "://" in path:
        raise ValueError(f"{path} is not on this machine: copy it, since it is memory-mapped")
    found = pathlib.Path(path).expanduser().resolve()
    if not found.is_file():
        raise ValueError(f"{found} does not exist")
    return found
