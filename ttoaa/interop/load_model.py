"""A trained model with its tokenizer, from wherever it lies: to score with, never to train on."""

import pathlib
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from ttoaa.data.corpus import TOKENIZER, Corpus
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.identity import restore
from ttoaa.interop.huggingface.config import Card, read_config
from ttoaa.interop.huggingface.weights import load_params
from ttoaa.locks import pin
from ttoaa.model.decoder import DecoderConfig, Params, abstract_params
from ttoaa.model.sharding import shardings, with_shardings
from ttoaa.training.checkpoint_io import read_checkpoint, read_meta
from ttoaa.training.init_from import available_steps


class Model(NamedTuple):
    name: str
    """Where it is from."""
    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    length: int
    """Tokens of the rows that it was trained on."""
    prefix_id: int
    """The token before a text: BOS, or EOS where there is no BOS."""


def open_model(folder: pathlib.Path, step: int | None = None, mesh: Mesh | None = None) -> Model:
    """The model of a run's folder, of an import's, or of an `Olmo2ForCausalLM` as it is.

    Parameters are those of checkpoint `step`, by default of the newest, laid out over `mesh`. A
    checkpoint is pinned while it is read. Raises ValueError where there is none, where it is
    damaged, or its tokenizer is missing.
    """
    if (folder / "config.json").is_file():
        if step is not None:
            raise ValueError(f"{folder} is an Olmo2ForCausalLM, without steps: leave step out")
        return _of_huggingface(folder, mesh)
    checkpoints = folder / "checkpoints"
    known = available_steps(checkpoints, step)
    step = known[-1] if step is None else step
    with pin(checkpoints, step):
        meta = read_meta(checkpoints, step)
        config = restore(DecoderConfig, meta["identity"]["model"])
        tokenizer, card = _belongings(folder, config, meta)
        abstract = abstract_params(config)
        if mesh is not None:
            abstract = with_shardings(abstract, shardings(mesh, abstract))
        params = read_checkpoint(checkpoints, step, params=abstract)["params"]
    return _model(f"step {step} of {folder}", config, params, tokenizer, card)


def _belongings(
    folder: pathlib.Path, config: DecoderConfig, meta: dict[str, Any]
) -> tuple[Tokenizer, Card]:
    if "card" in meta:  # an import
        card = Card(**meta["card"])
        return _tokenizer(folder, config, card), card
    corpus = Corpus.open(folder.parent / "corpus", verify=False)
    length = meta["identity"]["geometry"]["length"]
    tokenizer = Tokenizer(corpus.folder / TOKENIZER, config.vocab_size, corpus.eos_id)
    return tokenizer, Card(length, corpus.eos_id)


def _of_huggingface(folder: pathlib.Path, mesh: Mesh | None) -> Model:
    config, card, _ = read_config(folder)
    tokenizer = _tokenizer(folder, config, card)  # before the weights, which take long
    places = None if mesh is None else shardings(mesh, abstract_params(config))
    params = jax.device_put(load_params(folder), places)
    return _model(str(folder), config, params, tokenizer, card)


def _tokenizer(folder: pathlib.Path, config: DecoderConfig, card: Card) -> Tokenizer:
    eos = card.eos_token_id
    return Tokenizer(
        folder / "tokenizer.json", config.vocab_size, eos[0] if isinstance(eos, list) else eos
    )


def _model(
    name: str, config: DecoderConfig, params: Params, tokenizer: Tokenizer, card: Card
) -> Model:
    prefix = tokenizer.eos_id if card.bos_token_id is None else card.bos_token_id
    return Model(name, config, params, tokenizer, card.max_position_embeddings, prefix)
