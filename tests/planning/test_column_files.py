"""Arrays on disk that are written anywhere, and what a full disk makes of them."""

import errno
import os

import numpy as np
import pytest

from ttoaa.planning.column_files import Scratch, create_npy, map_npy


def test_scratch_on_disk_keeps_what_is_written_and_leaves_no_file(tmp_path):
    array = Scratch(tmp_path, spill=8)(1000, np.int64)
    array[::-1] = np.arange(1000)
    assert array.tolist() == list(range(999, -1, -1)) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [0, 1000])
def test_what_was_written_anywhere_is_a_plain_array_file(tmp_path, count):
    array = create_npy(tmp_path / "rows.npy", count, np.int64)
    array[::-1] = np.arange(count)
    del array
    assert map_npy(tmp_path / "rows.npy").tolist() == list(range(count - 1, -1, -1))
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), np.arange(count)[::-1])


MAKERS = (
    lambda at: Scratch(at, spill=8)(100, np.int64),
    lambda at: create_npy(at / "rows.npy", 100, np.int64),
)


@pytest.mark.parametrize("make", MAKERS)
def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch, make):
    def full(handle, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}"):
        make(tmp_path)
