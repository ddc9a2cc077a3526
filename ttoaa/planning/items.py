"""The item: the unit of randomisation and of statistics, and how often it enters training."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.planning.placement import Placement, Uniform


@dataclasses.dataclass(frozen=True)
class Item:
    """Exactly one of `tokens` and `window` is given: int[n] tokens to write over the stream, or a
    reserve window that takes a whole row. Zero repetitions: a holdout or a matched non-member.
    """

    id: str
    condition: str
    repetitions: int
    tokens: np.ndarray | None = None
    window: int | None = None
    placement: Placement = dataclasses.field(default_factory=Uniform)
    text: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What evaluation needs of it beside its tokens: values that JSON or NumPy can hold."""

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
