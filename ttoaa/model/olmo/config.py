"""config.yaml of an OLMo 2 checkpoint and the decoder that it describes.

Names and defaults are those of ModelConfig in github.com/allenai/OLMo (olmo/config.py).
"""

import pathlib
from typing import Any

import yaml

from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.huggingface.config import Card

# What makes it an OLMo 2: (value, default where the config does not say).
_OLMO2: dict[str, tuple[Any, Any]] = {
    "norm_after": (True, False),
    "attention_layer_norm": (True, False),
    "attention_layer_norm_with_affine": (True, True),
    "layer_norm_type": ("rms", "default"),
    "layer_norm_with_affine": (True, True),
    "block_type": ("sequential", "sequential"),
    "activation_type": ("swiglu", "swiglu"),
    "rope": (True, False),
    "alibi": (False, False),
    "include_bias": (False, True),
    "weight_tying": (False, True),
    "scale_logits": (False, False),
    "embedding_layer_norm": (False, False),
    "clip_qkv": (None, None),
}


def read_config(folder: pathlib.Path) -> tuple[DecoderConfig, Card]:
    """The model of config.yaml; raises ValueError in one line for what is not OLMo 2."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.yaml: name an unsharded checkpoint of OLMo")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        return _decoder(content), _card(content)
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is missing") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not of an OLMo 2: {str(error).splitlines()[0]}") from error


def _decoder(content: dict[str, Any]) -> DecoderConfig:
    for name, (only, default) in _OLMO2.items():
        if content.get(name, default) != only:
            raise ValueError(f"{name} is {content.get(name, default)!r}, not {only!r}")
    heads, kv_heads = content["n_heads"], content.get("n_kv_heads")
    if content.get("multi_query_attention") and kv_heads is None:
        kv_heads = 1
    fused = content.get("mlp_hidden_size") or content.get("mlp_ratio", 4) * content["d_model"]
    return DecoderConfig(
        vocab_size=content.get("embedding_size") or content["vocab_size"],
        layers=content["n_layers"],
        width=content["d_model"],
        heads=heads,
        hidden=fused // 2,
        kv_heads=kv_heads,
        # YAML reads 1e-6 as a text.
        rope_theta=float(content.get("rope_theta", 10_000)),
        norm_eps=float(content.get("layer_norm_eps", 1e-5)),
        init_std=float(content.get("init_std", 0.02)),
    )


def _card(content: dict[str, Any]) -> Card:
    length, eos = content.get("max_sequence_length", 1024), content["eos_token_id"]
    return Card(length, eos, pad_token_id=content["pad_token_id"])
