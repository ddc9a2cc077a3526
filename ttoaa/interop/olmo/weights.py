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
import functools
import pathlib
import pickletools
from typing import Any, NamedTuple

import numpy as np
import yaml

from ttoaa.interop.huggingface.config import Card
from ttoaa.interop.huggingface.weights import (
    Path,
    Place,
    check_shapes,
    get_leaf,
    set_leaf,
    transpose_matrix,
    transpose_shape,
)
from ttoaa.interop.safetensors_io import Shape, Tensors, write
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
}


def read_config(folder: pathlib.Path) -> tuple[DecoderConfig, Card]:
    """Read the decoder of config.yaml; raise ValueError for a model that is not OLMo 2."""
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
            "optim.pt by python -m ttoaa.interop safetensors, or import without --optimizer"
        )
    found = {
        ours: _load(tensors, config, f"state/{{}}/{theirs}", place)
        for ours, theirs in MOMENTS.items()
    }
    names = [f"state/{name}/step" for name in layout(config)]
    steps = {int(tensors.read(name).item()) for name in names if name in tensors.shapes}
    if len(steps) != 1:
        raise ValueError(f"{folder / OPTIMIZER} has steps {sorted(steps)}, which should be one")
    return found, steps.pop()


def _open(folder: pathlib.Path, file: str) -> Tensors:
    path = folder / file
    if not path.is_file():
        older = path.with_suffix(".pt")
        way = f"convert {older.name} by python -m ttoaa.interop safetensors"
        raise ValueError(f"{path} is missing: {way if older.is_file() else 'fetch it'}")
    tensors = Tensors([path])
    tensors.rename(decode_tensor_name)
    return tensors


def _load(tensors: Tensors, config: DecoderConfig, pattern: str, place: Place) -> Params:
    """Load the tensors named `pattern.format(weight)` as a tree, the largest first."""
    parts = layout(config)
    expected = {pattern.format(name): shape for name, shape in fused_shapes(config).items()}
    before, after = pattern.split("{}")
    held = [n for n in tensors.shapes if n.startswith(before) and n.endswith(after)]
    check_shapes(tensors, held, expected)

    def read(name: str, part: Part) -> np.ndarray:
        rows = tensors.read(name)[part.rows].astype(np.float32, copy=False)
        return np.ascontiguousarray(transpose_matrix(part.path, rows))

    params: Params = {}
    shapes = abstract_params(config)
    for name in sorted(parts, key=lambda n: -np.prod(expected[pattern.format(n)])):
        for part in parts[name]:
            shape = get_leaf(shapes, part.path).shape
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
    ours, found = abstract_params(config), {}
    for name, parts in layout(config).items():
        shapes = [transpose_shape(part.path, get_leaf(ours, part.path).shape) for part in parts]
        found[name] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return found


def convert(source: pathlib.Path, target: pathlib.Path) -> list[str]:
    """Convert model.pt and, if present, optim.pt to float32 safetensors; return the files' names.

    Files are memory-mapped and loaded with weights_only=True, so that nothing in them is executed.
    Adam's moments and its count are kept of the optimizer.
    """
    model = _load_torch(source / "model.pt")
    _write(target / MODEL, model)
    if not (source / "optim.pt").is_file():
        return [MODEL]
    optimizer = _load_torch(source / "optim.pt")
    _write(target / OPTIMIZER, _moments(source / "optim.pt", optimizer))
    return [MODEL, OPTIMIZER]


def _load_torch(path: pathlib.Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise ValueError("reading .pt files needs torch: pip install 'ttoaa[hf]'") from error
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # torch raises many kinds
        line = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be loaded as weights only: {line}") from error


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
