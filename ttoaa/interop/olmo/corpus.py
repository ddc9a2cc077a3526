"""A study on OLMo's own token files, in their order, from any step of that run.

python -m ttoaa.interop.olmo.corpus --workdir=… --gin_file=… --files=a.npy,b.npy \
    --order=global_indices.npy
    --tokenizer=tokenizer.json --eos_id=100257 --dtype=uint32 --length=4096

Does what `python -m ttoaa.prepare` does where the config says `Study.prepare = @OlmoCorpus()`, and
takes the fields of OlmoCorpus as flags; the study's config.gin remembers them. Copies nothing but
the tokenizer: the files must stay where they are.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import HASH_KINDS
from ttoaa.data.olmo_corpus import OlmoCorpus

_FILES = flags.DEFINE_list(
    "files", None, "token files in the order of OLMo's config, or a .txt with a path on each line"
)
_ORDER = flags.DEFINE_string("order", None, "the epoch's global_indices.npy")
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "the `tokenizers` JSON of these files")
_EOS = flags.DEFINE_string("eos", "<|endoftext|>", "the token of --tokenizer that ends a document")
_EOS_ID = flags.DEFINE_integer("eos_id", None, "its id in the files", lower_bound=0)
_DTYPE = flags.DEFINE_enum("dtype", None, ["uint16", "uint32"], "of the token files")
_LENGTH = flags.DEFINE_integer("length", None, "tokens of an instance, and of a row", 2)
_FIRST = flags.DEFINE_integer(
    "first", None, "where in the order the study begins: OLMo's step times its batch", 0
)
_TRAIN = flags.DEFINE_integer(
    "train_windows", None, "windows to train on; what comes after them is the reserve", 1
)
_DIGEST = flags.DEFINE_enum(
    "digest", None, HASH_KINDS, "how files are recognised: by all bytes, or by samples of terabytes"
)


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        chosen = config.load_from_flags(_bindings()).prepare
        if not isinstance(chosen, OlmoCorpus):
            raise ValueError("the study's corpus is no OlmoCorpus: give --files and --order")
        corpus = chosen.make(config.workdir_from_flags().corpus)
    except (ValueError, OSError) as error:
        sys.exit(f"olmo: {error}")
    print(f"olmo: {corpus.folder}: {corpus.describe()}; {corpus.manifest.source}")


def _bindings() -> list[str]:
    """The flags as gin bindings."""
    if _EOS.present and not _TOKENIZER.value:
        raise ValueError("--eos is of --tokenizer: give both, or bind it in the config")
    lines = []
    if _FILES.value:
        files = [_absolute(path) for path in _FILES.value]
        lines += ["Study.prepare = @OlmoCorpus()", f"OlmoCorpus.files = {files!r}"]
    if _ORDER.value:
        lines += [f"OlmoCorpus.order = {_absolute(_ORDER.value)!r}"]
    if _TOKENIZER.value:
        lines += ["OlmoCorpus.tokenizer = @ExistingTokenizer()"]
        lines += [f"ExistingTokenizer.path = {_absolute(_TOKENIZER.value)!r}"]
        lines += [f"ExistingTokenizer.eos = {_EOS.value!r}"]
    plain = (_EOS_ID, _DTYPE, _LENGTH, _FIRST, _TRAIN, _DIGEST)
    given = [flag for flag in plain if flag.value is not None]
    return lines + [f"OlmoCorpus.{flag.name} = {flag.value!r}" for flag in given]


def _absolute(path: str) -> str:
    return path if "://" in path else str(pathlib.Path(path).expanduser().resolve())


if __name__ == "__main__":
    flags.adopt_module_key_flags(config)
    app.run(main)
