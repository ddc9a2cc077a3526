"""A small text with repeated documents, and its corpus."""

import numpy as np
import pytest

from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.vocabulary import TrainBPE

NUMBERS = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
WORDS = [*NUMBERS, "<|endoftext|>", "⟨r0⟩", "☃", "\n\n"]


@pytest.fixture(scope="session")
def texts():
    """204 documents, 160 different ones: many occur twice, one six times."""
    rng = np.random.default_rng(0)
    unique = [" ".join(rng.choice(WORDS, rng.integers(20, 400))) for _ in range(160)]
    documents = unique + unique[:39] + [unique[50]] * 5
    return [documents[k] for k in rng.permutation(len(documents))]


@pytest.fixture(scope="session")
def config(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "all.txt").write_text("\n%%%\n".join(texts))
    source = TextFiles([str(folder)], separator="\n%%%\n")
    return Prepare(source, TrainBPE(400, 20), reserve_fraction=0.2, shard_characters=30_000)


@pytest.fixture(scope="session")
def corpus(config, tmp_path_factory):
    return prepare(config, tmp_path_factory.mktemp("made") / "corpus", progress=False)
