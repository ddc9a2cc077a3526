"""Progress bars: one line that changes on a terminal, a line every half minute in a log."""

import sys
from typing import Any, TextIO

import tqdm

LOG_SECONDS = 30.0
"""Between two lines of a log."""


def progress_bar(**settings: Any) -> "tqdm.tqdm[Any]":
    """Return a tqdm bar with these settings for stderr.

    A file would hold all states of a terminal's bar in one line of many thousand characters.
    """
    if sys.stderr.isatty():
        return tqdm.tqdm(dynamic_ncols=True, **settings)
    pace = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS}
    return tqdm.tqdm(file=_Lines(sys.stderr), **pace, **settings)


class _Lines:
    """Writes every state of a bar as a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if state := text.strip():
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        self._stream.flush()
