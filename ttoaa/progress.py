"""Progress bars: one line that changes on a terminal, a line every half minute in a log."""

import bisect
import sys
from collections.abc import Iterator, Mapping, Sequence
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


class StepProgress:
    """The line of a training run: step, time left, loss, speed, next probe and next checkpoint.

    It says "compiling…" until `begin`. Use it as a context.
    """

    def __init__(
        self, label: str, start: int, total: int, due: Mapping[str, Sequence[int]], shown: bool
    ) -> None:
        """`due` has the steps of every event that is announced, ascending, by its name."""
        self._due, self._loss = due, ""
        self._rate, self._mfu = 0.0, 0.0  # tokens per second, and the MFU of one of them
        space = " {bar}" if sys.stderr.isatty() else ""  # tqdm cuts only lines with a bar to fit
        self._bar = progress_bar(
            desc=label,
            initial=start,
            total=total,
            disable=not shown,
            postfix="compiling…",
            bar_format="{desc}: {n_fmt}/{total_fmt}, ETA {remaining}{postfix}" + space,
        )

    def begin(self) -> None:
        """Count the time from now on."""
        self._bar.unpause()
        self._bar.set_postfix_str("", refresh=False)

    def update(self, values: Mapping[str, float]) -> None:
        """Count a step; `values` has "loss", "tokens_per_second" and "mfu" of it, as far as known.

        The speed shown is a running average.
        """
        bar = self._bar
        if bar.disable:
            return
        if values:
            rate = values.get("tokens_per_second", 0.0)
            if rate:
                self._rate += (rate - self._rate) * (0.1 if self._rate else 1.0)
                self._mfu = values["mfu"] / rate if "mfu" in values else 0.0
            self._loss = f"loss {values['loss']:.3f}"
        bar.set_postfix_str(", ".join(self._describe()), refresh=False)
        bar.update()

    def _describe(self) -> Iterator[str]:
        if self._loss:
            yield self._loss
        if self._rate:
            yield f"{tqdm.tqdm.format_sizeof(self._rate)} tokens/s"
        if self._mfu:
            yield f"MFU {self._mfu * self._rate:.1%}"
        for name, steps in self._due.items():
            coming = bisect.bisect_left(steps, self._bar.n + 1)
            if coming < len(steps):
                yield f"next {name} {steps[coming]}"

    def __enter__(self) -> "StepProgress":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave a last line, without what was to come next."""
        self._due = {}
        self._bar.set_postfix_str(", ".join(self._describe()), refresh=False)
        self._bar.close()


class _Lines:
    """Writes every state of a bar as a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if state := text.strip():
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        self._stream.flush()
