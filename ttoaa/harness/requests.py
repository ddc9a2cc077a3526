"""What lm-evaluation-harness asks for, as requests of the scoring primitives.

Windows, truncation and options mean what they mean to the harness's own torch model (0.4.13), so
that both give the same scores. `longest` is the number of tokens that the model reads: the last one
that it predicts comes on top.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.scoring.requests import Request
from ttoaa.scoring.sampling import Sampling

LONGEST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of one option, the first of them that is given counts."""
_DEFAULT_TOKENS = 256
_WITHOUT_EFFECT = {"num_beams": 1, "repetition_penalty": 1.0}


def span(context: Sequence[int], continuation: Sequence[int], longest: int) -> Request:
    """The request of a continuation; a context that is too long loses its beginning.

    Raises ValueError for a continuation without tokens, or with more than the model reads.
    """
    if not continuation:
        raise ValueError("a continuation has no token of its own after its context")
    if len(continuation) > longest:
        raise ValueError(
            f"a continuation has {len(continuation)} tokens, more than max_length={longest}: set "
            "a larger one, RoPE has no end"
        )
    tokens = np.array([*context, *continuation][-(longest + 1) :], np.int32)
    return tokens, len(tokens) - len(continuation)


def windows(tokens: Sequence[int], prefix: int, longest: int) -> Iterator[Request]:
    """Requests that score each token of a text once, with as much before it as windows allow.

    Each is of `longest` tokens read; what the last one lacks in new tokens it repeats of the old.
    """
    whole = np.array([prefix, *tokens], np.int32)
    for start in range(0, len(tokens), longest):
        end = min(start + longest, len(tokens))
        window = whole[max(0, end - longest) : end + 1]
        yield window, len(window) - (end - start)


def sampling(options: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[Sampling, list[str]]:
    """(how to generate, strings that end a text) of a task's generation_kwargs.

    Generation ends at EOS, and early at a string's own tokens; where a string comes in other tokens
    it goes on, and `cut` ends the text all the same. Sampled where `do_sample` says so or, without
    it, where there is a temperature. Raises ValueError for an option that has no meaning here.
    """
    left = dict(options)
    until = left.pop("until", None) or []
    strings = [until] if isinstance(until, str) else [string for string in until if string]
    given = [left.pop(name, None) for name in LONGEST]
    temperature = left.pop("temperature", None)
    sampled = left.pop("do_sample", None)
    sampled = bool(temperature) if sampled is None else sampled
    top_k, top_p = left.pop("top_k", None), left.pop("top_p", None)
    seed = left.pop("seed", 0)
    for name, value in left.items():
        if value is not None and _WITHOUT_EFFECT.get(name) != value:
            raise ValueError(f"generation option {name}={value!r} is not known here: leave it out")
    stops = [tuple(map(int, tokenizer.encode(string))) for string in strings]
    return Sampling(
        max_new_tokens=int(next((n for n in given if n is not None), _DEFAULT_TOKENS)),
        temperature=float(1.0 if temperature is None else temperature) if sampled else 0.0,
        top_k=int(top_k) if top_k and sampled else None,
        top_p=float(top_p) if top_p and sampled else None,
        seed=int(seed),
        stop=((tokenizer.eos_id,), *(s for s in stops if s)),
    ), strings


def cut(tokens: Iterable[int], tokenizer: Tokenizer, strings: Sequence[str]) -> str:
    """The text of generated tokens up to EOS, cut at one string after the other."""
    ids = list(map(int, tokens))
    text = tokenizer.decode(ids[: ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids)
    for string in strings:
        text = text.split(string)[0]
    return text
