"""Makes the corpus of a study: python -m ttoaa.prepare --workdir=… --gin_file=…

With --from it is fetched, finished, from a URL; with --to it is published there.
"""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from ttoaa import config
from ttoaa.data import storage
from ttoaa.data.corpus import MANIFEST, Manifest
from ttoaa.data.prepare.pipeline import prepare
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.mixture import Mixture
from ttoaa.data.sources.readers import RECORDS
from ttoaa.data.sources.tfds_dataset import INFO

_INPUT = flags.DEFINE_list(
    "input",
    None,
    "in place of the study's source: files of text, JSON lines (.gz, .zst), Parquet, ArrayRecord, "
    "folders of them, or one folder of a TFDS dataset; paths or URLs",
)
_FIELD = flags.DEFINE_string("field", None, "the field of --input that is the text (text)")
_RECORDS = flags.DEFINE_enum("records", None, RECORDS, "what ArrayRecord files of --input hold")
_UNDECODABLE = flags.DEFINE_enum(
    "undecodable", None, ["error", "replace"], "bytes of --input that are not UTF-8 (error)"
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    None,
    "a `tokenizers` JSON file or a SentencePiece model, in place of the study's tokenizer",
)
_EOS = flags.DEFINE_string(
    "eos",
    "<|endoftext|>",
    "the token of --tokenizer that ends a document; by default a SentencePiece model's own",
)
_FROM = flags.DEFINE_string("from", None, "a URL of the finished corpus: fetched, not made")
_TO = flags.DEFINE_string("to", None, "a URL to publish the finished corpus at")


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        _main()
    except (ValueError, OSError) as error:
        sys.exit(f"prepare: {error}")


def _main() -> None:
    chosen = config.load_from_flags(_bindings()).prepare
    folder = config.workdir_from_flags().corpus
    existed = (folder / MANIFEST).exists()
    if _FROM.value and not existed:
        storage.stage(_FROM.value, folder, check=functools.partial(_check, chosen))
    source = getattr(chosen, "source", None)
    if not existed:
        _tell_passed_over(source)
    corpus = prepare(chosen, folder)
    found = "was there already" if existed else "is ready"
    print(
        f"prepare: {folder} {found}: {corpus.describe()}; "
        f"{corpus.vocab_size:,} ids; {corpus.manifest.source}"
    )
    for drawn in source.drawn if isinstance(source, Mixture) else ():
        print(f"prepare: {drawn}")
    if _TO.value:
        new = storage.publish(folder, _TO.value)
        print(f"prepare: {_TO.value} {'has it now' if new else 'had it already'}")


def _tell_passed_over(source: Any) -> None:
    for each in getattr(source, "sources", ()):  # those of a mixture, which may be mixtures
        _tell_passed_over(each)
    files = source.passed_over() if isinstance(source, TextFiles) else []
    if files:
        print(f"prepare: passes over {len(files)} files, of no kind that is read: {files[0]} …")


def _check(chosen: Any, content: bytes) -> None:
    """Refuses a corpus of another config before it is fetched."""
    try:
        there, here = Manifest.from_bytes(content).config, chosen.identity()
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{_FROM.value} has no corpus manifest: {error}") from error
    for name in there | here:
        if there.get(name) != here.get(name):
            raise ValueError(
                f"{_FROM.value} was made by another config: {name} is {there.get(name)!r} there "
                f"and {here.get(name)!r} here"
            )


def _bindings() -> list[str]:
    """The flags as gin bindings, so that the study's config remembers them."""
    options = [flag for flag in (_FIELD, _RECORDS, _UNDECODABLE) if flag.value is not None]
    if options and not _INPUT.value:
        raise ValueError(f"--{options[0].name} is of --input: give both, or bind it in the config")
    if _EOS.present and not _TOKENIZER.value:
        raise ValueError("--eos is of --tokenizer: give both, or bind it in the config")
    lines = []
    if _INPUT.value:
        paths = [_absolute(path) for path in _INPUT.value]
        a_dataset = len(paths) == 1 and (pathlib.Path(paths[0]) / INFO).is_file()
        kind, parameter = ("TfdsDataset", "folder") if a_dataset else ("TextFiles", "paths")
        lines += [f"Prepare.source = @{kind}()"]
        lines += [f"{kind}.{parameter} = {(paths[0] if a_dataset else paths)!r}"]
        lines += [f"{kind}.{flag.name} = {flag.value!r}" for flag in options]
    if _TOKENIZER.value:
        path = _absolute(_TOKENIZER.value)
        lines += ["Prepare.tokenizer = @ExistingTokenizer()", f"ExistingTokenizer.path = {path!r}"]
        lines += [f"ExistingTokenizer.eos = {_EOS.value!r}"]
    return lines


def _absolute(path: str) -> str:
    return path if storage.is_url(path) else str(pathlib.Path(path).expanduser().resolve())


if __name__ == "__main__":
    flags.adopt_module_key_flags(config)
    app.run(main)
