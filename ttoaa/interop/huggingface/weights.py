"""Weights of an `Olmo2ForCausalLM` folder to a tree of parameters, and back to a folder.

torch keeps a matrix as [out, in], here it is [in, out]; the embedding is [V, D] in both.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ttoaa.interop.huggingface.config import Card, read_config, to_json
from ttoaa.interop.safetensors_io import DTYPES, Shape, Tensors, open_folder, write_folder
from ttoaa.model.decoder import DecoderConfig, Params, abstract_params
from ttoaa.workdir import write_json

Path = tuple[str, ...]
Place = Callable[[Shape, Callable[[], np.ndarray]], Any]
"""What becomes a leaf, of its shape and of what reads it."""
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


def names(config: DecoderConfig) -> dict[str, Path]:
    """Where each of their tensors stands in the tree of parameters, in the order of the layers."""
    found = {f"{theirs}.weight": path for path, theirs in _WHOLE.items()}
    for layer in range(config.layers):
        for path, theirs in _BLOCK.items():
            found[f"model.layers.{layer}.{theirs}.weight"] = (f"block_{layer:02d}", *path)
    return found


def turned(path: Path, array: np.ndarray) -> np.ndarray:
    """A matrix from [out, in] to [in, out] or back; norms and the embedding as they are."""
    return array if path == ("embedding",) else array.T


def turned_shape(path: Path, shape: Shape) -> Shape:
    return shape if path == ("embedding",) else shape[::-1]


def _shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Shapes of their tensors."""
    ours = abstract_params(config)
    return {n: turned_shape(path, at(ours, path).shape) for n, path in names(config).items()}


def at(tree: Any, path: Path) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def put(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


def load_params(folder: pathlib.Path, place: Place = lambda _, read: read()) -> Params:
    """The folder's weights as float32; by default they are read, `place` may do so later.

    Beside what is read one tensor is in memory, and its transpose: the largest come first,
    so that they never stand on top of a whole model. A tied head is a copy of the embedding, and
    is trained apart from it. Raises ValueError for weights that are not those of config.json.
    """
    config, _, tied = read_config(folder)
    tensors, paths, shapes = open_folder(folder), names(config), _shapes(config)
    if tied:
        del paths["lm_head.weight"], shapes["lm_head.weight"]
    check_shapes(tensors, tensors.shapes, shapes)
    sources = {path: name for name, path in paths.items()}
    if tied:
        sources[("head",)] = "model.embed_tokens.weight"

    def read(path: Path) -> np.ndarray:
        array = tensors.read(sources[path]).astype(np.float32, copy=False)
        return np.ascontiguousarray(turned(path, array))

    params: Params = {}
    for path in sorted(sources, key=lambda path: -math.prod(shapes[sources[path]])):
        shape = turned_shape(path, shapes[sources[path]])
        put(params, path, place(shape, functools.partial(read, path)))
    return params


def check_shapes(tensors: Tensors, held: Iterable[str], expected: Mapping[str, Shape]) -> None:
    """Raises ValueError for the first of the tensors that is missing, too many or another."""
    for name in sorted({*expected, *held}):
        if name not in tensors.shapes:
            raise ValueError(f"{tensors.where} has no tensor {name}, which its config asks for")
        if name not in expected:
            raise ValueError(
                f"{tensors.where} has a tensor {name}, for which its config has no use"
            )
        ours, theirs = expected[name], tensors.shapes[name]
        if ours != theirs:
            raise ValueError(
                f"{tensors.where}: {name} is {list(theirs)}, its config says {list(ours)}"
            )
        if tensors.dtypes[name] not in _FLOATS:
            raise ValueError(f"{tensors.where}: {name} is {tensors.dtypes[name]}, not {_FLOATS}")


def save(
    folder: pathlib.Path,
    config: DecoderConfig,
    card: Card,
    params: Params,
    dtype: str = "float32",
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes weights, config.json and generation_config.json; float32 keeps every bit.

    Beside `params` one tensor is in memory at a time; a leaf is whatever NumPy makes an array of.
    """
    paths = names(config)

    def make(name: str) -> np.ndarray:
        array = turned(paths[name], np.asarray(at(params, paths[name])))
        return array.astype(DTYPES[dtype], copy=False)

    write_folder(folder, _shapes(config), DTYPES[dtype], make, shard_bytes)
    content = to_json(config, card, dtype)
    ids = {name: content[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "config.json", content)
