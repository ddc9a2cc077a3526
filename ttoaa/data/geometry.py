"""The shape of a run: tokens per row, rows per step, and steps."""

import dataclasses

import gin


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Geometry:
    """Rows of `length` tokens, `batch` rows per step, `steps` steps; part of the plan's hash."""

    length: int
    batch: int
    steps: int

    def __post_init__(self) -> None:
        for name in ("length", "batch", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Geometry.{name} must be a positive integer, not {value!r}")
        if self.length < 2:
            raise ValueError("Geometry.length must be at least 2: a row has length - 1 targets")

    @property
    def sequences(self) -> int:
        """Return the rows of the whole run; positions are 0 to sequences - 1."""
        return self.batch * self.steps

    @property
    def tokens(self) -> int:
        return self.sequences * self.length
