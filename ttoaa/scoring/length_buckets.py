"""Requests in passes whose shapes follow from each item alone, never from its neighbours.

XLA rounds differently for every shape. So that an item's score does not depend on what it is scored
with, its row is padded to a length that follows from its own, rows go in passes of a fixed number,
and dummy rows fill up the last. Tokens stand at the left: padding comes after them, where causal
attention does not look.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ttoaa.model.attention import LANES, choose_kernel
from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.sharding import row_parts
from ttoaa.scoring.requests import Request


@dataclasses.dataclass(frozen=True)
class Passes:
    """The shapes of what is compiled; another choice changes scores to float tolerance."""

    rows: int | None = None
    """Of a pass, on each part of the mesh; by default what `pass_rows` says of the length."""
    step: int = 32
    """Row lengths are multiples of it, and beyond 8 of them of an eighth of a power of two: for
    lengths up to n no more than 4 log2(n / step) shapes, and an eighth of the work for padding."""
    window: int = 4096
    """Requests that are held at a time, to be sorted by length."""

    def __post_init__(self) -> None:
        for name in ("rows", "step", "window"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1) and (name, value) != ("rows", None):
                raise ValueError(f"Passes.{name} must be a positive integer, not {value!r}")

    def length(self, tokens: int) -> int:
        """What a row of so many tokens is padded to."""
        octave = 1 << max(0, tokens - 1).bit_length()  # the power of two from which it is not far
        step = self.step * max(1, octave // (8 * self.step))
        return -(-tokens // step) * step

    def rows_of(self, length: int) -> int:
        if self.rows is None:
            return pass_rows(length)
        return self.rows * _parts()


PASSES = Passes()
SPAN = 32
"""Positions that the head is computed for where a continuation has no more, else the row's."""
_LOGITS = 1 << 26
"""Float32 logits that a device holds at a time."""
_AHEAD = 4
"""Passes that are given to the device before the first one's result is waited for."""


class Pass(NamedTuple):
    """Rows of one length that are computed together."""

    members: list[int]
    """Numbers of the requests, one a row; the rows after them are dummies."""
    tokens_RxL: np.ndarray
    first_R: np.ndarray
    """int32[R]: the head is computed from this position on, for S positions."""
    wanted_RxS: np.ndarray
    """bool[R, S]: at which of them the next token is asked for; nowhere in a dummy row."""


def pass_rows(length: int, platform: str | None = None) -> int:
    """Rows of one pass on all devices: so many tokens as suit a CPU's caches, or an accelerator.

    A power of two on a CPU, from two to eight rows: many short rows would be dummies.
    """
    if (platform or jax.default_backend()) != "cpu":
        return _parts() * max(1, 16_384 // length)
    return _parts() * min(8, max(2, 1 << (512 // length).bit_length() >> 1))


def execution_of(config: DecoderConfig, length: int, platform: str | None = None) -> Execution:
    """How rows of a length are computed: by the platform's kernel, where it can do it."""
    platform = platform or jax.default_backend()
    if config.head_width > LANES:  # splash's tiles would have to be smaller
        return PLAIN
    kernel = choose_kernel("auto", platform, config.dtype, length, config.head_width)
    return dataclasses.replace(PLAIN, attention=kernel)


def _parts() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else row_parts(mesh)


def check(requests: Sequence[Request], vocab_size: int, first: int = 0) -> None:
    """Raises ValueError, naming the request (`first` is the number of the first one).

    For one without context, without anything after it, or with a token that the model lacks.
    """
    for number, (tokens, start) in enumerate(requests, first):
        if not 1 <= start < len(tokens):
            raise ValueError(
                f"request {number}: start {start} must leave context before it and tokens after "
                f"it, of {len(tokens)} tokens"
            )
        low, high = np.min(tokens), np.max(tokens)
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"request {number}: token {low if low < 0 else high} is outside the model's "
                f"vocabulary of {vocab_size}"
            )


def windows(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """The requests, so many at a time."""
    held: list[Request] = []
    for request in requests:
        held.append(request)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def packed(requests: Sequence[Request], passes: Passes) -> Iterator[Pass]:
    """Each request in one pass, the shortest first."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number, (tokens, start) in enumerate(requests):
        length = passes.length(len(tokens))
        span = SPAN if len(tokens) - start <= SPAN else length
        groups.setdefault((length, min(span, length)), []).append(number)
    for (length, span), numbers in sorted(groups.items()):
        rows = passes.rows_of(length)
        for first in range(0, len(numbers), rows):
            members = numbers[first : first + rows]
            yield _pass(members, [requests[number] for number in members], (rows, length, span))


def _pass(members: list[int], requests: list[Request], shape: tuple[int, int, int]) -> Pass:
    rows, length, span = shape
    tokens_RxL = np.zeros((rows, length), np.int32)
    first_R = np.zeros(rows, np.int32)
    wanted_RxS = np.zeros((rows, span), bool)
    for row, (tokens, start) in enumerate(requests):
        tokens_RxL[row, : len(tokens)] = tokens
        # Where the span would run over the row's end it begins earlier.
        first_R[row] = first = min(start - 1, length - span)
        wanted_RxS[row, start - 1 - first : len(tokens) - 1 - first] = True
    return Pass(members, tokens_RxL, first_R, wanted_RxS)


def head_chunks(rows: int, span: int, vocab_size: int) -> int:
    """The fewest pieces of a span for which a device holds 2**26 logits (256 MiB) at most."""
    positions = max(1, _LOGITS * _parts() // (rows * vocab_size))
    return next(n for n in range(1, span + 1) if span % n == 0 and span // n <= positions)


def computed(config: DecoderConfig, one: Pass) -> tuple[int, Execution]:
    """(pieces of its span, execution) of a pass."""
    rows, span = one.wanted_RxS.shape
    return head_chunks(rows, span, config.vocab_size), execution_of(config, one.tokens_RxL.shape[1])


def spans(array_RxLx_: jax.Array, first_R: jax.Array, span: int) -> jax.Array:
    """[R, span, …]: of each row the positions first .. first + span - 1."""
    cut = jax.vmap(lambda row, first: jax.lax.dynamic_slice_in_dim(row, first, span))
    return cut(array_RxLx_, first_R)


def ahead(run: Callable[[Pass], Any], passes: Iterable[Pass]) -> Iterator[tuple[Pass, Any]]:
    """Each pass and, as NumPy arrays, what `run` made of it; the device need not wait for us."""
    pending: collections.deque[tuple[Pass, Any]] = collections.deque()
    for one in passes:
        pending.append((one, run(one)))
        if len(pending) > _AHEAD:
            first, made = pending.popleft()
            yield first, jax.device_get(made)
    for first, made in pending:
        yield first, jax.device_get(made)
