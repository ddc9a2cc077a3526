"""Pack requests into passes whose shapes do not depend on the other requests.

XLA rounds differently for every shape. To make a score independent of the other requests, a row is
padded to a length that depends on its own, a pass has a fixed number of rows, and dummy rows fill
the last pass. Padding is on the right, where causal attention does not look.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from ttoaa.config_fields import PositiveInt, config_class
from ttoaa.model.attention import LANES, choose_kernel
from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.sharding import row_parts
from ttoaa.scoring.requests import Request

T = TypeVar("T")


@config_class
class Passes:
    """The compiled shapes; another choice changes scores within float tolerance."""

    rows: PositiveInt | None = None
    """Rows of a pass on each part of the mesh; None: `pass_rows` of the length."""
    step: PositiveInt = 32
    """Row lengths are multiples of it, and above 8 steps multiples of an eighth of a power of two.
    Lengths up to n need at most 4 log2(n / step) shapes; padding is at most an eighth."""
    window: PositiveInt = 4096
    """Requests that are held and sorted by length at a time."""

    def length(self, tokens: int) -> int:
        """Return the padded length of a row of `tokens` tokens."""
        octave = 1 << max(0, tokens - 1).bit_length()  # the next power of two
        step = self.step * max(1, octave // (8 * self.step))
        return -(-tokens // step) * step

    def rows_of(self, length: int) -> int:
        """Return the rows of a pass of this length on all devices."""
        if self.rows is None:
            return pass_rows(length)
        return self.rows * _parts()


PASSES = Passes()
SPAN = 32
"""Positions for which the head is computed if a continuation is no longer, else the whole row."""
_LOGITS = 1 << 26
"""The most float32 logits on a device at a time (256 MiB)."""
_AHEAD = 4
"""Passes dispatched before waiting for the first result."""


class Pass(NamedTuple):
    """R rows of one length that are computed together."""

    members: list[int]
    """Indices of the requests, one for each row; further rows are dummies."""
    tokens_RxL: np.ndarray
    first_R: np.ndarray
    """int32[R]: the first of the S positions for which the head is computed."""
    wanted_RxS: np.ndarray
    """bool[R, S]: whether the next token is requested; False in dummy rows."""


def pass_rows(length: int, platform: str | None = None) -> int:
    """Return the rows of one pass on all devices, so that its tokens suit the platform.

    On a CPU a power of two from 2 to 8 for its caches; more short rows would often be dummies.
    """
    if (platform or jax.default_backend()) != "cpu":
        return _parts() * max(1, 16_384 // length)
    return _parts() * min(8, max(2, 1 << (512 // length).bit_length() >> 1))


def execution_of(config: DecoderConfig, length: int, platform: str | None = None) -> Execution:
    """Return the execution for rows of a length: the platform's attention kernel if it applies."""
    platform = platform or jax.default_backend()
    if config.head_width > LANES:  # splash's tiles would have to be smaller
        return PLAIN
    kernel = choose_kernel("auto", platform, config.dtype, length, config.head_width)
    return dataclasses.replace(PLAIN, attention=kernel)


def _parts() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else row_parts(mesh)


def check_requests(requests: Sequence[Request], vocab_size: int, first: int = 0) -> None:
    """Raise ValueError for a request without context, without targets, or with unknown tokens.

    `first` is the number of the first request, for the message.
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


def in_windows(requests: Iterable[Request], size: int, vocab_size: int) -> Iterator[list[Request]]:
    """Yield the requests in lists of `size`; ValueError for an invalid one in the next list."""
    source, number = iter(requests), 0
    while window := list(itertools.islice(source, size)):
        check_requests(window, vocab_size, number)
        number += len(window)
        yield window


def pack_requests(requests: Sequence[Request], passes: Passes) -> Iterator[Pass]:
    """Yield passes that hold each request once, the shortest first."""
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
        # A span that would cross the end of the row starts earlier.
        first_R[row] = first = min(start - 1, length - span)
        wanted_RxS[row, start - 1 - first : len(tokens) - 1 - first] = True
    return Pass(members, tokens_RxL, first_R, wanted_RxS)


def head_chunks(rows: int, span: int, vocab_size: int) -> int:
    """Return the fewest pieces of a span that keep a device's logits below `_LOGITS`."""
    positions = max(1, _LOGITS * _parts() // (rows * vocab_size))
    return next(n for n in range(1, span + 1) if span % n == 0 and span // n <= positions)


def pass_options(config: DecoderConfig, one: Pass) -> tuple[int, Execution]:
    """Return (pieces of its span, execution) of a pass."""
    rows, span = one.wanted_RxS.shape
    return head_chunks(rows, span, config.vocab_size), execution_of(config, one.tokens_RxL.shape[1])


def slice_spans(array_RxLx_: jax.Array, first_R: jax.Array, span: int) -> jax.Array:
    """Return [R, span, …]: the positions first .. first + span - 1 of each row."""
    cut = jax.vmap(lambda row, first: jax.lax.dynamic_slice_in_dim(row, first, span))
    return cut(array_RxLx_, first_R)


def run_requests(
    run: Callable[[Pass], Any],
    requests: Sequence[Request],
    passes: Passes,
    take: Callable[[Pass, int, Any], T],
) -> list[T]:
    """Run all requests and return the result of each, in order.

    `take(one, row, arrays)` reads the result of a row from the NumPy arrays of its pass.
    """
    found: dict[int, T] = {}
    for one, arrays in _run_ahead(run, pack_requests(requests, passes)):
        for row, number in enumerate(one.members):
            found[number] = take(one, row, arrays)
    return [found[number] for number in range(len(requests))]


def _run_ahead(run: Callable[[Pass], Any], passes: Iterable[Pass]) -> Iterator[tuple[Pass, Any]]:
    """Yield each pass and the result of `run` as NumPy arrays, dispatching passes ahead."""
    pending: collections.deque[tuple[Pass, Any]] = collections.deque()
    for one in passes:
        pending.append((one, run(one)))
        if len(pending) > _AHEAD:
            first, made = pending.popleft()
            yield first, jax.device_get(made)
    for first, made in pending:
        yield first, jax.device_get(made)
