"""Read unsharded checkpoints of OLMo 2 (github.com/allenai/OLMo): config, weights, Adam's moments.

Fields and defaults of config.yaml are those of OLMo's ModelConfig (olmo/config.py). Matrices are
[out, in]. Two tensors of a block are fused along `out`: att_proj is query, key, value; ff_proj is
up, gate (olmo/model.py: `x, gate = x.chunk(2); silu(gate) * x`). The embedding may have more rows
than the tokenizer has tokens; they are kept, as in OLMo's conversion to Hugging Face.

OLMo's safetensors files name a tensor by base64 of a pickle (olmo/safetensors_util.py) of strings,
integers and a bool in tuples. `decode_tensor_name` parses its opcodes without executing them and
refuses any others. Only `convert`, for older .pt checkpoints, needs torch.
"""

import base64
import binascii
import dataclasses
import functools
import pathlib
import pickletools
import re
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import yaml

from ttoaa.interop.huggingface.config import Card, check_card, positive_number
from ttoaa.interop.huggingface.weights import (
    Path,
    Place,
    check_shapes,
    check_sizes,
    first_block,
    get_leaf,
    set_leaf,
    transpose_matrix,
    transpose_shape,
)
from ttoaa.interop.safetensors_io import Shape, Tensors, write
from ttoaa.json_io import mismatch
from ttoaa.model.decoder import DecoderConfig, Params, abstract_params

# Settings that OLMo 2 requires: (value, default of OLMo for a missing field).
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
    "bias_for_layer_norm": (None, None),
}
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """alibi_bias_max attention_dropout block_group_size emb_init_std embedding_dropout
        flash_attention init_cutoff_factor init_device init_fn precision residual_dropout
        rope_full_precision scale_emb_init""",
    )
)
"""Fields that neither affect the logits of a float32 model nor name a parameter."""


class _Model(TypedDict):
    """The fields of the model's config that are read."""

    d_model: int
    n_heads: int
    n_layers: int
    vocab_size: int
    eos_token_id: int
    pad_token_id: int
    n_kv_heads: NotRequired[int | None]
    multi_query_attention: NotRequired[bool | None]
    mlp_hidden_size: NotRequired[int | None]
    mlp_ratio: NotRequired[int]
    embedding_size: NotRequired[int | None]
    max_sequence_length: NotRequired[int]
    rope_theta: NotRequired[float | str]
    layer_norm_eps: NotRequired[float | str]
    init_std: NotRequired[float | str]


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, which PyYAML would overwrite."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise yaml.YAMLError(f"the key {twice!r} occurs twice")
        return super().construct_mapping(node, deep)


def read_config(folder: pathlib.Path) -> tuple[DecoderConfig, Card]:
    """Read the decoder of config.yaml; raise ValueError for a model that is not OLMo 2."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.yaml: name an unsharded checkpoint of OLMo")
    content = _read_yaml(path)
    if problem := mismatch(content, _File):
        raise ValueError(f"{path} {problem}")
    try:
        config = _decoder(content["model"])
        return config, _card(content["model"], config)
    except ValueError as error:
        raise ValueError(f"{path} is not of an OLMo 2: {str(error).splitlines()[0]}") from error


class _File(TypedDict):
    model: dict[str, Any]


def _read_yaml(path: pathlib.Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except OSError:
        raise
    except Exception as error:  # PyYAML raises many types for a tag that does not fit its value
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged: {reason}") from error


def _decoder(content: dict[str, Any]) -> DecoderConfig:
    for name, (only, default) in _OLMO2.items():
        value = content.get(name, default)
        if type(value) is not type(only) or value != only:
            raise ValueError(f"{name} is {value!r}, not {only!r}")
    unknown = content.keys() - {*_Model.__annotations__, *_OLMO2} - _HARMLESS
    if unknown:
        raise ValueError(f"{min(map(str, unknown))!r} is not a known field of its model")
    if problem := mismatch(content, _Model):
        raise ValueError(f"its model {problem}")
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
        rope_theta=positive_number(content, "rope_theta", 10_000),
        norm_eps=positive_number(content, "layer_norm_eps", 1e-5),
        init_std=positive_number(content, "init_std", 0.02),
    )


def _card(content: dict[str, Any], config: DecoderConfig) -> Card:
    length, eos = content.get("max_sequence_length", 1024), content["eos_token_id"]
    card = Card(length, eos, pad_token_id=content["pad_token_id"])
    check_card(card, config)
    return card


_TEXT = {"SHORT_BINUNICODE", "BINUNICODE"}
_NUMBER = {"BININT", "BININT1", "BININT2"}
_FRAME = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "MARK", "STOP", "NEWTRUE", "NEWFALSE"}
_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def decode_tensor_name(name: str) -> str:
    """Decode a name, such as to 'state/transformer.wte.weight/exp_avg'; keep a plain one.

    Raises ValueError for a name that OLMo does not write.
    """
    if "." in name or "/" in name:  # neither is in the alphabet of base64
        return name
    keys = []
    try:
        for opcode, argument, _ in pickletools.genops(base64.urlsafe_b64decode(name)):
            if opcode.name in _TEXT | _NUMBER:
                keys.append(str(argument))
            elif opcode.name not in _FRAME | _TUPLE:
                raise ValueError(f"a pickle with {opcode.name}")
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"{name!r} is not a tensor's name as OLMo writes it: {error}") from error
    return "/".join(keys)


MODEL, OPTIMIZER = "model.safetensors", "optim.safetensors"
MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq"}
"""optax's name of a moment, and torch's."""


class Part(NamedTuple):
    """Some rows of an OLMo tensor and the path of the parameter that they become."""

    path: Path
    rows: slice


def load_params(
    folder: pathlib.Path, config: DecoderConfig, place: Place = lambda _, read: read()
) -> Params:
    """Load the folder's weights as float32; `place` may defer the reading of a leaf.

    Raises ValueError for files that are missing, damaged, or do not match `config`.
    """
    return _load(_open(folder, MODEL), config, "{}", place)


def load_moments(
    folder: pathlib.Path, config: DecoderConfig, place: Place = lambda _, read: read()
) -> tuple[dict[str, Params], int]:
    """Load ({"mu", "nu"} as trees like the parameters, number of updates) of OLMo's AdamW."""
    tensors = _open(folder, OPTIMIZER)
    # Some were saved under the names that torch's FSDP gives them.
    tensors.rename(lambda name: name.replace("_fsdp_wrapped_module.", ""))
    if any(name.startswith("state/0/") for name in tensors.shapes):
        raise ValueError(
            f"{folder / OPTIMIZER} numbers its tensors, and only a pickle has their names: convert "
            "optim.pt with ttoaa convert safetensors, or import without --optimizer"
        )
    found = {
        ours: _load(tensors, config, f"state/{{}}/{theirs}", place)
        for ours, theirs in MOMENTS.items()
    }
    names = [f"state/{name}/step" for name in layout(config)]
    held = [tensors.read(name) for name in names if name in tensors.shapes]
    steps = {float(value) for array in held for value in array.reshape(-1)}
    whole = sorted(int(step) if step.is_integer() else step for step in steps)
    if len(whole) != 1 or not 0 <= whole[0] < 2**31 or not isinstance(whole[0], int):
        raise ValueError(f"{folder / OPTIMIZER} has steps {whole}, but must have exactly one")
    return found, whole[0]


def _open(folder: pathlib.Path, file: str) -> Tensors:
    path = folder / file
    if not path.is_file():
        older = path.with_suffix(".pt")
        way = f"convert {older.name} with ttoaa convert safetensors"
        raise ValueError(f"{path} is missing: {way if older.is_file() else 'fetch it'}")
    tensors = Tensors([path])
    tensors.rename(decode_tensor_name)
    return tensors


def _load(tensors: Tensors, config: DecoderConfig, pattern: str, place: Place) -> Params:
    """Load the tensors named `pattern.format(weight)` as a tree, the largest first."""
    before, after = pattern.split("{}")
    check_sizes(
        tensors,
        config.layers,
        rf"{before}transformer\.blocks\.(\d+)\.",
        {
            pattern.format("transformer.wte.weight"): (config.vocab_size, config.width),
            pattern.format("transformer.blocks.0.ff_out.weight"): (config.width, config.hidden),
        },
    )
    parts = layout(config)
    expected = {pattern.format(name): shape for name, shape in fused_shapes(config).items()}
    held = [n for n in tensors.shapes if n.startswith(before) and n.endswith(after)]
    check_shapes(tensors, held, expected)

    def read(name: str, part: Part) -> np.ndarray:
        rows = tensors.read(name)[part.rows].astype(np.float32, copy=False)
        if name.endswith(MOMENTS["nu"]) and (rows < 0).any():
            raise ValueError(f"{name} in {tensors.where} has a negative value, but holds squares")
        return np.ascontiguousarray(transpose_matrix(part.path, rows))

    params: Params = {}
    shapes = abstract_params(dataclasses.replace(config, layers=1))  # blocks have equal shapes
    for name in sorted(parts, key=lambda n: -np.prod(expected[pattern.format(n)])):
        for part in parts[name]:
            shape = get_leaf(shapes, first_block(part.path)).shape
            set_leaf(
                params, part.path, place(shape, functools.partial(read, pattern.format(name), part))
            )
    return params


def layout(config: DecoderConfig) -> dict[str, list[Part]]:
    """Map the name of each OLMo tensor to the parameters that it holds."""
    D, F, K = config.width, config.hidden, config.num_kv_heads * config.head_width

    def whole(*path: str) -> list[Part]:
        return [Part(path, slice(None))]

    found = {
        "transformer.wte.weight": whole("embedding"),
        "transformer.ln_f.weight": whole("norm", "weight"),
        "transformer.ff_out.weight": whole("head"),
    }
    for number in range(config.layers):
        theirs, ours = f"transformer.blocks.{number}", f"block_{number:02d}"
        attention, mlp = (ours, "attention"), (ours, "mlp")
        found |= {
            f"{theirs}.att_proj.weight": [
                Part((*attention, "query"), slice(0, D)),
                Part((*attention, "key"), slice(D, D + K)),
                Part((*attention, "value"), slice(D + K, D + 2 * K)),
            ],
            f"{theirs}.attn_out.weight": whole(*attention, "out"),
            f"{theirs}.q_norm.weight": whole(*attention, "query_norm", "weight"),
            f"{theirs}.k_norm.weight": whole(*attention, "key_norm", "weight"),
            f"{theirs}.attn_norm.weight": whole(ours, "attention_norm", "weight"),
            f"{theirs}.ff_proj.weight": [
                Part((*mlp, "up"), slice(0, F)),
                Part((*mlp, "gate"), slice(F, 2 * F)),
            ],
            f"{theirs}.ff_out.weight": whole(*mlp, "down"),
            f"{theirs}.ff_norm.weight": whole(ours, "mlp_norm", "weight"),
        }
    return found


def fused_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Map the name of each OLMo tensor to its shape."""
    ours, found = abstract_params(dataclasses.replace(config, layers=1)), {}
    for name, parts in layout(config).items():
        shapes = [
            transpose_shape(part.path, get_leaf(ours, first_block(part.path)).shape)
            for part in parts
        ]
        found[name] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return found


def convert(source: pathlib.Path, target: pathlib.Path) -> list[str]:
    """Convert model.pt and, if present, optim.pt to float32 safetensors; return the files' names.

    Files are memory-mapped and loaded with weights_only=True, so that nothing in them is executed.
    Adam's moments and its count are kept of the optimizer.
    """
    model = _load_torch(source / "model.pt")
    if not all(hasattr(tensor, "shape") for tensor in model.values()):
        raise ValueError(f"{source / 'model.pt'} does not hold tensors by name")
    _write(target / MODEL, model)
    if not (source / "optim.pt").is_file():
        return [MODEL]
    optimizer = _load_torch(source / "optim.pt")
    try:
        moments = _moments(source / "optim.pt", optimizer)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{source / 'optim.pt'} is not the state of AdamW: {error!r}") from error
    _write(target / OPTIMIZER, moments)
    return [MODEL, OPTIMIZER]


def _load_torch(path: pathlib.Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise ValueError("reading .pt files needs torch: pip install 'ttoaa[hf]'") from error
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds
        line = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be loaded as weights only: {line}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not tensors by name")
    return loaded


def _moments(path: pathlib.Path, optimizer: dict[str, Any]) -> dict[str, Any]:
    """Map 'state/<weight>/<exp_avg>' to tensors; single-device runs number them instead."""
    numbered: dict[Any, str] = {}
    for group in optimizer.get("param_groups", []):
        numbered |= dict(
            zip(group["params"], group.get("param_names", group["params"]), strict=True)
        )
    found = {}
    for key, state in optimizer["state"].items():
        name = numbered.get(key, key)
        if not isinstance(name, str):
            raise ValueError(f"{path} numbers its tensors and does not name them")
        for kind in (*MOMENTS.values(), "step"):
            found[f"state/{name}/{kind}"] = state[kind]
    return found


def _write(path: pathlib.Path, tensors: dict[str, Any]) -> None:
    dtype = np.dtype(np.float32)
    write(
        path,
        {name: (tuple(tensor.shape), dtype) for name, tensor in tensors.items()},
        lambda name: tensors[name].float().numpy(),
    )
