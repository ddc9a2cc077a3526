"""Convert the weights of an `Olmo2ForCausalLM` folder to a tree of parameters and back.

Matrices are [out, in] in torch and [in, out] here; the embedding is [V, D] in both.
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ttoaa.interop.huggingface.config import Card, read_config, to_json
from ttoaa.interop.safetensors_io import (
    DTYPES,
    Shape,
    Tensors,
    check_finite,
    open_folder,
    write_folder,
)
from ttoaa.model.decoder import DecoderConfig, Params, abstract_params
from ttoaa.workdir import write_json

Path = tuple[str, ...]
Place = Callable[[Shape, Callable[[], np.ndarray]], Any]
"""Makes a leaf from its shape and a function that reads it."""
_WHOLE = {
    ("embedding",): "model.embed_tokens",
    ("norm", "weight"): "model.norm",
    ("head",): "lm_head",
}
_BLOCK = {
    ("attention", "query"): "self_attn.q_proj",
    ("attention", "key"): "self_attn.k_proj",
    ("attention", "value"): "self_attn.v_proj",
    ("attention", "out"): "self_attn.o_proj",
    ("attention", "query_norm", "weight"): "self_attn.q_norm",
    ("attention", "key_norm", "weight"): "self_attn.k_norm",
    ("attention_norm", "weight"): "post_attention_layernorm",
    ("mlp", "gate"): "mlp.gate_proj",
    ("mlp", "up"): "mlp.up_proj",
    ("mlp", "down"): "mlp.down_proj",
    ("mlp_norm", "weight"): "post_feedforward_layernorm",
}
_FLOATS = ("F32", "BF16", "F16")


def tensor_paths(config: DecoderConfig) -> dict[str, Path]:
    """Map the name of each torch tensor to its path in the parameters, in order of layers."""
    found = {f"{theirs}.weight": path for path, theirs in _WHOLE.items()}
    for layer in range(config.layers):
        for path, theirs in _BLOCK.items():
            found[f"model.layers.{layer}.{theirs}.weight"] = (f"block_{layer:02d}", *path)
    return found


def transpose_matrix(path: Path, array: np.ndarray) -> np.ndarray:
    """Transpose a matrix between [out, in] and [in, out]; keep norms and the embedding."""
    return array if path == ("embedding",) else array.T


def transpose_shape(path: Path, shape: Shape) -> Shape:
    return shape if path == ("embedding",) else shape[::-1]


def _shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Map the name of each torch tensor to its shape; all blocks have those of the first."""
    ours = abstract_params(dataclasses.replace(config, layers=1))
    return {
        name: transpose_shape(path, get_leaf(ours, first_block(path)).shape)
        for name, path in tensor_paths(config).items()
    }


def first_block(path: Path) -> Path:
    """Return the path of the same parameter in the first block."""
    return ("block_00", *path[1:]) if path[0].startswith("block_") else path


def get_leaf(tree: Any, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def set_leaf(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def load_params(folder: pathlib.Path, place: Place = lambda _, read: read()) -> Params:
    """Load the folder's weights as float32; `place` may defer the reading of a leaf.

    One tensor and its transpose are in memory in addition to the result; the largest come first to
    keep the peak low. A tied head becomes a copy of the embedding and is trained separately. Raises
    ValueError for weights that do not match config.json.
    """
    config, _, tied = read_config(folder)
    tensors = open_folder(folder)
    check_sizes(
        tensors,
        config.layers,
        r"model\.layers\.(\d+)\.",
        {
            "model.embed_tokens.weight": (config.vocab_size, config.width),
            "model.layers.0.mlp.gate_proj.weight": (config.hidden, config.width),
        },
    )
    paths, shapes = tensor_paths(config), _shapes(config)
    if tied:
        del paths["lm_head.weight"], shapes["lm_head.weight"]
    check_shapes(tensors, tensors.shapes, shapes)
    sources = {path: name for name, path in paths.items()}
    if tied:
        sources[("head",)] = "model.embed_tokens.weight"

    def read(path: Path) -> np.ndarray:
        array = tensors.read(sources[path]).astype(np.float32, copy=False)
        return np.ascontiguousarray(transpose_matrix(path, array))

    params: Params = {}
    for path in sorted(sources, key=lambda path: -math.prod(shapes[sources[path]])):
        shape = transpose_shape(path, shapes[sources[path]])
        set_leaf(params, path, place(shape, functools.partial(read, path)))
    return params


def check_sizes(tensors: Tensors, layers: int, block: str, expected: Mapping[str, Shape]) -> None:
    """Compare the sizes of a config with the files' headers, before any array is allocated.

    Raises ValueError for a different number of layers (`block` matches the names of their tensors)
    and for a tensor that is missing or has another shape.
    """
    found = {match[1] for name in tensors.shapes if (match := re.match(block, name))}
    if len(found) != layers:
        raise ValueError(f"{tensors.where} has {len(found)} layers, its config says {layers}")
    for name, shape in expected.items():
        _check_shape(tensors, name, shape)


def check_shapes(tensors: Tensors, held: Iterable[str], expected: Mapping[str, Shape]) -> None:
    """Raise ValueError for the first tensor that is missing, unexpected or of another shape."""
    for name in sorted({*expected, *held}):
        if name not in expected:
            raise ValueError(
                f"{tensors.where} has a tensor {name}, for which its config has no use"
            )
        _check_shape(tensors, name, expected[name])
        if tensors.dtypes[name] not in _FLOATS:
            raise ValueError(f"{tensors.where}: {name} is {tensors.dtypes[name]}, not {_FLOATS}")


def _check_shape(tensors: Tensors, name: str, ours: Shape) -> None:
    if name not in tensors.shapes:
        raise ValueError(f"{tensors.where} has no tensor {name}, which its config requires")
    theirs = tensors.shapes[name]
    if ours != theirs:
        raise ValueError(f"{tensors.where}: {name} is {list(theirs)}, its config says {list(ours)}")


def save(
    folder: pathlib.Path,
    config: DecoderConfig,
    card: Card,
    params: Params,
    dtype: str = "float32",
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Write weights, config.json and generation_config.json; float32 keeps every bit.

    One tensor at a time is in memory in addition to `params`, whose leaves are array-like.
    """
    paths = tensor_paths(config)

    def make(name: str) -> np.ndarray:
        array = transpose_matrix(paths[name], np.asarray(get_leaf(params, paths[name])))
        with np.errstate(over="ignore"):
            array = array.astype(DTYPES[dtype], copy=False)
        check_finite(array, f"{name} as {dtype}")
        return array

    write_folder(folder, _shapes(config), DTYPES[dtype], make, shard_bytes)
    content = to_json(config, card, dtype)
    ids = {name: content[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "config.json", content)
