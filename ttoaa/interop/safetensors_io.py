"""Read and write folders of safetensors files, one tensor at a time."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from ttoaa.json_io import read_json
from ttoaa.workdir import atomic_writer, write_json

Shape = tuple[int, ...]
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}
_CODES = {dtype: code for dtype, code in zip(DTYPES.values(), ("F32", "BF16"), strict=True)}
_INDEX = "model.safetensors.index.json"


class Tensors:
    """The tensors of some safetensors files, by name; each is read on demand."""

    def __init__(self, files: Iterable[pathlib.Path]) -> None:
        """Open every file. Raises ValueError for one that is missing, truncated or invalid."""
        self._held: dict[str, tuple[pathlib.Path, str]] = {}
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, str] = {}
        """As safetensors writes them, such as 'F32'."""
        paths = list(files)
        self.where = paths[0] if len(paths) == 1 else paths[0].parent
        for path in paths:
            if not path.is_file():
                raise ValueError(f"{path} is missing: download the checkpoint again")
            try:
                with safe_open(path, "np") as file:
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        part = file.get_slice(name)
                        self._held[name] = path, name
                        self.shapes[name] = tuple(part.get_shape())
                        self.dtypes[name] = part.get_dtype()
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged: {error}: download it again") from error

    def read(self, name: str) -> np.ndarray:
        path, there = self._held[name]
        # Reopened for each tensor: the pages of a file that stays open count as memory.
        with safe_open(path, "np") as file:
            return file.get_tensor(there)

    def path(self, name: str) -> pathlib.Path:
        return self._held[name][0]

    def rename(self, new: Callable[[str], str]) -> None:
        self._held = {new(name): held for name, held in self._held.items()}
        self.shapes = {new(name): shape for name, shape in self.shapes.items()}
        self.dtypes = {new(name): dtype for name, dtype in self.dtypes.items()}


def open_folder(folder: pathlib.Path) -> Tensors:
    """Open `model.safetensors` or the files listed in `model.safetensors.index.json`."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file() or not index.is_file():
        if not single.is_file():
            raise ValueError(f"{folder} has no model.safetensors: convert it to safetensors")
        return Tensors([single])
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map: download it again")
    outside = [name for name in weight_map.values() if pathlib.Path(name).name != name]
    if outside:
        raise ValueError(f"{index} names {outside[0]!r}, which is not in its folder")
    tensors = Tensors(folder / name for name in sorted(set(weight_map.values())))
    held = {name: tensors.path(name).name for name in tensors.shapes}
    for name in sorted({*held, *weight_map}):
        if held.get(name) != weight_map.get(name):
            there, said = held.get(name, "no file"), weight_map.get(name, "no file")
            raise ValueError(f"{index} lists {name} in {said}, not in {there}: download it again")
    return tensors


def write_folder(
    folder: pathlib.Path,
    shapes: Mapping[str, Shape],
    dtype: np.dtype,
    make: Callable[[str], np.ndarray],
    shard_bytes: int,
) -> None:
    """Write `make(name)` for every name, in files of at most `shard_bytes` or one tensor.

    A single file is `model.safetensors`, several get an index. One tensor at a time is in memory.
    """
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, shape in shapes.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and size > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    count = len(shards)
    files = [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, 1 + count)]
    if count == 1:
        files = ["model.safetensors"]
    for file, shard in zip(files, shards, strict=True):
        write(folder / file, {name: (shapes[name], dtype) for name in shard}, make)
    if count > 1:
        total = sum(map(math.prod, shapes.values())) * dtype.itemsize
        weight_map = {n: file for file, shard in zip(files, shards, strict=True) for n in shard}
        write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write(
    path: pathlib.Path,
    kinds: Mapping[str, tuple[Shape, np.dtype]],
    make: Callable[[str], np.ndarray],
) -> None:
    """Write one safetensors file: the header from the known shapes, then one tensor at a time.

    The library's writer needs all tensors of a file at once and ignores their strides.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (shape, dtype) in kinds.items():
        stop = start + math.prod(shape) * dtype.itemsize
        offsets = [start, stop]
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": offsets}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
    with atomic_writer(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, kind in kinds.items():
            array = make(name)
            assert (array.shape, array.dtype) == kind, f"{name} is not {kind}"
            # reshape copies a transposed matrix into row-major order.
            file.write(array.reshape(-1).view(np.uint8).data)
