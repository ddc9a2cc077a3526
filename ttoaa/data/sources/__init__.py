"""Sources of text: each yields (name, text) documents in a fixed order."""

from ttoaa.data.sources.base import Source, all_documents, keyed_fraction
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.sources.families import Passages
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.mixture import Mixture, Pool
from ttoaa.data.sources.seqio_task import SeqioTask
from ttoaa.data.sources.shuffled import ShuffledWords
from ttoaa.data.sources.tfds_dataset import TfdsDataset

__all__ = [
    "EmbeddedPython",
    "Mixture",
    "Passages",
    "Pool",
    "SeqioTask",
    "ShuffledWords",
    "Source",
    "TextFiles",
    "TfdsDataset",
    "all_documents",
    "keyed_fraction",
]
