"""Canaries and membership (paper, E.4): importing this package registers its classes with gin."""

from ttoaa.experiments.canaries.experiment import Canaries
from ttoaa.experiments.canaries.released import ReleasedCanaries

__all__ = ["Canaries", "ReleasedCanaries"]
