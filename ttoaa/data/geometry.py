"""The shape of a run: tokens per row, rows per step, and steps."""

from typing import Annotated

import gin

from ttoaa.config_fields import AtLeast, PositiveInt, config_class


@gin.configurable
@config_class
class Geometry:
    """Rows of `length` tokens, `batch` rows per step, `steps` steps; part of the plan's hash."""

    length: Annotated[int, AtLeast(2)]
    """A row has length - 1 targets."""
    batch: PositiveInt
    steps: PositiveInt

    @property
    def sequences(self) -> int:
        """Return the rows of the whole run; positions are 0 to sequences - 1."""
        return self.batch * self.steps

    @property
    def tokens(self) -> int:
        return self.sequences * self.length
