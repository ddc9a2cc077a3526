"""What both sides of a race train, and a side in a process of its own, one at a time at work."""

import dataclasses
import importlib
import multiprocessing
import os
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
    """A decoder of OLMo-2's form in float32, its batch, and AdamW at a constant rate."""

    name: str
    """Its weights without the embeddings."""
    layers: int
    width: int
    hidden: int
    vocab_size: int = 4096
    batch: int = 32
    length: int = 256
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-6
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0

    @property
    def heads(self):
        return self.width // 64

    @property
    def tokens_per_step(self):
        return self.batch * self.length

    def tokens_BxL(self):
        shape = (self.batch, self.length)
        return np.random.default_rng(0).integers(0, self.vocab_size, shape, np.int32)


TASKS = (Task("1M", 5, 128, 384), Task("3M", 6, 192, 576))


class Variant(NamedTuple):
    """A form of torch's step."""

    attention: str
    """eager or sdpa (torch's fused kernels)"""
    rows: int
    """Of one forward and backward pass; gradients add up over the batch."""
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.attention}, {self.rows} rows" + (", compiled" if self.compiled else "")


class Side:
    """The object `module.Side()` in a fresh process; its methods are called as one's own."""

    def __init__(self, module: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(module, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments):
            self._pipe.send((name, arguments))
            answer = self._pipe.recv()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(module, pipe):
    side = None
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            side = side or importlib.import_module(module).Side()
            pipe.send(getattr(side, name)(*arguments))
        except Exception as error:
            pipe.send(error)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
