"""Knowledge acquisition (paper, E.1): importing this package registers its classes with gin."""

from ttoaa.experiments.acquisition.experiment import Acquisition
from ttoaa.experiments.acquisition.generated_facts import GeneratedKnowledge
from ttoaa.experiments.acquisition.injections import Injections
from ttoaa.experiments.acquisition.policies import (
    Criterion,
    Doubling,
    FixedRate,
    Proportional,
    UntilAcquired,
)
from ttoaa.experiments.acquisition.policy import Target
from ttoaa.experiments.acquisition.topics import FictionalTexts

__all__ = [
    "Acquisition",
    "Criterion",
    "Doubling",
    "FictionalTexts",
    "FixedRate",
    "GeneratedKnowledge",
    "Injections",
    "Proportional",
    "Target",
    "UntilAcquired",
]
