"""Where text comes from: each source yields (name, text) documents in a fixed order."""

from ttoaa.data.sources.base import Source, all_documents, keyed_fraction
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.sources.files import TextFiles

__all__ = ["EmbeddedPython", "Source", "TextFiles", "all_documents", "keyed_fraction"]
