"""Documents to token shards, part by part; a finished part is never done again."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ttoaa import workdir
from ttoaa.data.corpus import SPLITS, Shard, Split
from ttoaa.data.sources import keyed_fraction
from ttoaa.data.tokenizer import Tokenizer

_BATCH_CHARACTERS = 1_000_000

Documents = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of documents, as its shards (one a split; none for a split without documents)."""

    characters: int
    seconds: float
    shards: tuple[Shard, ...]

    @classmethod
    def load(cls, path: pathlib.Path) -> "Part":
        fields = workdir.read_json(path)
        return cls(**{**fields, "shards": tuple(Shard(**shard) for shard in fields["shards"])})


def split_of(text: str, reserve_fraction: float) -> Split:
    """By text alone, so that copies of a document are never on both sides."""
    return "reserve" if keyed_fraction("reserve", text) < reserve_fraction else "train"


def parts(documents: Iterable[tuple[str, str]], characters: int) -> Iterator[Documents]:
    """Consecutive documents, in groups that end once they have that many characters."""
    part: Documents = []
    size = 0
    for document in documents:
        part.append(document)
        size += len(document[1])
        if size >= characters:
            yield part
            part, size = [], 0
    if part:
        yield part


def write_part(
    number: int,
    part: Documents,
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    reserve_fraction: float,
    advance: Callable[[int], object],
) -> Part:
    """Tokenises and writes part `number`; calls `advance` with characters as they are done."""
    started = time.monotonic()
    tokens: dict[Split, list[np.ndarray]] = {split: [] for split in SPLITS}
    for batch in parts(part, _BATCH_CHARACTERS):
        texts = [text for _, text in batch]
        for (name, text), ids in zip(batch, tokenizer.encode_batch(texts), strict=True):
            _check(name, ids, tokenizer)
            tokens[split_of(text, reserve_fraction)].append(np.append(ids, tokenizer.eos_id))
        advance(sum(map(len, texts)))
    shards = tuple(
        _write_shard(folder, f"{split}-{number:05d}.bin", split, documents, tokenizer.vocab_size)
        for split, documents in tokens.items()
        if documents
    )
    return Part(sum(len(text) for _, text in part), time.monotonic() - started, shards)


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def _check(name: str, ids: np.ndarray, tokenizer: Tokenizer) -> None:
    if (ids >= tokenizer.reserved_ids.start).any() or (ids == tokenizer.eos_id).any():
        raise ValueError(
            f"{name} has text that {tokenizer.path} encodes as EOS or as a reserved id: "
            f"mark that token as special in the tokenizer, or take the text out"
        )


def _write_shard(
    folder: pathlib.Path, name: str, split: Split, documents: list[np.ndarray], vocab_size: int
) -> Shard:
    content = np.concatenate(documents).astype(token_dtype(vocab_size)).tobytes()
    workdir.write_bytes(folder / name, content)
    size = len(content) // token_dtype(vocab_size).itemsize
    return Shard(name, split, size, len(documents), hashlib.sha256(content).hexdigest())


def save(path: pathlib.Path, part: Part) -> None:
    workdir.write_text(path, json.dumps(dataclasses.asdict(part)))
