"""The shape of a run: tokens per row, rows per step, and steps."""

from typing import Annotated

import gin

from ttoaa.config_fields import AtLeast, AtMost, Size, config_class


@gin.configurable
@config_class
class Geometry:
    """Rows of `length` tokens, `batch` rows per step, `steps` steps; part of the plan's hash."""

    length: Annotated[int, AtLeast(2), AtMost(2**31 - 1)]
    """A row has length - 1 targets."""
    batch: Size
    steps: Size

    def __post_init__(self) -> None:
        if self.tokens >= 2**63:
            raise ValueError(f"Geometry has {self.tokens:,} tokens, more than 64 bits can count")

    @property
    def sequences(self) -> int:
        """Return the rows of the whole run; positions are 0 to sequences - 1."""
        return self.batch * self.steps

    @property
    def tokens(self) -> int:
        return self.sequences * self.length
