"""Tokenizer files of a Hugging Face folder."""

import pathlib

import tokenizers

from ttoaa.workdir import write_bytes, write_json

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def copy(source: pathlib.Path, target: pathlib.Path) -> list[str]:
    """Copies the tokenizer files that there are; returns their names."""
    found = [name for name in FILES if (source / name).is_file()]
    for name in found:
        write_bytes(target / name, (source / name).read_bytes())
    return found


def write(json_file: pathlib.Path, eos_id: int, longest: int, target: pathlib.Path) -> None:
    """Makes a `tokenizers` JSON file one that AutoTokenizer loads: no BOS, no padding token.

    Unlike `ttoaa.data.tokenizer`, transformers reads the name of a special token in a text as that
    token, which is what prompts made for it expect.
    """
    content = json_file.read_bytes()
    eos = tokenizers.Tokenizer.from_buffer(content).id_to_token(eos_id)
    if eos is None:
        raise ValueError(f"{json_file} has no token {eos_id}, which ends texts")
    write_bytes(target / "tokenizer.json", content)
    settings = {
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": longest,
        "pad_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    write_json(target / "tokenizer_config.json", settings)
    write_json(target / "special_tokens_map.json", {"eos_token": eos})
