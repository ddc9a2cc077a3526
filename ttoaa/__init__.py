"""ttoaa: many controlled pretraining experiments inside one training run."""

__version__ = "0.1.0"
