"""Mathematical reasoning (paper, E.2): importing this package registers its classes with gin."""

from ttoaa.experiments.reasoning.experiment import Reasoning
from ttoaa.experiments.reasoning.names import Names, ShortNames
from ttoaa.experiments.reasoning.problem import Arithmetic

__all__ = ["Arithmetic", "Names", "Reasoning", "ShortNames"]
