"""Verbatim memorization: does a model complete a text that was removed from its training? (E.5)"""

from ttoaa.data.sources.families import Families, WithFamilies
from ttoaa.experiments.verbatim.experiment import Verbatim

__all__ = ["Families", "Verbatim", "WithFamilies"]
