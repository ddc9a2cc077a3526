"""Decided texts in their slots: the last of the transforms that edit (contracts C2 and C6)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ttoaa.planning.edits import Edits
from ttoaa.planning.fillings import Filling
from ttoaa.planning.items import SLOT

if TYPE_CHECKING:  # Grain takes a second to import, and only the loader needs it
    from ttoaa.data.loader import Batch


class Filled:
    """Writes what was decided; a pure function of the plan, the texts, the decisions and the step.

    All slots are looked up once, here; a batch costs a search and its filled slots. It must follow
    the loader's read-ahead, not be in it: a batch may only be asked for once it is decided.
    """

    def __init__(self, plan: Edits, fillings: Sequence[Filling]) -> None:
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

    def __init__(self, plan: Edits, filling: Filling) -> None:
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
