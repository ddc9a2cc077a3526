"""Read and write folders of safetensors files, one tensor at a time."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

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
                        if name in self._held:
                            raise ValueError(f"{path} and {self.path(name)} both have {name}")
                        part = file.get_slice(name)
                        self._held[name] = path, name
                        self.shapes[name] = tuple(part.get_shape())
                        self.dtypes[name] = part.get_dtype()
            except SafetensorError as error:
                raise ValueError(f"{path} is damaged: {error}: download it again") from error

    def read(self, name: str) -> np.ndarray:
        """Read a tensor; raise ValueError, naming it, for floats that are not finite."""
        path, there = self._held[name]
        # Reopened for each tensor: the pages of a file that stays open count as memory.
        with safe_open(path, "np") as file:
            array = file.get_tensor(there)
        check_finite(array, f"{name} in {path}")
        return array

    def path(self, name: str) -> pathlib.Path:
        return self._held[name][0]

    def rename(self, new: Callable[[str], str]) -> None:
        """Rename all tensors; ValueError, naming the file, for a name that `new` refuses."""
        try:
            if len({new(name) for name in self._held}) < len(self._held):
                raise ValueError("two tensors have the same name")
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error
        self._held = {new(name): held for name, held in self._held.items()}
        self.shapes = {new(name): shape for name, shape in self.shapes.items()}
        self.dtypes = {new(name): dtype for name, dtype in self.dtypes.items()}


_PIECE = 1 << 22  # values tested at a time


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise ValueError, with the name, for a NaN or an infinity."""
    flat = array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        if not np.isfinite(piece).all():
            raise ValueError(f"{name} has a value that is not finite, such as NaN")


class _Index(TypedDict):
    weight_map: dict[str, str]


def open_folder(folder: pathlib.Path) -> Tensors:
    """Open `model.safetensors` or the files listed in `model.safetensors.index.json`.

    Raises ValueError if both exist, and for weight files that are not listed.
    """
    single, index = folder / "model.safetensors", folder / _INDEX
    if not index.is_file():
        if not single.is_file():
            raise ValueError(f"{folder} has no model.safetensors: convert it to safetensors")
        _refuse_others(folder, {single.name}, single)
        return Tensors([single])
    weight_map = read_json(index, _Index, "download it again")["weight_map"]
    if not weight_map:
        raise ValueError(f"{index} lists no tensor in its weight_map: download it again")
    for name in weight_map.values():
        if pathlib.PurePath(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}, which is not a weight file in its folder")
    tensors = Tensors(folder / name for name in sorted(set(weight_map.values())))
    held = {name: tensors.path(name).name for name in tensors.shapes}
    for name in sorted({*held, *weight_map}):
        if held.get(name) != weight_map.get(name):
            there, said = held.get(name, "no file"), weight_map.get(name, "no file")
            raise ValueError(f"{index} lists {name} in {said}, not in {there}: download it again")
    _refuse_others(folder, set(weight_map.values()), index)
    return tensors


def _refuse_others(folder: pathlib.Path, used: set[str], because: pathlib.Path) -> None:
    others = sorted({path.name for path in folder.glob("model*.safetensors")} - used)
    if others:
        raise ValueError(
            f"{folder} has {others[0]} in addition to the weights of {because.name}: move the "
            "older ones away"
        )


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
