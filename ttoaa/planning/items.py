"""The item: the unit of randomisation and of statistics, and how often it enters training."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
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
        given = (self.tokens, self.window, self.slot, self.mark)
        kinds = [kind for kind, value in enumerate(given) if value is not None]
        if len(kinds) != 1:
            raise ValueError("needs exactly one of tokens, a reserve window, a slot and a mark")
        return kinds[0]

    def length(self, row: int) -> int:
        """Tokens of each of its edits, in rows of `row` tokens."""
        if self.tokens is not None:
            return len(self.tokens)
        return next((int(n) for n in (self.slot, self.mark) if n is not None), row)

    def fields_json(self) -> str:
        """Raises TypeError or ValueError for what JSON cannot hold."""
        return json.dumps(dict(self.fields), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"JSON cannot hold {value!r}")


@dataclasses.dataclass(frozen=True)
class Intervention:
    """All that one experiment does to a run."""

    items: Sequence[Item]
    windows: np.ndarray
    """int64[n]: the reserve windows that are its own to use."""
