"""The plan as the loader's transform: writes a batch's edits over it (contract C2)."""

from typing import Any, NamedTuple

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Batch
from ttoaa.planning.edits import Edits
from ttoaa.planning.items import RESERVE, SLOT, TOKENS

_READ = ("kind", "source", "offset", "length", "arm")
_LOOKED_UP = 1 << 16  # positions at once: for one step alone the look-up costs more than the edits


class Overlay:
    """Writes the plan's edits over a batch: all experiments at once, cost by edits alone."""

    def __init__(self, plan: Edits, corpus: Corpus) -> None:
        self._plan, self._corpus, self._geometry = plan, corpus, plan.geometry
        self._found: _Steps | None = None

    def __call__(self, step: int, batch: Batch) -> Batch:
        size, found = self._geometry.batch, self._found
        share = batch["position"] - step * size
        if found is None or not found.have(step, share.tobytes()):
            # Another thread may do the same for other steps.
            steps = max(1, _LOOKED_UP // size)
            self._found = found = self._look_up(step - step % steps, steps, size, share)
        self._write(found, step, batch["tokens"], batch["arms"])
        return batch

    def rows(self, position: np.ndarray, tokens: np.ndarray, arms: np.ndarray) -> None:
        """Writes over any rows of the run, as one batch: positions are int64[n], ascending."""
        if len(position):
            found = self._look_up(0, 1, self._geometry.sequences, position)
            self._write(found, 0, tokens, arms)

    def _write(self, found: "_Steps", step: int, tokens: np.ndarray, arms: np.ndarray) -> None:
        inside = step - found.first
        windows, rows = found.windows.of(inside)
        if len(windows):
            self._corpus.write_windows("reserve", windows, tokens, rows)
        # A slice an edit costs less than an index a token: edits have hundreds of tokens.
        flat, flat_arms, texts = tokens.reshape(-1), arms.reshape(-1), self._plan.tokens
        for at, length, source in zip(*found.texts.of(inside), strict=True):
            flat[at : at + length] = texts[source : source + length]
        for at, length, arm in zip(*found.arms.of(inside), strict=True):
            flat_arms[at : at + length].fill(arm)

    def _look_up(self, first: int, steps: int, batch: int, rows: np.ndarray) -> "_Steps":
        """The edits of `steps` steps of `batch` rows each, in these of their rows."""
        columns, last = self._plan.columns, first + steps - 1
        chosen = self._plan.between(first * batch + int(rows[0]), last * batch + int(rows[-1]) + 1)
        steps_n, theirs = np.divmod(columns["position"][chosen], batch)
        row = np.minimum(rows.searchsorted(theirs), len(rows) - 1)
        ours = rows[row] == theirs  # a share need not be contiguous
        ours &= columns["kind"][chosen] != SLOT  # the corpus, until something is decided
        steps_n, row = steps_n[ours] - first, row[ours]
        kind, source, offset, length, arm = (columns[name][chosen][ours] for name in _READ)
        at = row * self._geometry.length + offset
        reserve, text = kind == RESERVE, kind == TOKENS

        def begin(which: np.ndarray | slice) -> list[int]:
            return steps_n[which].searchsorted(np.arange(steps + 1)).tolist()

        def lists(which: np.ndarray | slice, *values: np.ndarray) -> _ByStep:
            # Lists, since Python reads a number of one faster than of an array.
            return _ByStep(begin(which), [value[which].tolist() for value in values])

        return _Steps(
            first,
            steps,
            rows.tobytes(),
            windows=_ByStep(begin(reserve), [source[reserve], row[reserve]]),
            texts=lists(text, at, length, source),
            arms=lists(slice(None), at, length, arm),
        )


class _ByStep(NamedTuple):
    """Columns of edits in the order of training, and where each step's begin."""

    begin: list[int]
    columns: list[Any]

    def of(self, step: int) -> list[Any]:
        first, last = self.begin[step : step + 2]
        return [column[first:last] for column in self.columns]


class _Steps(NamedTuple):
    """The edits of so many steps from `first` on, in a share of the rows."""

    first: int
    steps: int
    share: bytes
    windows: _ByStep
    """The reserve's window and the row of the share."""
    texts: _ByStep
    """Place in the flat share, length, and place in the plan's tokens."""
    arms: _ByStep
    """Place, length and arm."""

    def have(self, step: int, share: bytes) -> bool:
        return 0 <= step - self.first < self.steps and share == self.share
