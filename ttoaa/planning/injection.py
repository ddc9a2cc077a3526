"""Transforms of the loader that write edits over a batch (contracts C2 and C6).

`Overlay` writes the plan's edits; `SlotOverlay`, the last transform, the texts that controllers
chose for their slots.
"""

import itertools
import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import mix64
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import RESERVE, SLOT, TOKENS
from ttoaa.planning.plan import Edits
from ttoaa.workdir import atomic_writer

if TYPE_CHECKING:  # Grain takes a second to import, and only the loader needs it
    from ttoaa.data.loader import Batch

_READ = ("kind", "source", "offset", "length", "arm")
_READ_AT_ONCE = 1 << 10  # windows, of which only the beginnings are kept
_LOOKED_UP = 1 << 16  # positions per look-up, which for one step costs more than its edits


class Overlay:
    """Writes the edits of experiments over a batch; its cost depends only on the edits."""

    def __init__(
        self,
        plan: Edits,
        corpus: Corpus,
        experiments: Collection[str] | None = None,
        sham_windows: np.ndarray | None = None,
    ) -> None:
        """Make the edits of these experiments, by default of all.

        With `sham_windows` (int64[m] of the reserve), every edit keeps its place, length and arm
        and writes text of one of these windows instead of its own.
        """
        self._plan, self._corpus, self._geometry = plan, corpus, plan.geometry
        self._sham_windows = sham_windows
        arms = [arm for arm in plan.arms if experiments is None or arm["experiment"] in experiments]
        self._included = np.zeros(1 + max((arm["id"] for arm in plan.arms), default=0), bool)
        self._included[[arm["id"] for arm in arms]] = True
        self._found: _Steps | None = None

    def __call__(self, step: int, batch: "Batch") -> "Batch":
        size, found = self._geometry.batch, self._found
        share = batch["position"] - step * size
        if found is None or not found.cover(step, share.tobytes()):
            # Not locked: another thread may look up other steps, which wastes time only.
            steps = max(1, _LOOKED_UP // size)
            self._found = found = self._look_up(step - step % steps, steps, size, share)
        self._write(found, step, batch["tokens"], batch["arms"])
        return batch

    def rows(self, position: np.ndarray, tokens: np.ndarray, arms: np.ndarray) -> None:
        """Write over rows [n, L] of the run at any positions, int64[n] ascending."""
        if len(position):
            found = self._look_up(0, 1, self._geometry.sequences, position)
            self._write(found, 0, tokens, arms)

    def _write(self, found: "_Steps", step: int, tokens: np.ndarray, arms: np.ndarray) -> None:
        inside = step - found.first
        windows, rows = found.windows.of(inside)
        if len(windows):
            self._corpus.write_windows("reserve", windows, tokens, rows)
        # One slice for each edit costs less than one index for each token.
        flat, flat_arms, texts = tokens.reshape(-1), arms.reshape(-1), found.tokens
        for at, length, source in zip(*found.texts.of(inside), strict=True):
            flat[at : at + length] = texts[source : source + length]
        for at, length, arm in zip(*found.arms.of(inside), strict=True):
            flat_arms[at : at + length].fill(arm)

    def _look_up(self, first: int, steps: int, batch: int, rows: np.ndarray) -> "_Steps":
        """Look up the edits of `steps` steps from `first` on, in these rows of their batches."""
        columns, last = self._plan.columns, first + steps - 1
        chosen = self._plan.between(first * batch + int(rows[0]), last * batch + int(rows[-1]) + 1)
        steps_n, theirs = np.divmod(columns["position"][chosen], batch)
        row = np.minimum(rows.searchsorted(theirs), len(rows) - 1)
        ours = rows[row] == theirs  # the rows of a host need not be contiguous
        ours &= columns["kind"][chosen] != SLOT  # stays the corpus text until a controller decides
        ours &= self._included[columns["arm"][chosen]]
        position = columns["position"][chosen][ours]
        steps_n, row = steps_n[ours] - first, row[ours]
        kind, source, offset, length, arm = (columns[name][chosen][ours] for name in _READ)
        at = row * self._geometry.length + offset
        reserve, text, tokens = kind == RESERVE, kind == TOKENS, self._plan.tokens
        if self._sham_windows is not None:
            shown = sham_choice(self._sham_windows, position, offset)
            source = np.where(reserve, shown, source)
            tokens, source[text] = self._sham_texts(shown[text], length[text])

        def begin(which: np.ndarray | slice) -> list[int]:
            return steps_n[which].searchsorted(np.arange(steps + 1)).tolist()

        def lists(which: np.ndarray | slice, *values: np.ndarray) -> _ByStep:
            # Python reads numbers faster from a list than from an array.
            return _ByStep(begin(which), [value[which].tolist() for value in values])

        return _Steps(
            first,
            steps,
            rows.tobytes(),
            windows=_ByStep(begin(reserve), [source[reserve], row[reserve]]),
            texts=lists(text, at, length, source),
            arms=lists(slice(None), at, length, arm),
            tokens=tokens,
        )

    def _sham_texts(self, windows: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first length[i] tokens of each window, concatenated, and where each begins."""
        size, found = self._geometry.length, [np.empty(0, np.int32)]
        for first in range(0, len(windows), _READ_AT_ONCE):
            part = slice(first, first + _READ_AT_ONCE)
            rows = self._corpus.windows("reserve", windows[part], size)
            found.append(rows[np.arange(size) < length[part, None]])
        return np.concatenate(found), np.cumsum(length) - length


SHAM_WINDOWS = "sham_windows.npy"
"""File in a sham run's folder with its reserve windows, int64[m]."""


def write_sham_windows(folder: pathlib.Path, windows: np.ndarray) -> None:
    with atomic_writer(folder / SHAM_WINDOWS) as file:
        np.save(file, windows)


def sham_choice(windows: np.ndarray, position: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the reserve window (int64[n]) whose text a sham edit at each place writes.

    It is windows[mix64(position * 2**20 + offset) mod m].
    """
    places = position.astype(np.uint64) * np.uint64(1 << 20) + offset.astype(np.uint64)
    return windows[(mix64(places) % np.uint64(len(windows))).astype(np.int64)]


class _ByStep(NamedTuple):
    """Columns of edits in training order, and the first edit of each step."""

    begin: list[int]
    columns: list[Any]

    def of(self, step: int) -> list[Any]:
        first, last = self.begin[step : step + 2]
        return [column[first:last] for column in self.columns]


class _Steps(NamedTuple):
    """The edits of `steps` steps from `first` on, in the rows of one host."""

    first: int
    steps: int
    share: bytes
    windows: _ByStep
    """Reserve window, and row of the host."""
    texts: _ByStep
    """Index in the host's flattened tokens, length, and index in `tokens`."""
    arms: _ByStep
    """Index, length and arm."""
    tokens: np.ndarray
    """int32, indexed by `texts`."""

    def cover(self, step: int, share: bytes) -> bool:
        return 0 <= step - self.first < self.steps and share == self.share


class SlotOverlay:
    """Writes the texts that controllers chose into their slots.

    A pure function of plan, texts, decisions and step. All slots are looked up once, at the start.
    Apply it after the loader's read-ahead, not within: a batch can be filled only when its
    decisions are made.
    """

    def __init__(self, plan: Edits, slot_texts: Sequence[SlotTexts]) -> None:
        """Raise ValueError, naming the experiment, for slots that are not in the plan or not in
        their intervals, and for texts longer than their slots."""
        self.slot_texts = slot_texts
        found = [_Slots(plan, texts) for texts in slot_texts]
        self.per_interval = [slots.per_interval for slots in found]
        """Slots in an interval, for each controller."""
        rows = np.concatenate([np.empty(0, np.int64), *(slots.rows for slots in found)])
        order = np.argsort(rows)
        where = np.empty_like(order)
        where[order] = np.arange(len(order))
        ends = np.cumsum([0, *(len(slots.rows) for slots in found)])
        self._where = [where[a:b] for a, b in itertools.pairwise(ends)]
        columns = {n: np.asarray(plan.columns[n])[rows[order]] for n in ("position", "offset")}
        self._position, self._offset = columns["position"], columns["offset"]
        self._arm = np.asarray(plan.columns["arm"])[rows[order]]
        self._text = np.full(len(rows), -1)  # the text in each slot
        self._texts = [np.asarray(text, np.int32) for f in slot_texts for text in f.texts]
        self._first = np.cumsum([0, *(len(f.texts) for f in slot_texts)]).tolist()
        self._decided = [0] * len(slot_texts)

    def begin(self, step: int) -> None:
        """Begin a run at `step`; slots of an interval that has begun before stay empty."""
        self._text[:] = -1
        self._decided = [-(-step // f.every) * f.every for f in self.slot_texts]

    def validate(self, number: int, interval: int, chosen: Iterable[Any]) -> list[int]:
        """Return a decision of controller `number` as integers; raises ValueError for a bad one."""
        texts, chosen = self.slot_texts[number], list(chosen)
        who = f"{texts.name}: the decision for interval {interval}"
        if not all(isinstance(text, int | np.integer) for text in chosen):
            raise ValueError(f"{who} is not a list of whole numbers: {chosen!r:.100}")
        if len(chosen) > self.per_interval[number]:
            raise ValueError(
                f"{who} has {len(chosen)} texts for {self.per_interval[number]} slots: give the "
                "item more repetitions, or let the controller choose fewer"
            )
        wrong = [int(text) for text in chosen if not 0 <= text < len(texts.texts)]
        if wrong:
            raise ValueError(
                f"{who} chooses text {wrong[0]}, but there are only {len(texts.texts)}"
            )
        return [int(text) for text in chosen]

    def decide(self, number: int, interval: int, chosen: Iterable[Any]) -> None:
        """Put text chosen[k] into slot k of the interval."""
        texts = np.array(self.validate(number, interval, chosen), np.int64)
        first = interval * self.per_interval[number]
        slots = self._where[number][first : first + len(texts)]
        self._text[slots] = self._first[number] + texts
        end = (interval + 1) * self.slot_texts[number].every
        self._decided[number] = max(self._decided[number], end)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Repeat the decisions of the lines of a log; others only measured."""
        numbers = {(f.experiment, f.slots): number for number, f in enumerate(self.slot_texts)}
        for line in lines:
            if line["chosen"] is not None:
                number = numbers[line["experiment"], line["slots"]]
                self.decide(number, line["interval"], line["chosen"])

    def __call__(self, step: int, batch: "Batch") -> "Batch":
        if step >= min(self._decided):
            name = self.slot_texts[self._decided.index(min(self._decided))].name
            raise ValueError(f"{name}: no decision yet for step {step}")
        position, tokens, arms = batch["position"], batch["tokens"], batch["arms"]
        first, last = np.searchsorted(self._position, [position[0], position[-1] + 1])
        slots = first + np.flatnonzero(self._text[first:last] >= 0)
        rows = np.searchsorted(position, self._position[slots])
        ours = position[rows] == self._position[slots]  # the rows of a host need not be contiguous
        for row, slot in zip(rows[ours].tolist(), slots[ours].tolist(), strict=True):
            text, offset = self._texts[self._text[slot]], self._offset[slot]
            tokens[row, offset : offset + len(text)] = text
            arms[row, offset : offset + len(text)] = self._arm[slot]
        return batch


class _Slots:
    """The slots of one controller in a plan: `rows` int64[n] of the columns, copy by copy."""

    def __init__(self, plan: Edits, slot_texts: SlotTexts) -> None:
        name, geometry = slot_texts.name, plan.geometry
        if not isinstance(slot_texts.every, int) or slot_texts.every < 1:
            raise ValueError(
                f"{name}: `every` must be a number of steps >= 1, not {slot_texts.every!r}"
            )
        self.rows = plan.find(slot_texts.slots, slot_texts.experiment)
        names = ("position", "kind", "repetition", "length")
        columns = {n: plan.columns[n][self.rows] for n in names}
        if not len(self.rows) or np.any(columns["kind"] != SLOT):
            raise ValueError(
                f"{name}: the controller needs an item of that id with repetitions and a slot"
            )
        copies = np.argsort(columns["repetition"])
        self.rows = self.rows[copies]
        intervals = -(-geometry.steps // slot_texts.every)
        self.per_interval = len(self.rows) // intervals
        found = columns["position"][copies] // geometry.batch // slot_texts.every
        if len(self.rows) % intervals or np.any(
            found != np.arange(len(self.rows)) // self.per_interval
        ):
            raise ValueError(
                f"{name}: its slots are not in the controller's {intervals} intervals: place the "
                f"item by PerInterval({slot_texts.every})"
            )
        room = int(columns["length"].min())
        for number, text in enumerate(slot_texts.texts):
            if not 1 <= len(text) <= room:
                raise ValueError(
                    f"{name}: text {number} has {len(text)} tokens, its slot holds 1 to {room}: "
                    "shorten it or lengthen the slot"
                )
