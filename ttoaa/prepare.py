"""Makes the corpus of a study: python -m ttoaa.prepare --workdir=… --gin_file=…"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import MANIFEST
from ttoaa.data.preparation import prepare

_INPUT = flags.DEFINE_list(
    "input", None, "text, JSONL (.gz) files or folders of them, in place of the study's source"
)
_UNDECODABLE = flags.DEFINE_enum(
    "undecodable", "error", ["error", "replace"], "bytes of --input that are not UTF-8"
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "a `tokenizers` JSON file, in place of the study's tokenizer"
)
_EOS = flags.DEFINE_string("eos", "<|endoftext|>", "the token of --tokenizer that ends a document")


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
    manifest = prepare(chosen, folder).manifest
    tokens = {split: 0 for split in manifest.documents}
    for shard in manifest.shards:
        tokens[shard.split] += shard.tokens
    counts = ", ".join(
        f"{split} {tokens[split]:,} tokens of {documents:,} documents"
        for split, documents in manifest.documents.items()
    )
    found = "was there already" if existed else "is ready"
    print(f"prepare: {folder} {found}: {counts}; {manifest.vocab_size:,} ids; {manifest.source}")


def _bindings() -> list[str]:
    """The flags as gin bindings, so that the study's config remembers them."""
    lines = []
    if _INPUT.value:
        paths = [str(pathlib.Path(path).expanduser().resolve()) for path in _INPUT.value]
        lines += ["Prepare.source = @TextFiles()", f"TextFiles.paths = {paths!r}"]
        lines += [f"TextFiles.undecodable = {_UNDECODABLE.value!r}"]
    if _TOKENIZER.value:
        path = str(pathlib.Path(_TOKENIZER.value).expanduser().resolve())
        lines += ["Prepare.tokenizer = @ExistingTokenizer()", f"ExistingTokenizer.path = {path!r}"]
        lines += [f"ExistingTokenizer.eos = {_EOS.value!r}"]
    return lines


if __name__ == "__main__":
    flags.adopt_module_key_flags(config)
    app.run(main)
