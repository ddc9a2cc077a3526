"""Read and write `config.json` and the tokenizer files of an `Olmo2ForCausalLM` folder.

Field names and defaults are those of transformers' Olmo2Config (configuration_olmo2.py, 5.23).
"""

import dataclasses
import pathlib
from typing import Any

import tokenizers

from ttoaa.json_io import read_json
from ttoaa.model.decoder import DecoderConfig
from ttoaa.workdir import write_bytes, write_json

_SIZES = {
    "vocab_size": "vocab_size",
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
}
_ONLY = "Olmo2ForCausalLM"


@dataclasses.dataclass(frozen=True)
class Card:
    """The fields of config.json that do not change a logit."""

    max_position_embeddings: int
    """Longest row that the model was trained on."""
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    """torch neither initialises nor trains the embedding of this token, so none by default."""


def read_config(folder: pathlib.Path) -> tuple[DecoderConfig, Card, bool]:
    """Read (decoder, card, whether the head is tied to the embedding) from config.json.

    Raises ValueError for a model that the decoder cannot compute: another architecture, biases,
    scaled RoPE, another activation, or a head width other than width / heads.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json: name a folder of an Olmo2ForCausalLM")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a model's config")
    try:
        return _decoder(content), _card(content), bool(content.get("tie_word_embeddings", False))
    except ValueError as error:
        # gin appends lines to the errors of its classes
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def _decoder(content: dict[str, Any]) -> DecoderConfig:
    architectures = content.get("architectures") or [_ONLY]
    if content.get("model_type") != "olmo2" or architectures != [_ONLY]:
        raise ValueError(f"it is of {architectures[0]}, {content.get('model_type')}: not {_ONLY}")
    for name, only in (
        ("attention_bias", (None, False)),
        ("hidden_act", (None, "silu")),
        ("quantization_config", (None,)),
    ):
        if content.get(name) not in only:
            raise ValueError(f"{name} is {content[name]!r}, only {only[-1]!r} is read")
    missing = [theirs for theirs in _SIZES.values() if theirs not in content]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    dtype = content.get("dtype") or content.get("torch_dtype")
    config = DecoderConfig(
        **{ours: content[theirs] for ours, theirs in _SIZES.items()},
        kv_heads=content.get("num_key_value_heads"),
        rope_theta=_theta(content),
        norm_eps=_number(content, "rms_norm_eps", 1e-5),
        init_std=_number(content, "initializer_range", 0.02),
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
    )
    if content.get("head_dim") not in (None, config.head_width):
        raise ValueError(f"head_dim is {content['head_dim']}, only {config.head_width} is read")
    return config


def _number(content: dict[str, Any], name: str, default: float | None = None) -> float:
    value = content.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"{name} must be a positive number, not {value!r}")
    return float(value)


def _theta(content: dict[str, Any]) -> float:
    """Read the RoPE base: transformers 5 writes `rope_parameters`, older versions `rope_theta`."""
    found = set()
    if content.get("rope_theta") is not None:
        found.add(_number(content, "rope_theta"))
    for name in ("rope_parameters", "rope_scaling"):
        rope = content.get(name) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError(f"{name} is {rope}, only plain RoPE is read")
        if rope.get("rope_theta") is not None:
            found.add(_number(rope, "rope_theta"))
    if len(found) > 1:
        raise ValueError(f"rope_theta is both {' and '.join(map(str, sorted(found)))}")
    return found.pop() if found else 10_000.0


def _card(content: dict[str, Any]) -> Card:
    return Card(
        content.get("max_position_embeddings", 2048),
        content.get("eos_token_id", 50279),
        content.get("bos_token_id"),
        content.get("pad_token_id", 1),
    )


def to_json(config: DecoderConfig, card: Card, dtype: str) -> dict[str, Any]:
    """Make config.json of the decoder with weights of `dtype`; defaults are written out."""
    return {
        "architectures": [_ONLY],
        "attention_bias": False,
        "attention_dropout": 0.0,
        **dataclasses.asdict(card),
        "dtype": dtype,
        "hidden_act": "silu",
        **{theirs: getattr(config, ours) for ours, theirs in _SIZES.items()},
        "initializer_range": float(config.init_std),
        "model_type": "olmo2",
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": float(config.norm_eps),
        "rope_parameters": {"rope_theta": float(config.rope_theta), "rope_type": "default"},
        "rope_theta": float(config.rope_theta),
        "tie_word_embeddings": False,
        "use_cache": True,
    }


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
    """Copy the tokenizer files that exist; return their names."""
    found = [name for name in FILES if (source / name).is_file()]
    for name in found:
        write_bytes(target / name, (source / name).read_bytes())
    return found


def write(json_file: pathlib.Path, eos_id: int, longest: int, target: pathlib.Path) -> None:
    """Write a `tokenizers` file for AutoTokenizer, without BOS and padding tokens.

    Unlike `ttoaa.data.tokenizer`, transformers encodes the name of a special token in a text as
    that token.
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
