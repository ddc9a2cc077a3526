"""An unsharded checkpoint of OLMo 2 (github.com/allenai/OLMo): weights, and Adam's moments.

Matrices are [out, in], and two of a block are fused along `out`: att_proj is query, key, value, and
ff_proj is up, then gate (olmo/model.py: `x, gate = x.chunk(2); silu(gate) * x`). The embedding may
have more rows than there are tokens; they stay, as in OLMo's own conversion to Hugging Face.
"""

import functools
import pathlib
from typing import NamedTuple

import numpy as np

from ttoaa.model.decoder import DecoderConfig, Params, abstract_params
from ttoaa.model.huggingface.weights import (
    Path,
    Place,
    at,
    check_shapes,
    put,
    turned,
    turned_shape,
)
from ttoaa.model.olmo.names import readable
from ttoaa.model.tensors import Shape, Tensors

MODEL, OPTIMIZER = "model.safetensors", "optim.safetensors"
MOMENTS = {"mu": "exp_avg", "nu": "exp_avg_sq"}
"""optax's name of a moment, and torch's."""


class Part(NamedTuple):
    """Where some rows of one of their tensors go."""

    path: Path
    rows: slice


def load_params(
    folder: pathlib.Path, config: DecoderConfig, place: Place = lambda _, read: read()
) -> Params:
    """The folder's weights as float32; by default they are read, `place` may do so later.

    Raises ValueError for files that are not there, damaged, or of another model than `config`.
    """
    return _load(_open(folder, MODEL), config, "{}", place)


def load_moments(
    folder: pathlib.Path, config: DecoderConfig, place: Place = lambda _, read: read()
) -> tuple[dict[str, Params], int]:
    """({"mu", "nu"} as trees like the parameters, updates done) of OLMo's AdamW."""
    tensors = _open(folder, OPTIMIZER)
    # Some were saved under the names that torch's FSDP gives them.
    tensors.rename(lambda name: name.replace("_fsdp_wrapped_module.", ""))
    if any(name.startswith("state/0/") for name in tensors.shapes):
        raise ValueError(
            f"{folder / OPTIMIZER} numbers its tensors, and only a pickle has their names: convert "
            "optim.pt by python -m ttoaa.model.olmo safetensors, or import without --optimizer"
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
        way = f"convert {older.name} by python -m ttoaa.model.olmo safetensors"
        raise ValueError(f"{path} is missing: {way if older.is_file() else 'fetch it'}")
    tensors = Tensors([path])
    tensors.rename(readable)
    return tensors


def _load(tensors: Tensors, config: DecoderConfig, pattern: str, place: Place) -> Params:
    """The tree of the tensors that are named by `pattern` of a weight's name; largest first."""
    parts = layout(config)
    expected = {pattern.format(name): shape for name, shape in fused_shapes(config).items()}
    before, after = pattern.split("{}")
    held = [n for n in tensors.shapes if n.startswith(before) and n.endswith(after)]
    check_shapes(tensors, held, expected)

    def read(name: str, part: Part) -> np.ndarray:
        rows = tensors.read(name)[part.rows].astype(np.float32, copy=False)
        return np.ascontiguousarray(turned(part.path, rows))

    params: Params = {}
    shapes = abstract_params(config)
    for name in sorted(parts, key=lambda n: -np.prod(expected[pattern.format(n)])):
        for part in parts[name]:
            shape = at(shapes, part.path).shape
            put(
                params, part.path, place(shape, functools.partial(read, pattern.format(name), part))
            )
    return params


def layout(config: DecoderConfig) -> dict[str, list[Part]]:
    """Their tensors, and what each is made of."""
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
    """Shapes of their tensors."""
    ours, found = abstract_params(config), {}
    for name, parts in layout(config).items():
        shapes = [turned_shape(part.path, at(ours, part.path).shape) for part in parts]
        found[name] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return found
