"""Copies of experiments: many variants of one task in one study."""

import dataclasses
from collections.abc import Sequence

import gin

from ttoaa.experiments.base import Experiment


@gin.configurable
def copies(
    experiments: Sequence[Experiment], number: int, once: Sequence[Experiment] = ()
) -> list[Experiment]:
    """Return each experiment `number` times, named '<name>-1' and so on, then those of `once`.

    Copies have items of their own, since random streams are keyed by names (contract C3). An
    experiment that dictates steps, such as a watermark, collides with its copy: name it in `once`.

    Raises ValueError for a number below 1.
    """
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"copies.number must be a whole number of at least 1, not {number!r}")
    made = [
        dataclasses.replace(each, name=f"{each.name}-{copy}")
        for each in experiments
        for copy in range(1, number + 1)
    ]
    return [*made, *once]
