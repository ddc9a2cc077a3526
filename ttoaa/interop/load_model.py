"""Open a trained model with its tokenizer, for scoring only."""

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
    """Its folder and step, for messages."""
    config: DecoderConfig
    params: Params
    tokenizer: Tokenizer
    length: int
    """Length of its training sequences in tokens."""
    prefix_id: int
    """The token before a text: BOS, or EOS for models without BOS."""


def open_model(folder: pathlib.Path, step: int | None = None, mesh: Mesh | None = None) -> Model:
    """Open the model of a run, of an import, or of a Hugging Face `Olmo2ForCausalLM` folder.

    Parameters of checkpoint `step` (default: the newest) are sharded over `mesh`. The checkpoint is
    pinned while it is read. Raises ValueError for a missing or damaged checkpoint or tokenizer.
    """
    if (folder / "config.json").is_file():
        if step is not None:
            raise ValueError(f"{folder} is an Olmo2ForCausalLM, without steps: leave step out")
        return _open_huggingface(folder, mesh)
    checkpoints = folder / "checkpoints"
    known = available_steps(checkpoints, step)
    step = known[-1] if step is None else step
    with pin(checkpoints, step):
        meta = read_meta(checkpoints, step)
        config = restore(DecoderConfig, meta["identity"]["model"])
        tokenizer, card = _load_tokenizer_and_card(folder, config, meta)
        abstract = abstract_params(config)
        if mesh is not None:
            abstract = with_shardings(abstract, shardings(mesh, abstract))
        params = read_checkpoint(checkpoints, step, params=abstract)["params"]
    return _make_model(f"step {step} of {folder}", config, params, tokenizer, card)


def _load_tokenizer_and_card(
    folder: pathlib.Path, config: DecoderConfig, meta: dict[str, Any]
) -> tuple[Tokenizer, Card]:
    if "card" in meta:  # an import
        card = Card(**meta["card"])
        return _open_tokenizer(folder, config, card), card
    corpus = Corpus.open(folder.parent / "corpus", verify=False)
    length = meta["identity"]["geometry"]["length"]
    tokenizer = Tokenizer(corpus.folder / TOKENIZER, config.vocab_size, corpus.eos_id)
    return tokenizer, Card(length, corpus.eos_id)


def _open_huggingface(folder: pathlib.Path, mesh: Mesh | None) -> Model:
    config, card, _ = read_config(folder)
    tokenizer = _open_tokenizer(folder, config, card)  # before the weights, which take longer
    places = None if mesh is None else shardings(mesh, abstract_params(config))
    params = jax.device_put(load_params(folder), places)
    return _make_model(str(folder), config, params, tokenizer, card)


def _open_tokenizer(folder: pathlib.Path, config: DecoderConfig, card: Card) -> Tokenizer:
    eos = card.eos_token_id
    return Tokenizer(
        folder / "tokenizer.json", config.vocab_size, eos[0] if isinstance(eos, list) else eos
    )


def _make_model(
    name: str, config: DecoderConfig, params: Params, tokenizer: Tokenizer, card: Card
) -> Model:
    prefix = tokenizer.eos_id if card.bos_token_id is None else card.bos_token_id
    return Model(name, config, params, tokenizer, card.max_position_embeddings, prefix)
