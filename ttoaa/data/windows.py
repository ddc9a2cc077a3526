"""Windows of one length over some files of token ids: window number → file and offset."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROWS_OF_A_FILE = 8  # above that, taking them at once is faster than one by one


class File(NamedTuple):
    """A file of token ids, the first of them at byte `offset`."""

    path: pathlib.Path
    offset: int
    tokens: int


class Windows:
    """The files one after the other, each cut into windows by itself, its remainder dropped."""

    def __init__(self, files: Sequence[File], dtype: str, length: int) -> None:
        if length < 1:
            raise ValueError(f"a window needs at least one token, not {length}")
        files = [file for file in files if file.tokens >= length]
        self.length = length
        self.starts = np.cumsum([0, *(file.tokens // length for file in files)])
        self.total = int(self.starts[-1])
        self._mapped = [
            mapped(file.path, dtype, file.offset, (file.tokens // length, length)) for file in files
        ]

    def read(self, indices_n: np.ndarray) -> np.ndarray:
        """int32[n, length], a fresh array."""
        if indices_n.size and not 0 <= indices_n.min() <= indices_n.max() < self.total:
            raise ValueError(
                f"windows {indices_n.min()} to {indices_n.max()} asked, "
                f"there are {self.total} of {self.length} tokens"
            )
        return self._read(indices_n)

    def _read(self, indices_n: np.ndarray) -> np.ndarray:
        tokens_nxL = np.empty((len(indices_n), self.length), np.int32)
        if len(self._mapped) == 1:
            tokens_nxL[:] = self._mapped[0].take(indices_n, axis=0)
            return tokens_nxL
        file_n = np.searchsorted(self.starts, indices_n, side="right") - 1
        inside_n = indices_n - self.starts[file_n]
        if len(indices_n) <= _ROWS_OF_A_FILE * len(self._mapped):
            places = zip(file_n.tolist(), inside_n.tolist(), strict=True)
            for row, (file, inside) in enumerate(places):
                tokens_nxL[row] = self._mapped[file][inside]
            return tokens_nxL
        by_file = np.argsort(file_n, kind="stable")
        for rows in np.split(by_file, np.flatnonzero(np.diff(file_n[by_file])) + 1):
            tokens_nxL[rows] = self._mapped[file_n[rows[0]]].take(inside_n[rows], axis=0)
        return tokens_nxL


class Numbered(Windows):
    """Window w is the one that `order`, a mapped array of their numbers, has at w."""

    def __init__(self, files: Sequence[File], dtype: str, length: int, order: np.ndarray) -> None:
        super().__init__(files, dtype, length)
        self._order, self.total = order, len(order)

    def _read(self, indices_n: np.ndarray) -> np.ndarray:
        return super()._read(self._order[indices_n].astype(np.int64))


def mapped(path: pathlib.Path, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Little-endian values of a file; a plain array, as a memmap's own indexing costs more."""
    return np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", offset, shape))
