"""Knowledge acquisition (paper, E.1): importing this package registers the experiment with gin."""

from ttoaa.experiments.acquisition.experiment import Acquisition

__all__ = ["Acquisition"]
