"""A small real tokenizer, a world without a corpus, and a model whose scores are made up."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tokenizers

from ttoaa.data.geometry import Geometry
from ttoaa.data.tokenizer import END_OF_TEXT, Tokenizer
from ttoaa.experiments.base import World
from ttoaa.statistics.bootstrap import keyed_rng

RESERVED = 8


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Byte-level BPE with a few merges and 8 reserved ids; EOS is id 0."""
    level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = level(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=level.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the capital of the river is the founder of"] * 20, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.save(str(path))
    return Tokenizer(path, bpe.get_vocab_size() + RESERVED)


@pytest.fixture
def make_world(tokenizer):
    def make(experiment, seed=0, length=64, batch=4, steps=100, reserve=None, name=None):
        geometry = Geometry(length, batch, steps)
        sizes = experiment.reserve_windows(geometry)
        n = sizes if isinstance(sizes, int) else sum(sizes)
        if reserve is None:
            low, high = 1, tokenizer.reserved_ids.start
            reserve = keyed_rng("reserve", seed).integers(low, high, (n, length)).astype(np.int32)
        name = name or experiment.name
        windows, documents = np.arange(n) + 1000, np.arange(n) + 500
        return World(seed, name, tokenizer, geometry, windows, lambda: reserve, documents)

    return make


@dataclasses.dataclass
class FakeScorer:
    """Scores by `token_score(tokens, i)`, for every scored position i."""

    items: pd.DataFrame
    tokenizer: Tokenizer
    token_score: object = None
    step: int = 100
    probes: pd.DataFrame | None = None
    copies: pd.DataFrame | None = None
    rows: object = None
    reserve: object = None
    arm_losses: pd.DataFrame | None = None
    reference: object = None
    requests: list = dataclasses.field(default_factory=list)

    def log_likelihood(self, requests):
        self.requests += requests
        return [
            np.array([self.token_score(tokens, i) for i in range(start, len(tokens))], np.float32)
            for tokens, start in requests
        ]


@pytest.fixture(scope="session")
def make_scorer(tokenizer):
    def make(items, token_score=lambda tokens, i: -1.0, **more):
        rows = [
            {"id": i.id, "condition": i.condition, "repetitions": i.repetitions,
             "tokens": i.tokens, "window": -1 if i.window is None else i.window, "text": i.text,
             **i.fields}
            for i in items
        ]  # fmt: skip
        return FakeScorer(pd.DataFrame(rows), tokenizer, token_score, **more)

    return make


@pytest.fixture
def same_items():
    """Whether two lists of items are equal, tokens too."""

    def same(left, right):
        def plain(items):
            return [
                (i.id, i.condition, i.repetitions, i.window, i.text, dict(i.fields),
                 None if i.tokens is None else i.tokens.tolist(), i.placement)
                for i in items
            ]  # fmt: skip

        return plain(left) == plain(right)

    return same


@pytest.fixture
def final_table():
    """What a figure gets: the estimates of some seeds, at an early and a final step."""

    def table(estimates, seeds=(0, 1)):
        rows = [dataclasses.asdict(e) for e in estimates]
        parts = [
            pd.DataFrame(rows).assign(seed=seed, step=step) for seed in seeds for step in (50, 100)
        ]
        return pd.concat(parts, ignore_index=True)

    return table
