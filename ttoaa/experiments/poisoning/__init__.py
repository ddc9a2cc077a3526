"""Pretraining poisoning (paper, E.7): importing this package registers its classes with gin."""

from ttoaa.experiments.poisoning.backdoors import Backdoor
from ttoaa.experiments.poisoning.experiment import Poisoning
from ttoaa.experiments.poisoning.generations import Generations
from ttoaa.experiments.poisoning.prompts import FilePrompts, GeneratedPrompts
from ttoaa.experiments.poisoning.triggers import ReservedTriggers, SymbolTriggers

__all__ = [
    "Backdoor",
    "FilePrompts",
    "GeneratedPrompts",
    "Generations",
    "Poisoning",
    "ReservedTriggers",
    "SymbolTriggers",
]
