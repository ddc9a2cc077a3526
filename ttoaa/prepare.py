"""Prepare the corpus of a study: tokenize its text, or fetch a finished corpus.

  ttoaa prepare --workdir=runs/mine --gin_file=configs/quickstart.gin
  ttoaa prepare --workdir=runs/mine --gin_file=my.gin --input=texts/,more.jsonl
  ttoaa prepare --workdir=runs/mine --gin_file=my.gin --from=gs://bucket/corpus

The corpus has training windows and a reserve, which no run trains on.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ttoaa import bucket, command_line, study_flags
from ttoaa.data.sources.files import RECORD_KINDS, TextFiles

_INPUT = flags.DEFINE_list(
    "input",
    None,
    "text that replaces the study's source: paths or URLs of text, JSON lines (.gz, .zst), "
    "Parquet, or ArrayRecord files, of folders of them, or of one TFDS dataset folder",
)
_FIELD = flags.DEFINE_string("field", None, "field of --input that holds the text; by default text")
_RECORDS = flags.DEFINE_enum(
    "records", None, RECORD_KINDS, "what a record of the ArrayRecord files in --input is"
)
_UNDECODABLE = flags.DEFINE_enum(
    "undecodable",
    None,
    ["error", "replace"],
    "what to do with bytes of --input that are not UTF-8; by default error",
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "tokenizer that replaces the study's: a `tokenizers` JSON file or a SentencePiece model",
)
_EOS = flags.DEFINE_string(
    "eos",
    "<|endoftext|>",
    "token of --tokenizer that ends a document; a SentencePiece model has its own default",
)
_FROM = flags.DEFINE_string(
    "from", None, "URL of a finished corpus to fetch instead of preparing one"
)
_TO = flags.DEFINE_string("to", None, "URL to publish the finished corpus at")


def main(argv: Sequence[str]) -> None:
    del argv
    _check_flags()
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.data import storage
    from ttoaa.data.corpus import MANIFEST
    from ttoaa.data.prepare.pipeline import prepare
    from ttoaa.data.sources.mixture import Mixture
    from ttoaa.locks import exclusive

    study = config.load_from_flags(_bindings())
    chosen = study.prepare
    workdir = config.workdir_from_flags()
    folder = workdir.corpus
    existed = (folder / MANIFEST).exists()
    if not existed:
        with exclusive(workdir.root, folder.name, "prepared"):
            bucket.remove_unfinished(folder)
            if _FROM.value:
                check = functools.partial(_check_manifest, chosen)
                storage.stage(_FROM.value, folder, check=check)
    source = getattr(chosen, "source", None)
    if not existed:
        study.check_vocabulary(chosen.tokenizer.check())
        _report_skipped(source)
    corpus = prepare(chosen, folder)
    found = "exists already" if existed else "is ready"
    print(f"prepare: {folder} {found}: {corpus.manifest.source}")
    print(f"prepare: {corpus.describe()}, {corpus.vocab_size:,} token ids")
    for drawn in source.drawn if isinstance(source, Mixture) else ():
        print(f"prepare: {drawn}")
    if _TO.value:
        new = storage.publish(folder, _TO.value)
        print(f"prepare: {_TO.value} {'has the corpus now' if new else 'had the corpus already'}")


def _report_skipped(source: Any) -> None:
    for each in getattr(source, "sources", ()):  # of a mixture, which may hold mixtures
        _report_skipped(each)
    files = source.skipped() if isinstance(source, TextFiles) else []
    if files:
        print(f"prepare: skips {len(files)} files of other types, such as {files[0]}")


def _check_manifest(chosen: Any, content: bytes) -> None:
    """Raise ValueError for the manifest of a corpus of another config."""
    from ttoaa.data.corpus import Manifest
    from ttoaa.identity import check

    try:
        made = Manifest.from_bytes(content).config
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{_FROM.value} has no corpus manifest: {error}") from error
    check(_FROM.value, made, chosen.identity(), "use another --from, or change the config")


def _options() -> list[Any]:
    return [flag for flag in (_FIELD, _RECORDS, _UNDECODABLE) if flag.value is not None]


def _check_flags() -> None:
    if (options := _options()) and not _INPUT.value:
        raise ValueError(f"--{options[0].name} needs --input: give both, or bind it in the config")
    if _EOS.present and not _TOKENIZER.value:
        raise ValueError("--eos needs --tokenizer: give both, or bind it in the config")


def _bindings() -> list[str]:
    """Return the flags as gin bindings, which the study's config keeps."""
    from ttoaa.data import storage
    from ttoaa.data.sources.tfds_dataset import INFO

    lines = []
    if _INPUT.value:
        paths = [storage.absolute(path) for path in _INPUT.value]
        is_tfds = len(paths) == 1 and (pathlib.Path(paths[0]) / INFO).is_file()
        kind, parameter = ("TfdsDataset", "folder") if is_tfds else ("TextFiles", "paths")
        lines += [f"Prepare.source = @{kind}()"]
        lines += [f"{kind}.{parameter} = {(paths[0] if is_tfds else paths)!r}"]
        lines += [f"{kind}.{flag.name} = {flag.value!r}" for flag in _options()]
    if _TOKENIZER.value:
        path = storage.absolute(_TOKENIZER.value)
        lines += ["Prepare.tokenizer = @ExistingTokenizer()", f"ExistingTokenizer.path = {path!r}"]
        lines += [f"ExistingTokenizer.eos = {_EOS.value!r}"]
    return lines


if __name__ == "__main__":
    command_line.run("prepare", main, study_flags, without={"seed": "all seeds share a corpus"})
