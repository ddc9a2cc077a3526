"""Use OLMo's token files, in their training order, as the corpus of a study.

  ttoaa olmo-corpus --workdir=runs/mine --gin_file=my.gin --files=a.npy,b.npy
      --order=global_indices.npy --tokenizer=tokenizer.json --eos_id=100257 --dtype=uint32
      --length=4096

The command takes the fields of OlmoCorpus as flags, and the study's config.gin remembers them. With
a config that says `Study.prepare = @OlmoCorpus()`, `ttoaa prepare` does the same. Only the
tokenizer is copied: the token files must stay where they are.
"""

from collections.abc import Sequence

from absl import flags

from ttoaa import command_line, study_flags
from ttoaa.data.corpus import HASH_KINDS

_FILES = flags.DEFINE_list(
    "files", None, "token files in the order of OLMo's config, or a .txt file with one path a line"
)
_ORDER = flags.DEFINE_string("order", None, "global_indices.npy of the epoch")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "`tokenizers` JSON file that the token files were made with"
)
_EOS = flags.DEFINE_string("eos", "<|endoftext|>", "token of --tokenizer that ends a document")
_EOS_ID = flags.DEFINE_integer(
    "eos_id", None, "id of the token that ends a document, in the files", lower_bound=0
)
_DTYPE = flags.DEFINE_enum("dtype", None, ["uint16", "uint32"], "data type of the token files")
_LENGTH = flags.DEFINE_integer("length", None, "tokens of a training sequence", 2)
_FIRST = flags.DEFINE_integer(
    "first",
    None,
    "position in the order where the study begins: OLMo's step times its batch size",
    0,
)
_TRAIN = flags.DEFINE_integer(
    "train_windows",
    None,
    "number of windows to train on; the windows after them are the reserve",
    1,
)
_INSTANCES = flags.DEFINE_integer(
    "instances", None, "number of instances in the files, to check them against OLMo's log", 1
)
_DIGEST = flags.DEFINE_enum(
    "digest",
    None,
    HASH_KINDS,
    "how files are fingerprinted: all bytes, or samples where files hold terabytes",
)


def main(argv: Sequence[str]) -> None:
    del argv
    if _EOS.present and not _TOKENIZER.value:
        raise ValueError("--eos needs --tokenizer: give both, or bind it in the config")
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.data.olmo_corpus import OlmoCorpus

    chosen = config.load_from_flags(_bindings()).prepare
    if not isinstance(chosen, OlmoCorpus):
        raise ValueError("the study's corpus is not an OlmoCorpus: give --files and --order")
    corpus = chosen.make(config.workdir_from_flags().corpus)
    print(f"olmo: {corpus.folder}: {corpus.describe()}; {corpus.manifest.source}")


def _bindings() -> list[str]:
    """Return the flags as gin bindings, which the study's config keeps."""
    from ttoaa.data import storage

    lines = []
    if _FILES.value:
        files = [storage.absolute(path) for path in _FILES.value]
        lines += ["Study.prepare = @OlmoCorpus()", f"OlmoCorpus.files = {files!r}"]
    if _ORDER.value:
        lines += [f"OlmoCorpus.order = {storage.absolute(_ORDER.value)!r}"]
    if _TOKENIZER.value:
        lines += ["OlmoCorpus.tokenizer = @ExistingTokenizer()"]
        lines += [f"ExistingTokenizer.path = {storage.absolute(_TOKENIZER.value)!r}"]
        lines += [f"ExistingTokenizer.eos = {_EOS.value!r}"]
    plain = (_EOS_ID, _DTYPE, _LENGTH, _FIRST, _TRAIN, _INSTANCES, _DIGEST)
    given = [flag for flag in plain if flag.value is not None]
    return lines + [f"OlmoCorpus.{flag.name} = {flag.value!r}" for flag in given]


if __name__ == "__main__":
    command_line.run("olmo-corpus", main, study_flags, without={"seed": "all seeds share a corpus"})
