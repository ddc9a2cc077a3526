"""The plan as the loader's transform: writes a batch's edits over it (contract C2).

Decided texts in their slots: the last of the transforms that edit (contracts C2 and C6).
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import RESERVE, SLOT, TOKENS
from ttoaa.planning.plan import Edits

if TYPE_CHECKING:  # Grain takes a second to import, and only the loader needs it
    from ttoaa.data.loader import Batch

_READ = ("kind", "source", "offset", "length", "arm")
_LOOKED_UP = 1 << 16  # positions at once: for one step alone the look-up costs more than the edits


class Overlay:
    """Writes the plan's edits over a batch: all experiments at once, cost by edits alone."""

    def __init__(self, plan: Edits, corpus: Corpus) -> None:
        self._plan, self._corpus, self._geometry = plan, corpus, plan.geometry
        self._found: _Steps | None = None

    def __call__(self, step: int, batch: "Batch") -> "Batch":
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


class SlotOverlay:
    """Writes what was decided; a pure function of the plan, the texts, the decisions and the step.

    All slots are looked up once, here; a batch costs a search and its filled slots. It must follow
    the loader's read-ahead, not be in it: a batch may only be asked for once it is decided.
    """

    def __init__(self, plan: Edits, fillings: Sequence[SlotTexts]) -> None:
        """Raises ValueError, naming the experiment, for slots that the plan lacks or that are no
        intervals', and for texts longer than their slots."""
        self.fillings = fillings
        found = [_Slots(plan, filling) for filling in fillings]
        self.each = [slots.each for slots in found]
        """Slots of an interval, for each filling."""
        rows = np.concatenate([np.empty(0, np.int64), *(slots.rows for slots in found)])
        order = np.argsort(rows)
        where = np.empty_like(order)
        where[order] = np.arange(len(order))
        ends = np.cumsum([0, *(len(slots.rows) for slots in found)])
        self._where = [where[a:b] for a, b in itertools.pairwise(ends)]
        columns = {n: np.asarray(plan.columns[n])[rows[order]] for n in ("position", "offset")}
        self._position, self._offset = columns["position"], columns["offset"]
        self._arm = np.asarray(plan.columns["arm"])[rows[order]]
        self._text = np.full(len(rows), -1)  # which text lies in each slot
        self._texts = [np.asarray(text, np.int32) for f in fillings for text in f.texts]
        self._first = np.cumsum([0, *(len(f.texts) for f in fillings)]).tolist()
        self._decided = [0] * len(fillings)

    def begin(self, step: int) -> None:
        """A run begins at `step`: where that is within an interval, its slots stay as they are."""
        self._text[:] = -1
        self._decided = [-(-step // f.every) * f.every for f in self.fillings]

    def checked(self, number: int, interval: int, chosen: Iterable[Any]) -> list[int]:
        """A decision of filling `number` as plain integers; ValueError for a bad one."""
        filling, chosen = self.fillings[number], list(chosen)
        who = f"{filling.name}: the decision for interval {interval}"
        if not all(isinstance(text, int | np.integer) for text in chosen):
            raise ValueError(f"{who} is not a list of whole numbers: {chosen!r:.100}")
        if len(chosen) > self.each[number]:
            raise ValueError(
                f"{who} has {len(chosen)} texts, and there are {self.each[number]} slots: give the "
                "item more repetitions, or let the controller ask for less"
            )
        wrong = [int(text) for text in chosen if not 0 <= text < len(filling.texts)]
        if wrong:
            raise ValueError(f"{who} asks for text {wrong[0]} of {len(filling.texts)}")
        return [int(text) for text in chosen]

    def decide(self, number: int, interval: int, chosen: Iterable[Any]) -> None:
        """Text chosen[k] fills slot k of the interval."""
        checked = np.array(self.checked(number, interval, chosen), np.int64)
        first = interval * self.each[number]
        slots = self._where[number][first : first + len(checked)]
        self._text[slots] = self._first[number] + checked
        end = (interval + 1) * self.fillings[number].every
        self._decided[number] = max(self._decided[number], end)

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Decides all that the lines of a log say."""
        numbers = {(f.experiment, f.slots): number for number, f in enumerate(self.fillings)}
        for line in lines:
            number = numbers[line["experiment"], line["slots"]]
            self.decide(number, line["interval"], line["chosen"])

    def __call__(self, step: int, batch: "Batch") -> "Batch":
        if step >= min(self._decided):
            name = self.fillings[self._decided.index(min(self._decided))].name
            raise ValueError(f"{name}: nothing is decided yet for step {step}")
        position, tokens, arms = batch["position"], batch["tokens"], batch["arms"]
        first, last = np.searchsorted(self._position, [position[0], position[-1] + 1])
        slots = first + np.flatnonzero(self._text[first:last] >= 0)
        rows = np.searchsorted(position, self._position[slots])
        ours = position[rows] == self._position[slots]  # a share need not be contiguous
        for row, slot in zip(rows[ours].tolist(), slots[ours].tolist(), strict=True):
            text, offset = self._texts[self._text[slot]], self._offset[slot]
            tokens[row, offset : offset + len(text)] = text
            arms[row, offset : offset + len(text)] = self._arm[slot]
        return batch


class _Slots:
    """The slots of one filling in a plan: `rows` int64[n], repetition by repetition."""

    def __init__(self, plan: Edits, filling: SlotTexts) -> None:
        name, geometry = filling.name, plan.geometry
        if not isinstance(filling.every, int) or filling.every < 1:
            raise ValueError(f"{name}: `every` is a number of steps >= 1, not {filling.every!r}")
        self.rows = plan.find(filling.slots, filling.experiment)
        names = ("position", "kind", "repetition", "length")
        columns = {n: plan.columns[n][self.rows] for n in names}
        if not len(self.rows) or np.any(columns["kind"] != SLOT):
            raise ValueError(
                f"{name}: a controller needs an item of that name with repetitions and a slot"
            )
        copies = np.argsort(columns["repetition"])
        self.rows = self.rows[copies]
        intervals = -(-geometry.steps // filling.every)
        self.each = len(self.rows) // intervals
        there = columns["position"][copies] // geometry.batch // filling.every
        if len(self.rows) % intervals or np.any(there != np.arange(len(self.rows)) // self.each):
            raise ValueError(
                f"{name}: its slots are not in the controller's {intervals} intervals: place the "
                f"item by PerInterval({filling.every})"
            )
        room = int(columns["length"].min())
        for number, text in enumerate(filling.texts):
            if not 1 <= len(text) <= room:
                raise ValueError(
                    f"{name}: text {number} has {len(text)} tokens, its slot holds 1 to {room}: "
                    "shorten it or lengthen the slot"
                )
