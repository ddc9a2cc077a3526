"""Import and export checkpoints of Hugging Face and OLMo; open one for scoring.

An import is laid out like a run: `checkpoints` for `InitFrom`, the decoder as gin bindings
(`model.gin`), and the tokenizer's files. One tensor at a time is in memory.
"""

import contextlib
import dataclasses
import filecmp
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ttoaa import __version__
from ttoaa.data.corpus import MANIFEST, TOKENIZER, Corpus, Manifest
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.identity import identity, restore
from ttoaa.interop.huggingface import config as tokenizer_files
from ttoaa.interop.huggingface import weights
from ttoaa.interop.huggingface.config import Card, read_config
from ttoaa.interop.model_card import TrainingDescription
from ttoaa.interop.olmo import weights as olmo
from ttoaa.interop.olmo.weights import read_config as read_olmo_config
from ttoaa.locks import Leases, pin
from ttoaa.model.decoder import DecoderConfig, Params, abstract_params
from ttoaa.model.sharding import shardings, with_shardings
from ttoaa.training.checkpoint_io import (
    DamagedCheckpoint,
    LazyArray,
    newest_meta,
    read_checkpoint,
    read_checkpoint_lazily,
    read_meta,
)
from ttoaa.training.checkpoints import CheckpointWriter
from ttoaa.training.init_from import available_steps
from ttoaa.training.lr_schedules import Cosine
from ttoaa.training.optimizer import AdamW, bind_schedule
from ttoaa.workdir import commit_folder, unfinished_folder, write_text


def import_folder(source: pathlib.Path, target: pathlib.Path, optimizer: bool | None) -> str:
    """Import a folder of Hugging Face or OLMo, detected by its config. Return a line to print."""
    theirs, olmos = ((source / name).is_file() for name in ("config.json", "config.yaml"))
    if theirs and olmos:
        raise ValueError(
            f"{source} has both Hugging Face's config.json and OLMo's config.yaml: move one away"
        )
    if olmos:
        return import_olmo(source, target, optimizer is not False)
    if not theirs:
        raise ValueError(
            f"{source} has no config.json and no config.yaml: name a folder of an "
            "Olmo2ForCausalLM, or an unsharded checkpoint of OLMo"
        )
    if optimizer:
        raise ValueError(
            f"{source} is a Hugging Face folder, which has no moments: leave --optimizer out"
        )
    return import_huggingface(source, target)


def import_huggingface(source: pathlib.Path, target: pathlib.Path) -> str:
    """Import an `Olmo2ForCausalLM` folder, if not yet done. Return a line to print."""
    config, card, tied = read_config(source)
    if _is_imported(target, source):
        return f"{target} is there already"
    params = weights.load_params(source, LazyArray)
    with new_folder(target) as folder:
        tokenizer_files.copy(source, folder)
        _write_import(folder, source, config, params, card=dataclasses.asdict(card))
    note = "; its tied head is now a copy of the embedding" if tied else ""
    return f"{config.num_params():,} parameters are in {target}{note}"


def import_olmo(source: pathlib.Path, target: pathlib.Path, optimizer: bool) -> str:
    """Import an unsharded checkpoint of OLMo 2, with Adam's moments. Return a line to print."""
    config, card = read_olmo_config(source)
    if _is_imported(target, source, optimizer):
        return f"{target} is there already"
    params, opt, step = olmo.load_params(source, config, LazyArray), None, 0
    if optimizer:
        moments, step = olmo.load_moments(source, config, LazyArray)
        # The state holds only moments and count: the rate and decay here have no effect.
        adam = bind_schedule(AdamW(Cosine(peak=1.0, warmup=0)), 1)
        empty = jax.eval_shape(adam.init, abstract_params(config))
        count = jnp.asarray(step, jnp.int32)
        opt = optax.tree_utils.tree_set(empty, **moments, count=count)
    with new_folder(target) as folder:
        _write_import(folder, source, config, params, opt, step, card=dataclasses.asdict(card))
    what = f"parameters with the moments of {step:,} updates" if optimizer else "parameters"
    return f"{config.num_params():,} {what} are in {target}"


def convert_olmo(source: pathlib.Path, target: pathlib.Path) -> str:
    """Convert .pt files of an unsharded checkpoint of OLMo to safetensors, with torch."""
    read_olmo_config(source)
    with new_folder(target) as folder:
        files = olmo.convert(source, folder)
        shutil.copy(source / "config.yaml", folder)
    return f"{' and '.join(files)} are in {target}"


Describe = Callable[[int], TrainingDescription]
"""Describes, for the model card, what the checkpoint of a step was trained on."""


def _not_known(step: int) -> TrainingDescription:
    return TrainingDescription([], "What it was trained on is not known to this export.\n")


def export_huggingface(
    source: pathlib.Path,
    target: pathlib.Path,
    step: int | None,
    dtype: str,
    shard_bytes: int,
    describe: Describe = _not_known,
) -> str:
    """Export a run or an import as an `Olmo2ForCausalLM`. Return a line to print.

    The parameters are those of `step` or of the newest valid checkpoint in `<source>/checkpoints`.
    Raises ValueError if none is valid; damaged newer ones are logged.
    """
    folder = source / "checkpoints"
    known = available_steps(folder, step)
    *newer, last = known[::-1] if step is None else [step]
    for number in newer:
        try:
            return _export(source, number, target, dtype, shard_bytes, describe)
        except DamagedCheckpoint as error:
            logging.warning("%s; an older one is taken", error)
    return _export(source, last, target, dtype, shard_bytes, describe)


def _export(
    source: pathlib.Path,
    step: int,
    target: pathlib.Path,
    dtype: str,
    shard_bytes: int,
    describe: Describe,
) -> str:
    checkpoints = source / "checkpoints"
    with new_folder(target, repeatable=True) as folder, pin(checkpoints, step):
        meta = read_meta(checkpoints, step)
        config = restore(DecoderConfig, meta["identity"]["model"])
        params = read_checkpoint_lazily(checkpoints, step, "params", abstract_params(config))
        if "card" in meta:  # an import: write its own files back
            card = Card(**meta["card"])
            tokenizer_files.copy(source, folder)
            how = tokenizer_files.AS_IMPORTED
        else:
            corpus = source.parent / "corpus"
            if not (corpus / MANIFEST).is_file():
                raise ValueError(f"{corpus} is missing: it has the tokenizer to export")
            eos_id = Manifest.from_bytes((corpus / MANIFEST).read_bytes()).eos_id
            length = meta["identity"]["geometry"]["length"]
            card = Card(length, eos_id, bos_token_id=eos_id)
            tokenizer_files.write(corpus / TOKENIZER, eos_id, length, folder)
            how = tokenizer_files.SPLIT
        note = ""
        if config.document_separator is not None:
            note = "unlike in training, attention in transformers crosses document boundaries"
        name, known = f"Step {step:,} of {source.name}", f"{note[:1].upper()}{note[1:]}."
        training = describe(step)
        readme = tokenizer_files.README.format(
            name=name,
            version=__version__,
            note=known if note else "",
            how=how,
            tags="\n".join(f"- {tag}" for tag in ("ttoaa", *training.tags)),
            training=training.text,
        )
        write_text(folder / "README.md", readme)
        check_repeats(folder, target)  # before the weights, which take longer
        weights.save(folder, config, card, params, dtype, shard_bytes)
    return f"step {step:,} of {source} is in {target}{note and f'; {note}'}"


def _is_imported(target: pathlib.Path, source: pathlib.Path, optimizer: bool = False) -> bool:
    """Whether the target holds a finished import of the source; ValueError for another source."""
    meta = newest_meta(target / "checkpoints")
    if meta is not None and meta.get("source") != str(source):
        raise ValueError(
            f"{target} holds checkpoints of {meta.get('source', 'a run')}: use another --target"
        )
    if meta is not None and optimizer and "opt" not in meta["fingerprints"]:
        raise ValueError(f"{target} holds parameters without moments: use another --target")
    return meta is not None


def _write_import(
    folder: pathlib.Path,
    source: pathlib.Path,
    config: DecoderConfig,
    params: Params,
    opt: Any = None,
    step: int = 0,
    **meta: Any,
) -> None:
    values = dataclasses.asdict(config).items()
    bindings = [f"DecoderConfig.{name} = {value!r}" for name, value in values]
    write_text(folder / "model.gin", "\n".join([f"# The decoder of {source}.", *bindings, ""]))
    writer = CheckpointWriter(folder / "checkpoints", lazy=True)
    meta |= {"step": step, "source": str(source), "identity": identity(model=config)}
    try:
        writer.save(step, params, opt, meta)
    finally:  # Orbax reads the folder in the background: wait before it is renamed
        writer.finish()


@contextlib.contextmanager
def new_folder(target: pathlib.Path, repeatable: bool = False) -> Iterator[pathlib.Path]:
    """Yield a temporary folder that becomes `target` at the end; a failure leaves nothing.

    One process at a time writes it; what a killed process left is overwritten. A `repeatable`
    folder may exist already if it has the same files: a signal can come just after it was complete.

    Raises:
        ValueError: the target exists, with other content if repeatable, or another process writes
            it.
    """
    leases = Leases(target.with_name(f"{target.name}.leases"))
    try:
        with leases:
            if not leases.acquire("writer"):
                owner = ", ".join(lease.owner for lease in leases.of_others())
                raise ValueError(f"{target} is being written by {owner}: wait for it")
            if target.exists() and not repeatable:
                raise _exists(target)
            with unfinished_folder(target) as folder:
                yield folder
                check_repeats(folder, target)
                if not target.exists():
                    commit_folder(folder, target)
    finally:
        with contextlib.suppress(OSError):  # another process uses it
            leases.folder.rmdir()


def check_repeats(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Raise ValueError if `target` exists and some file of `folder` is not the same there."""
    for path in folder.rglob("*"):
        other = target / path.relative_to(folder)
        same = path.is_dir() or (other.is_file() and filecmp.cmp(path, other, shallow=False))
        if target.exists() and not same:
            raise _exists(target)


def _exists(target: pathlib.Path) -> ValueError:
    return ValueError(f"{target} exists: use another --target, or move it away")


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
    params = weights.load_params(folder)  # checks the sizes of config
    places = None if mesh is None else shardings(mesh, abstract_params(config))
    params = jax.device_put(params, places)
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
