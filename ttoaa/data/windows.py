"""Windows of one length over some files of token ids: window number → file and offset."""

import contextlib
import errno
import pathlib
import resource
from collections.abc import Iterator, Sequence
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
        with _room_for(len(files)):
            self._mapped = [
                mapped(file.path, dtype, file.offset, (file.tokens // length, length))
                for file in files
            ]

    def read(self, indices_n: np.ndarray) -> np.ndarray:
        """int32[n, length], a fresh array."""
        tokens_nxL = np.empty((len(indices_n), self.length), np.int32)
        self.write(indices_n, tokens_nxL, np.arange(len(indices_n)))
        return tokens_nxL

    def write(self, indices_n: np.ndarray, out_NxL: np.ndarray, rows_n: np.ndarray) -> None:
        """Writes the windows into these rows of `out`, with no copy between."""
        if indices_n.size and not 0 <= indices_n.min() <= indices_n.max() < self.total:
            raise ValueError(
                f"windows {indices_n.min()} to {indices_n.max()} asked, "
                f"there are {self.total} of {self.length} tokens"
            )
        self._write(indices_n, out_NxL, rows_n)

    def _write(self, indices_n: np.ndarray, out_NxL: np.ndarray, rows_n: np.ndarray) -> None:
        file_n = self.starts.searchsorted(indices_n, side="right") - 1
        inside_n = indices_n - self.starts[file_n]
        if len(indices_n) <= _ROWS_OF_A_FILE * len(self._mapped):
            places = rows_n.tolist(), file_n.tolist(), inside_n.tolist()
            for row, file, inside in zip(*places, strict=True):
                out_NxL[row] = self._mapped[file][inside]
            return
        by_file = np.argsort(file_n, kind="stable")
        for chosen in np.split(by_file, np.flatnonzero(np.diff(file_n[by_file])) + 1):
            windows_cxL = self._mapped[file_n[chosen[0]]].take(inside_n[chosen], axis=0)
            out_NxL[rows_n[chosen]] = windows_cxL


class Numbered(Windows):
    """Window w is the one that `order`, a mapped array of their numbers, has at w."""

    def __init__(self, files: Sequence[File], dtype: str, length: int, order: np.ndarray) -> None:
        super().__init__(files, dtype, length)
        self._order, self.total = order, len(order)

    def _write(self, indices_n: np.ndarray, out_NxL: np.ndarray, rows_n: np.ndarray) -> None:
        super()._write(self._order[indices_n].astype(np.int64), out_NxL, rows_n)


@contextlib.contextmanager
def _room_for(files: int) -> Iterator[None]:
    """A mapping holds a file open, and limits of 1,024 are common: so many more may be open.

    Raises OSError, saying what to set, where the machine allows no more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        most = soft + files if hard == resource.RLIM_INFINITY else min(soft + files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise OSError(
            f"{files} token files are mapped at once, and only {hard} files may be open: raise "
            f"the limit (ulimit -Hn), or make fewer shards (Prepare.shard_characters)"
        ) from error


def mapped(path: pathlib.Path, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Little-endian values of a file; a plain array, as a memmap's own indexing costs more."""
    return np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", offset, shape))
