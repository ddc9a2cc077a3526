"""Trees that pass through memory leaf by leaf, for models that would not fit in it twice."""

import asyncio
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
import orbax.checkpoint as ocp

_TREES = ("params", "opt")


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A float32 array that is read anew whenever its values are asked for."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


class _OneByOne(ocp.type_handlers.ArrayHandler):
    """Each leaf is on disk before the next is read; what is stored is that of a jax.Array."""

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any]
    ) -> Sequence[Any]:
        for value, info, arg in zip(values, infos, args, strict=True):
            await self._finish(value, info, arg)
        return []

    async def _finish(self, value: Any, info: Any, arg: Any) -> None:
        array = jax.device_put(np.asarray(value))
        for written in await super().serialize([array], [info], [arg]):
            await asyncio.to_thread(written.result)


def handlers() -> dict[str, Any]:
    """Orbax's for a checkpoint whose leaves may be Lazy, by item; not for the background."""
    leaves = _OneByOne()
    registry = ocp.type_handlers.create_type_handler_registry((Lazy, leaves), (jax.Array, leaves))
    trees = {n: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for n in _TREES}
    return {**trees, "meta": ocp.JsonCheckpointHandler()}
