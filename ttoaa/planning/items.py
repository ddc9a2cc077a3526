"""The item: the unit of randomisation and of statistics, and how often it enters training."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.planning.placement import Placement, Uniform

TOKENS, RESERVE, SLOT, MARK = range(4)
"""What an edit is, as the plan's column `kind` has it."""


@dataclasses.dataclass(frozen=True)
class Item:
    """Exactly one of `tokens`, `window`, `slot` and `mark` is given. Zero repetitions: a holdout or
    a matched non-member.
    """

    id: str
    condition: str
    repetitions: int
    tokens: np.ndarray | None = None
    """int[n]: written over the stream."""
    window: int | None = None
    """A reserve window: it takes a whole row."""
    slot: int | None = None
    """A length in tokens that is kept free for what a controller decides during the run."""
    mark: int | None = None
    """A length in tokens that stay as they are, but are occupied and carry the arm's id."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    text: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What evaluation needs of it beside its tokens: values that JSON or NumPy can hold."""

    def kind(self) -> int:
        """How its edits' column `kind` reads; raises ValueError unless one of the four is given."""
        return _one_kind((self.tokens, self.window, self.slot, self.mark))

    def fields_json(self) -> str:
        """Raises TypeError or ValueError for what JSON cannot hold."""
        return json.dumps(dict(self.fields), default=_plain)


@dataclasses.dataclass(frozen=True)
class Items:
    """n items of one kind and one placement as columns, for experiments of very many.

    Exactly one of `tokens`, `windows`, `slots` and `marks` is given. The places of an `Explicit`
    are those of all copies of the first item, then of the second, and so on; item i of a
    `WholeBatch` fills row `row + i`. Memory is that of a block: yield some 50,000 items at a time.
    """

    ids: Sequence[str]
    condition: str | Sequence[str]
    """Of all items, or the names that `codes` counts."""
    repetitions: int | np.ndarray
    """Of each item, or int[n]."""
    codes: np.ndarray | None = None
    """int[n]: each item's place in `condition`."""
    tokens: np.ndarray | None = None
    """int[total]: the tokens of all items, one after the other."""
    lengths: np.ndarray | None = None
    """int[n]: how many tokens each has."""
    windows: np.ndarray | None = None
    """int[n]"""
    slots: int | np.ndarray | None = None
    """The length of each, or int[n]."""
    marks: int | np.ndarray | None = None
    placement: Placement = dataclasses.field(default_factory=Uniform)
    texts: Sequence[str] | None = None
    fields: Mapping[str, Sequence[Any]] | None = None
    """Columns of n values each."""

    def kind(self) -> int:
        """As that of an Item."""
        return _one_kind((self.tokens, self.windows, self.slots, self.marks))

    def fields_json(self) -> list[str]:
        """Of each item, or none if it has no fields; raises as an Item does."""
        if not self.fields:
            return []
        rows = zip(*self.fields.values(), strict=True)
        return [json.dumps(dict(zip(self.fields, r, strict=True)), default=_plain) for r in rows]


def _one_kind(given: Sequence[Any]) -> int:
    kinds = [kind for kind, value in enumerate(given) if value is not None]
    if len(kinds) != 1:
        raise ValueError("needs exactly one of tokens, a reserve window, a slot and a mark")
    return kinds[0]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"JSON cannot hold {value!r}")


@dataclasses.dataclass(frozen=True)
class Intervention:
    """All that one experiment does to a run."""

    items: Iterable[Item | Items]
    """Read once, in order; an iterator of a million items is never held as a whole."""
    windows: np.ndarray
    """int64[n]: the reserve windows that are its own to use."""
