"""MUSE-News (paper, E.9): importing this package registers its classes with gin."""

from ttoaa.experiments.muse.experiment import MuseNews
from ttoaa.experiments.muse.generated_news import GeneratedNews
from ttoaa.experiments.muse.released import MuseFiles

__all__ = ["GeneratedNews", "MuseFiles", "MuseNews"]
