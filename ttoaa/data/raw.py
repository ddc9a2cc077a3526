"""Files of unsigned integers, raw or with a real NumPy header, and what is in them."""

import dataclasses
import pathlib

import numpy as np

from ttoaa.data import digests
from ttoaa.data.windows import File, mapped

_BLOCK = 1 << 24
_SAMPLES = 64, 1 << 14


def locate(path: pathlib.Path, dtype: str) -> File:
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
    return File(path, offset, count)


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look at a file of token ids found; by samples, in those alone."""

    digest: str
    documents: int
    largest: int


def inspect(file: File, dtype: str, eos_id: int, kind: digests.Kind) -> Look:
    """Its digest, its documents (by EOS) and its largest id."""
    tokens = mapped(file.path, dtype, file.offset, (file.tokens,))
    starts, block = range(0, file.tokens, _BLOCK), _BLOCK
    if kind == "samples":
        count, block = _SAMPLES
        starts = range(0, file.tokens, max(block, -(-file.tokens // count)))
    documents, largest = 0, 0
    for start in starts:
        part = tokens[start : start + block]
        documents += int(np.count_nonzero(part == eos_id))
        largest = max(largest, int(part.max()))
    return Look(digests.of(file.path, kind), documents, largest)
