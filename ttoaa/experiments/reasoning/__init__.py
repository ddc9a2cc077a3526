"""Mathematical reasoning (paper, E.2): importing this package registers the experiment with gin."""

from ttoaa.experiments.reasoning.experiment import Reasoning

__all__ = ["Reasoning"]
