"""Imported by a test's gin file: makes every batch take $TTOAA_TEST_SLOW seconds.

A tiny run is over before a signal reaches it. What it has done can be read in <workdir>/taken.
"""

import os
import pathlib
import sys
import time

from ttoaa import bucket
from ttoaa.data import loader

_SECONDS = float(os.environ.get("TTOAA_TEST_SLOW", 0))


class SlowRows(loader.Rows):
    def __getitem__(self, step):
        time.sleep(_SECONDS)
        with open(_TAKEN, "a") as file:
            file.write(f"{step}\n")
        return super().__getitem__(step)


if _SECONDS:
    (_WORKDIR,) = (a.partition("=")[2] for a in sys.argv if a.startswith("--workdir="))
    _FOLDER = bucket.local_path(_WORKDIR) if "://" in _WORKDIR else pathlib.Path(_WORKDIR)
    _TAKEN = _FOLDER / "taken"
    loader.Rows = SlowRows
