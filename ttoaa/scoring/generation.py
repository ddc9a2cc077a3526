"""Text generation with a KV cache, greedy or sampled (contract C10).

The result of a prompt depends on that prompt alone, to the bit on a CPU: the shapes of its pass
follow from its length and `max_new_tokens`, dummy rows fill the pass, and its n-th token uses the
n-th draw of its own random stream (see `item_key`).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import DecoderConfig, Params
from ttoaa.model.kv_cache import Cache, add_slots, decode_token, prefill
from ttoaa.model.sharding import constrain, row_parts
from ttoaa.scoring.requests import Sampling, item_key


def choose_tokens(
    logits_BxV: jax.Array,
    keys_Bx2: jax.Array,
    number: jax.Array,
    temperature: jax.Array | float | None,
    top_k: int | None = None,
    top_p: jax.Array | float | None = None,
) -> jax.Array:
    """Return int32[B]: the next token of each row.

    Args:
        logits_BxV: float32.
        keys_Bx2: uint32, see `item_key`.
        number: the index of this new token.
        temperature: None takes the argmax.
        top_k, top_p: as in `Sampling`; None does not truncate. The temperature comes first; top_p
            applies to the probabilities renormalised after top_k.
    """
    if temperature is None:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    # Subtract the maximum first, so that a low temperature cannot overflow.
    scores = (logits_BxV - logits_BxV.max(axis=-1, keepdims=True)) / temperature
    tokens_BxV = None
    if top_k is not None or top_p is not None:
        V = logits_BxV.shape[-1]
        scores, tokens_BxV = jax.lax.top_k(scores, min(top_k or V, V))
    if top_p is not None:
        probability = jax.nn.softmax(scores, axis=-1)
        likelier = jnp.cumsum(probability, axis=-1) - probability
        # Always keep the likeliest token, whatever the rounding.
        kept = (likelier < top_p).at[:, 0].set(True)
        scores = jnp.where(kept, scores, -jnp.inf)
    keys_B = jax.random.wrap_key_data(keys_Bx2, impl="threefry2x32")
    drawn_B = jax.vmap(
        lambda key, row: jax.random.categorical(jax.random.fold_in(key, number), row)
    )(keys_B, scores)
    if tokens_BxV is None:
        return drawn_B.astype(jnp.int32)
    return jnp.take_along_axis(tokens_BxV, drawn_B[:, None], axis=-1)[:, 0].astype(jnp.int32)


_BUCKET = 32


class SamplingArguments(NamedTuple):
    """The part of a Sampling that the compiled pass takes as arguments; None is compiled in."""

    limit: int
    temperature: float | None
    top_p: float | None
    stop_SxT: np.ndarray
    """int32: stop sequences, padded with -1 on the left."""


class _State(NamedTuple):
    """The loop state of R rows between two tokens."""

    count: jax.Array
    """Number of new tokens so far, the same for every row."""
    written_RxN: jax.Array
    """int32: the new tokens, after T entries of -1, where T is the longest stop sequence."""
    ends_R: jax.Array
    """int32: how many of them belong to the row's result."""
    going_R: jax.Array
    document_R: jax.Array
    """int32: position at which the document of the last token starts."""
    cache: Cache


def generate(
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    *,
    keys: Sequence[int | str] | None = None,
    execution: Execution = PLAIN,
) -> list[np.ndarray]:
    """Return the new tokens of each prompt int[n], in order: int32[max_new_tokens] or fewer.

    A result ends with the first stop sequence that it completes, inclusive. Its draws depend on
    sampling.seed, its key and its prompt. The default key is the number of earlier equal prompts:
    equal prompts get different draws, independent of order and batching; give `keys` if equal
    prompts are spread over several calls. Uses the mesh in context, if any.

    Raises ValueError for an empty prompt, ids outside the vocabulary, or a wrong number of keys.
    """
    rows_of = [_check_prompt(config, number, prompt) for number, prompt in enumerate(prompts)]
    if any(token >= config.vocab_size for sequence in sampling.stop for token in sequence):
        raise ValueError(f"Sampling.stop has ids outside the vocabulary of {config.vocab_size}")
    keys = _count_earlier(rows_of) if keys is None else keys
    if len(keys) != len(rows_of):
        raise ValueError(f"{len(keys)} keys for {len(rows_of)} prompts: give one for each, or None")
    buckets: dict[int, list[int]] = {}
    for number, prompt in enumerate(rows_of):
        buckets.setdefault(_round_up(len(prompt)), []).append(number)
    room = _round_up(sampling.max_new_tokens)
    out: list[np.ndarray] = [np.empty(0, np.int32)] * len(rows_of)
    for length, members in sorted(buckets.items()):
        rows = decoding_rows(length + room)
        for first in range(0, len(members), rows):
            part = members[first : first + rows]
            tokens_RxP = np.zeros((rows, length), np.int32)
            lengths_R, keys_Rx2 = np.zeros(rows, np.int32), np.zeros((rows, 2), np.uint32)
            for row, number in enumerate(part):
                prompt = rows_of[number]
                tokens_RxP[row, : len(prompt)], lengths_R[row] = prompt, len(prompt)
                keys_Rx2[row] = item_key(sampling.seed, keys[number], prompt)
            written_RxN, ends_R = _one_pass(
                config,
                params,
                tokens_RxP,
                lengths_R,
                keys_Rx2,
                _sampling_arguments(sampling),
                room=room,
                top_k=sampling.top_k if sampling.temperature else None,
                execution=execution,
            )
            written_RxN, ends_R = np.asarray(written_RxN), np.asarray(ends_R)
            for row, number in enumerate(part):
                out[number] = written_RxN[row, : ends_R[row]].copy()
    return out


def decoding_rows(slots: int, platform: str | None = None) -> int:
    """Return the rows of one pass, given the cache slots of a row.

    A power of two for each device, as large as the memory for keys and values allows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else row_parts(mesh)
    on_cpu = (platform or jax.default_backend()) == "cpu"
    most, budget = (32, 16_384) if on_cpu else (256, 131_072)
    return parts * _power_of_two(min(most, budget // slots))


def prefill_rows(length: int, rows: int, platform: str | None = None) -> int:
    """Return the rows of one prefill pass, a divisor of `rows` that suits the platform's caches."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else row_parts(mesh)
    on_cpu = (platform or jax.default_backend()) == "cpu"
    return min(rows, parts * _power_of_two(2 if on_cpu else 16_384 // length))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("room", "top_k", "execution"))
def _one_pass(
    config: DecoderConfig,
    params: Params,
    tokens_RxP: jax.Array,
    lengths_R: jax.Array,
    keys_Rx2: jax.Array,
    rules: SamplingArguments,
    *,
    room: int,
    top_k: int | None,
    execution: Execution,
) -> tuple[jax.Array, jax.Array]:
    """Return the new tokens, int32[R, room], and the length of each row's result, int32[R].

    Prompts are padded on the right; a row of length 0 is a dummy.
    """
    R, P = tokens_RxP.shape
    T = rules.stop_SxT.shape[1]
    # Cast once, not at every token.
    params = jax.tree.map(lambda w: w.astype(config.dtype) if w.ndim > 1 else w, params)

    def chosen(state: _State, x_RxD: jax.Array) -> _State:
        logits_RxV = (x_RxD @ params["head"]).astype(jnp.float32)
        token_R = choose_tokens(
            logits_RxV, keys_Rx2, state.count, rules.temperature, top_k, rules.top_p
        )
        return _append_token(state, token_R, rules)

    def step(state: _State) -> _State:
        place = state.count - 1
        token_R = jax.lax.dynamic_index_in_dim(state.written_RxN, T + place, 1, keepdims=False)
        position_R = lengths_R + place
        slots = state.cache[0][0].shape[2]
        visible_RxM = _visible(lengths_R, P, slots, place, state.document_R)
        x_RxD, cache = decode_token(
            config, params, token_R, position_R, P + place, visible_RxM, state.cache
        )
        document_R = state.document_R
        if config.document_separator is not None:
            ended = token_R == config.document_separator
            document_R = jnp.where(ended, position_R + 1, document_R)
        return chosen(state._replace(cache=cache, document_R=document_R), x_RxD)

    x_RxD, cache = _prefill_prompts(config, params, tokens_RxP, lengths_R, execution)
    state = _State(
        count=jnp.int32(0),
        written_RxN=jnp.full((R, T + room), -1, jnp.int32),
        ends_R=jnp.zeros(R, jnp.int32),
        going_R=lengths_R > 0,
        document_R=_document_start(config, tokens_RxP, lengths_R),
        cache=cache,
    )
    state = chosen(state, x_RxD)
    for more in _stages(room):
        last = jnp.minimum(rules.limit, more + 1)
        state = jax.lax.while_loop(
            lambda state, last=last: (state.count < last) & state.going_R.any(),
            step,
            state._replace(cache=add_slots(state.cache, P + more)),
        )
    return constrain(state.written_RxN[:, T:], None, None), constrain(state.ends_R, None)


def _stages(room: int) -> list[int]:
    """Return the cache sizes for new tokens: each token reads all slots, so a CPU starts with few.

    Each stage compiles another loop and copies the cache, so accelerators use a single stage.
    """
    stages = [_BUCKET if jax.default_backend() == "cpu" else room]
    while stages[-1] < room:
        stages.append(min(2 * stages[-1], room))
    return stages


def _prefill_prompts(
    config: DecoderConfig,
    params: Params,
    tokens_RxP: jax.Array,
    lengths_R: jax.Array,
    execution: Execution,
) -> tuple[jax.Array, Cache]:
    """Prefill a few rows at a time: return [R, D] of the last tokens, and the whole cache."""
    R, P = tokens_RxP.shape
    rows = prefill_rows(P, R)

    def one(part: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Cache]:
        tokens_rxP, lengths_r = constrain(part[0], "batch", None), part[1]
        x_rxPxD, cache = prefill(config, params, tokens_rxP, execution)
        last = jnp.maximum(lengths_r - 1, 0)[:, None, None]
        return jnp.take_along_axis(x_rxPxD, last, axis=1)[:, 0], cache

    # Strided over rows, so that a device holds the same rows before and after.
    parts = (tokens_RxP.reshape(rows, -1, P).swapaxes(0, 1), lengths_R.reshape(rows, -1).T)
    results = jax.lax.map(one, parts)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(R, *x.shape[2:]), results)


def _append_token(state: _State, token_R: jax.Array, rules: SamplingArguments) -> _State:
    """Append one token to each row and stop the rows that complete a stop sequence."""
    T = rules.stop_SxT.shape[1]
    written_RxN = jax.lax.dynamic_update_slice_in_dim(
        state.written_RxN, token_R[:, None], T + state.count, axis=1
    )
    recent_RxT = jax.lax.dynamic_slice_in_dim(written_RxN, state.count + 1, T, axis=1)
    same_RxSxT = (recent_RxT[:, None] == rules.stop_SxT) | (rules.stop_SxT < 0)
    return state._replace(
        count=state.count + 1,
        written_RxN=written_RxN,
        ends_R=state.ends_R + state.going_R,
        going_R=state.going_R & ~same_RxSxT.all(axis=2).any(axis=1),
    )


def _visible(
    lengths_R: jax.Array, prompt: int, slots: int, place: jax.Array, document_R: jax.Array
) -> jax.Array:
    """Return bool[R, M]: the slots that new token number `place` reads (see model.kv_cache)."""
    slot_M, lengths_Rx1 = jnp.arange(slots), lengths_R[:, None]
    position_RxM = jnp.where(slot_M < prompt, slot_M, slot_M - prompt + lengths_Rx1)
    filled_RxM = jnp.where(slot_M < prompt, slot_M < lengths_Rx1, slot_M <= prompt + place)
    return filled_RxM & (position_RxM >= document_R[:, None])


def _document_start(
    config: DecoderConfig, tokens_RxP: jax.Array, lengths_R: jax.Array
) -> jax.Array:
    """Return int32[R]: the position at which the document of the first new token starts."""
    if config.document_separator is None:
        return jnp.zeros_like(lengths_R)
    position_P = jnp.arange(tokens_RxP.shape[1], dtype=jnp.int32)
    ends = (tokens_RxP == config.document_separator) & (position_P < lengths_R[:, None])
    return jnp.where(ends, position_P + 1, 0).max(axis=1)


def _sampling_arguments(sampling: Sampling) -> SamplingArguments:
    longest = max(map(len, sampling.stop), default=1)
    stop_SxT = np.full((len(sampling.stop), longest), -1, np.int32)
    for row, sequence in enumerate(sampling.stop):
        stop_SxT[row, longest - len(sequence) :] = sequence
    greedy, whole = sampling.temperature == 0, sampling.top_p in (None, 1)
    return SamplingArguments(
        limit=sampling.max_new_tokens,
        temperature=None if greedy else float(sampling.temperature),
        top_p=None if greedy or whole else sampling.top_p,
        stop_SxT=stop_SxT,
    )


def _check_prompt(config: DecoderConfig, number: int, prompt: np.ndarray) -> np.ndarray:
    tokens = np.asarray(prompt)
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise ValueError(
            f"prompt {number} must be at least one token id: start with the end-of-text id"
        )
    if tokens.min() < 0 or tokens.max() >= config.vocab_size:
        raise ValueError(
            f"prompt {number} has ids outside the vocabulary of {config.vocab_size}: is it another "
            "tokenizer's?"
        )
    return tokens.astype(np.int32)


def _count_earlier(prompts: Sequence[np.ndarray]) -> list[int]:
    """Return for each prompt the number of earlier equal prompts."""
    seen: dict[bytes, int] = {}
    out = []
    for prompt in prompts:
        name = prompt.tobytes()
        out.append(seen.get(name, 0))
        seen[name] = out[-1] + 1
    return out


def _round_up(length: int) -> int:
    return -(-length // _BUCKET) * _BUCKET


def _power_of_two(most: int) -> int:
    return 1 << (max(most, 1).bit_length() - 1)
