"""Read and write `config.json` and the tokenizer files of an `Olmo2ForCausalLM` folder.

Field names and defaults are those of transformers' Olmo2Config (configuration_olmo2.py, 5.23).
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
import tokenizers

from ttoaa.json_io import mismatch, read_json
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
_TokenIds = int | list[int] | None


class _Config(TypedDict):
    """The fields of config.json that are read."""

    vocab_size: int
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    num_key_value_heads: NotRequired[int | None]
    head_dim: NotRequired[int | None]
    rms_norm_eps: NotRequired[float]
    initializer_range: NotRequired[float]
    rope_theta: NotRequired[float | None]
    rope_parameters: NotRequired[dict[str, Any] | None]
    rope_scaling: NotRequired[dict[str, Any] | None]
    dtype: NotRequired[str | None]
    torch_dtype: NotRequired[str | None]
    tie_word_embeddings: NotRequired[bool]
    max_position_embeddings: NotRequired[int]
    eos_token_id: NotRequired[_TokenIds]
    bos_token_id: NotRequired[int | None]
    pad_token_id: NotRequired[int | None]


class _Rope(TypedDict):
    rope_type: NotRequired[str]
    type: NotRequired[str]
    rope_theta: NotRequired[float | None]
    partial_rotary_factor: NotRequired[float]


_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("olmo2",),
    "architectures": ([_ONLY], [], None),
    "attention_bias": (False, None),
    "auto_map": (None,),
    "clip_qkv": (None,),
    "hidden_act": ("silu", None),
    "mlp_bias": (False, None),
    "partial_rotary_factor": (1.0, None),
    "pretraining_tp": (1, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "use_sliding_window": (False, None),
}
"""Fields that can change a logit, with the values that do not."""
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """_attn_implementation _attn_implementation_autoset _name_or_path add_cross_attention
        attention_dropout attn_implementation bad_words_ids begin_suppress_tokens
        chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
        diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
        exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
        id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length
        no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions
        output_hidden_states output_scores prefix problem_type pruned_heads
        remove_invalid_values repetition_penalty return_dict return_dict_in_generate
        sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
        tie_encoder_decoder tokenizer_class top_k top_p torchscript transformers_version
        typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache""",
    )
)
"""Fields that do not affect the logits of an Olmo2ForCausalLM."""


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

    Raises ValueError, naming file and field, for a damaged file, an unknown field, and a model that
    the decoder cannot compute: another architecture, biases, scaled RoPE, another activation, or a
    head width other than width / heads.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json: name a folder of an {_ONLY}")
    content = read_json(path, dict[str, Any])
    try:
        config = _decoder(content)
        return config, _card(content, config), content.get("tie_word_embeddings", False)
    except ValueError as error:
        # gin appends lines to the errors of its classes
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error


def _decoder(content: dict[str, Any]) -> DecoderConfig:
    kind, classes = content.get("model_type"), content.get("architectures")
    if kind != "olmo2" or classes not in _ACCEPTED["architectures"]:
        named = ", ".join(map(str, classes)) if isinstance(classes, list) else classes
        raise ValueError(f"the model is {named}, {kind}: not {_ONLY}")
    for name, accepted in _ACCEPTED.items():
        found = content.get(name)
        if name in content and not any(type(found) is type(a) and found == a for a in accepted):
            raise ValueError(f"{name} is {found!r}, only {accepted[0]!r} is read")
    unknown = content.keys() - {*_Config.__annotations__, *_ACCEPTED} - _HARMLESS
    if unknown:
        raise ValueError(
            f"{min(unknown)!r} is not a known field and may change the model: remove it if it "
            "does not"
        )
    if problem := mismatch(content, _Config):
        raise ValueError(f"it {problem}")
    for name in _SIZES.values():
        if not 0 < content[name] < 2**31:
            raise ValueError(f"{name} must be a positive integer below 2**31, not {content[name]}")
    dtype = content.get("dtype") or content.get("torch_dtype")
    config = DecoderConfig(
        **{ours: content[theirs] for ours, theirs in _SIZES.items()},
        kv_heads=content.get("num_key_value_heads"),
        rope_theta=_theta(content),
        norm_eps=positive_number(content, "rms_norm_eps", 1e-5),
        init_std=positive_number(content, "initializer_range", 0.02),
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
    )
    if content.get("head_dim") not in (None, config.head_width):
        raise ValueError(f"head_dim is {content['head_dim']}, only {config.head_width} is read")
    return config


def positive_number(content: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Return a field as a float; ValueError unless it is positive and finite in float32.

    YAML reads 1e-6 as a string, so strings that hold a number are accepted.
    """
    value = content.get(name, default)
    try:
        number = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    with np.errstate(over="ignore"):
        held = np.float32(number)
    if isinstance(value, bool) or not 0 < held < np.inf:
        raise ValueError(f"{name} must be a positive number within float32, not {value!r}")
    return number


def _theta(content: dict[str, Any]) -> float:
    """Read the RoPE base: transformers 5 writes `rope_parameters`, older versions `rope_theta`."""
    found = set()
    if content.get("rope_theta") is not None:
        found.add(positive_number(content, "rope_theta"))
    for name in ("rope_parameters", "rope_scaling"):
        rope = content.get(name) or {}
        if problem := mismatch(rope, _Rope):
            raise ValueError(f"{name} {problem}")
        kind, share = rope.get("rope_type", rope.get("type", "default")), "partial_rotary_factor"
        plain = kind == "default" and rope.get(share, 1.0) == 1.0
        if not plain or rope.keys() - _Rope.__annotations__:
            raise ValueError(f"{name} is {rope}, only plain RoPE is read")
        if rope.get("rope_theta") is not None:
            found.add(positive_number(rope, "rope_theta"))
    if len(found) > 1:
        raise ValueError(f"rope_theta is both {' and '.join(map(str, sorted(found)))}")
    return found.pop() if found else 10_000.0


def _card(content: dict[str, Any], config: DecoderConfig) -> Card:
    card = Card(
        content.get("max_position_embeddings", 2048),
        content.get("eos_token_id", 50279),
        content.get("bos_token_id"),
        content.get("pad_token_id", 1),
    )
    check_card(card, config)
    return card


def check_card(card: Card, config: DecoderConfig) -> None:
    """Raise ValueError for a non-positive length or an id outside the vocabulary."""
    if card.max_position_embeddings < 1:
        raise ValueError(
            f"max_position_embeddings must be positive, not {card.max_position_embeddings}"
        )
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = getattr(card, name)
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(each is None or 0 <= each < config.vocab_size for each in ids):
            raise ValueError(f"{name} is {value}, outside the vocabulary of {config.vocab_size}")


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
    """Write a `tokenizers` file for AutoTokenizer, without a padding token.

    Every document of a corpus follows an EOS, so EOS is BOS too; neither is added to a text. As in
    `ttoaa.data.tokenizer`, special tokens in a text are encoded as ordinary characters:
    transformers does so if `split_special_tokens` is set.
    """
    content = json_file.read_bytes()
    try:
        eos = tokenizers.Tokenizer.from_buffer(content).id_to_token(eos_id)
    except Exception as error:  # `tokenizers` raises a bare Exception
        raise ValueError(
            f"{json_file} is not a `tokenizers` JSON file, which exports need: {error}"
        ) from error
    if eos is None:
        raise ValueError(f"{json_file} has no token {eos_id}, which ends texts")
    write_bytes(target / "tokenizer.json", content)
    settings = {
        "add_prefix_space": False,
        "bos_token": eos,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": longest,
        "pad_token": None,
        "split_special_tokens": True,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
    write_json(target / "tokenizer_config.json", settings)
    write_json(target / "special_tokens_map.json", {"bos_token": eos, "eos_token": eos})


README = """---
library_name: transformers
pipeline_tag: text-generation
tags:
{tags}
---

# {name}

Exported by ttoaa {version} as an `Olmo2ForCausalLM`. {note}

## What it was trained on

{training}
## Special tokens in a text

ttoaa never parses special tokens: in training and in its scores, `<|endoftext|>` in a text is
encoded as ordinary characters. Only the end of a document gets the token. {how}

With `tokenizers` alone, set `tokenizer.encode_special_tokens = True`.
"""
SPLIT = (
    "`tokenizer_config.json` sets `split_special_tokens`, so that `AutoTokenizer` does the same. "
    "(In transformers 4, use `tokenizer(texts)`: `batch_encode_plus` ignores the setting.)"
)
AS_IMPORTED = (
    "The tokenizer's files are those of the import, unchanged. For the same tokens, use "
    "`AutoTokenizer.from_pretrained(folder, split_special_tokens=True)`."
)
