"""The model `ttoaa` of lm-evaluation-harness; importing this module registers it.

    import lm_eval, ttoaa.interop.lm_eval.model
    lm_eval.simple_evaluate(model="ttoaa", model_args="workdir=runs/mine,step=400", tasks=["piqa"])

Windows, truncation and options follow the harness's torch model (0.4.13), so that both give the
same scores. Texts are tokenized as for every causal model of the harness: white space at the end of
a context moves to the continuation, whose tokens are those of the whole text after the context's.
Special tokens in a text are encoded as text. `longest` is the number of input tokens; the last
predicted token is not an input.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.interop.convert import open_model
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.progress import progress_bar
from ttoaa.scoring.generation import generate
from ttoaa.scoring.length_buckets import Passes
from ttoaa.scoring.likelihood import Scored, stream_scores
from ttoaa.scoring.requests import Request, Sampling

_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Synonyms for one option; the first one given counts."""
_DEFAULT_TOKENS = 256
_NEUTRAL = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences", "n", "best_of"), 1),
    **dict.fromkeys(("repetition_penalty", "typical_p", "guidance_scale"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "min_length", "min_new_tokens", "min_p"), 0),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "penalty_alpha", "diversity_penalty"), 0),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), 0),
}
"""Unsupported options of the harness, with the only accepted value, which has no effect."""
_WITHOUT_EFFECT = {"use_cache", "cache_implementation", "pad_token_id", "length_penalty"}
"""Options for caches, padding and beams, which change no token."""
_ROOM = 32
"""With `max_length`, prompts share a batch if ceil(new tokens / _ROOM) is equal."""


_NO_TOKEN = "a continuation has no token after its context: drop that item"


def continuation_request(
    context: Sequence[int], continuation: Sequence[int], longest: int
) -> Request:
    """Make the request that scores a continuation; a long context loses its beginning.

    Raises ValueError for a continuation without tokens, or with more than the model reads.
    """
    if not continuation:
        raise ValueError(_NO_TOKEN)
    if len(continuation) > longest:
        raise ValueError(
            f"a continuation has {len(continuation)} tokens, more than max_length={longest}: set "
            "a larger one"
        )
    tokens = np.array([*context, *continuation][-(longest + 1) :], np.int32)
    return tokens, len(tokens) - len(continuation)


def rolling_requests(tokens: Sequence[int], prefix: int, longest: int) -> Iterator[Request]:
    """Make requests that score each token of a text once, in windows of `longest` tokens.

    The last window is filled up with tokens that are scored before, as context.
    """
    whole = np.array([prefix, *tokens], np.int32)
    for start in range(0, len(tokens), longest):
        end = min(start + longest, len(tokens))
        window = whole[max(0, end - longest) : end + 1]
        yield window, len(window) - (end - start)


def parse_generation_options(
    options: Mapping[str, Any], tokenizer: Tokenizer
) -> tuple[Sampling, list[str], int | None]:
    """Read (sampling, strings that end a text, `max_length`) from a task's generation_kwargs.

    Generation stops at EOS or at the tokens of a string. If a string is produced by other tokens,
    `cut_at_stops` cuts the text. Sampling is used if `do_sample` is true or, without it, if a
    temperature is given. An option that is None is ignored. docs/harness.md lists the options.
    Raises ValueError for an unsupported option or value.
    """
    left = {name: value for name, value in options.items() if value is not None}
    until = left.pop("until", [])
    strings = [until] if isinstance(until, str) else until
    if not isinstance(strings, list | tuple) or not all(isinstance(s, str) for s in strings):
        raise ValueError(f"generation option until must be texts, not {until!r}")
    strings = [string for string in strings if string]
    given = [_number(left, name, whole=True) for name in _MAX_TOKENS_NAMES]
    longest = _number(left, "max_length", whole=True)
    temperature, top_p = _number(left, "temperature"), _number(left, "top_p")
    top_k, seed = _number(left, "top_k", whole=True), _number(left, "seed", whole=True)
    sampled = left.pop("do_sample", bool(temperature))
    if not isinstance(sampled, bool):
        raise ValueError(f"generation option do_sample must be true or false, not {sampled!r}")
    eos = tokenizer.eos_id
    neutral = {**_NEUTRAL, "eos_token_id": eos}
    for name, value in left.items():
        if name not in _WITHOUT_EFFECT and (name not in neutral or value != neutral[name]):
            only = f": only {neutral[name]} is" if name in neutral else ": leave it out"
            raise ValueError(f"generation option {name}={value!r} is not supported{only}")
    stops = [tuple(map(int, tokenizer.encode(string))) for string in strings]
    sampling = Sampling(
        max_new_tokens=int(next((n for n in given if n is not None), _DEFAULT_TOKENS)),
        temperature=(1.0 if temperature is None else temperature) if sampled else 0.0,
        top_k=int(top_k) if top_k and sampled else None,
        top_p=top_p if sampled else None,
        seed=int(seed or 0),
        stop=((eos,), *(s for s in stops if s)),
    )
    return sampling, strings, None if longest is None else int(longest)


def _number(options: dict[str, Any], name: str, whole: bool = False) -> float | None:
    """Remove an option and return it as a number; YAML reads 1e-3 as a string."""
    value = options.pop(name, None)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or (whole and number % 1):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"generation option {name} must be {kind}, not {value!r}")
    return number


def cut_at_stops(tokens: Iterable[int], tokenizer: Tokenizer, strings: Sequence[str]) -> str:
    """Decode generated tokens up to EOS, and cut the text at each string in turn."""
    ids = list(map(int, tokens))
    text = tokenizer.decode(ids[: ids.index(tokenizer.eos_id)] if tokenizer.eos_id in ids else ids)
    for string in strings:
        text = text.split(string)[0]
    return text


try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error.name} is missing: pip install 'ttoaa[hf]'") from error


Answer = tuple[float, bool]
"""(log-likelihood of a continuation in nats, whether it is the greedy one)."""
_CHUNK = 256
"""Requests between two updates of the progress bar."""
_PASSES = Passes(window=_CHUNK)


@register_model("ttoaa")
class CheckpointLM(TemplateLM):
    """One checkpoint. Its answers do not depend on the other requests."""

    def __init__(
        self,
        workdir: str | None = None,
        run: str = "run",
        step: int | None = None,
        folder: str | None = None,
        max_length: int | None = None,
        fsdp: int = 1,
        tensor: int = 1,
        **theirs: Any,
    ) -> None:
        """Load checkpoint `step` (default: the newest) of `<workdir>/<run>` or of `folder`.

        `folder` is a run, an import, or a Hugging Face `Olmo2ForCausalLM`. `max_length` is the
        longest input in tokens (default: the length of training sequences). The mesh has all
        devices. `batch_size` and `device` are ignored. Raises ValueError for a model that cannot
        be opened.
        """
        super().__init__()
        unknown = theirs.keys() - {"batch_size", "max_batch_size", "device"}
        if unknown:
            raise ValueError(
                f"model_args has {min(unknown)!r}, which is not supported: leave it out"
            )
        if (workdir is None) == (folder is None):
            raise ValueError("model_args needs exactly one of workdir=…[,run=control] and folder=…")
        for name, value in (("fsdp", fsdp), ("tensor", tensor), ("max_length", max_length)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive whole number, not {value!r}")
        if step is not None and (type(step) is not int or step < 0):
            raise ValueError(f"step must be the number of a checkpoint, not {step!r}")
        # The harness converts a name of digits to an int.
        parts = (workdir, run) if folder is None else (folder,)
        source = pathlib.Path(*map(str, parts))
        several = jax.device_count() > 1 or fsdp > 1 or tensor > 1
        self.mesh = make_mesh(Layout(fsdp=fsdp, tensor=tensor)) if several else None
        self.model = open_model(source.expanduser().resolve(), step, self.mesh)
        self.max_length = self.model.length if max_length is None else max_length

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.model.prefix_id

    def get_model_info(self) -> dict[str, Any]:
        """Describe the model for the files that the harness writes."""
        model = self.model
        return {"model_source": model.name, "model_num_parameters": model.config.num_params()}

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **theirs: Any
    ) -> list[int]:
        """Encode a text, always without special tokens."""
        ids: list[int] = self.model.tokenizer.encode(string).tolist()
        return ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Answer]:
        """Score each (context, continuation); an empty or blank context becomes the prefix token.

        Raises ValueError for a continuation without tokens, which has nothing to score.
        """
        for context, continuation in (request.args for request in requests):
            if not context and not self.tok_encode(continuation):
                raise ValueError(_NO_TOKEN)
        answers: list[Answer] = super().loglikelihood(requests, disable_tqdm)
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **theirs: Any,
    ) -> list[Answer]:
        requests = [(texts, head or [self.prefix_token_id], tail) for texts, head, tail in requests]
        cutoff = sum(len(head) + len(tail) > self.max_length + 1 for _, head, tail in requests)
        if cutoff:
            logging.warning(
                "%d of %d requests exceed max_length=%d tokens: their contexts lose the beginning",
                cutoff,
                len(requests),
                self.max_length,
            )
        spans = [continuation_request(head, tail, self.max_length) for _, head, tail in requests]
        answers = []
        for (texts, _, _), scored in zip(requests, self._score(spans, disable_tqdm), strict=True):
            answer = float(scored.log_probs.sum(dtype=float)), bool(scored.greedy.all())
            self.cache_hook.add_partial("loglikelihood", texts, answer)
            answers.append(answer)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Sum the log-likelihood (nats) of each text, given the prefix token."""
        texts = [text for (text,) in (request.args for request in requests)]
        parts = [
            list(rolling_requests(self.tok_encode(text), self.prefix_token_id, self.max_length))
            for text in texts
        ]
        scores = iter(self._score(list(itertools.chain.from_iterable(parts)), disable_tqdm))
        totals = []
        for text, part in zip(texts, parts, strict=True):
            scored = itertools.islice(scores, len(part))
            totals.append(sum(float(each.log_probs.sum(dtype=float)) for each in scored))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate a text for each (context, generation_kwargs), cut at the strings of `until`.

        A sample depends only on `seed`, its context, and the number of equal contexts before it.
        """
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        texts = [""] * len(requests)
        with self._progress_bar(len(requests), disable_tqdm) as bar:
            for members in groups.values():
                contexts = [requests[number].args[0] for number in members]
                options = requests[members[0]].args[1]
                for number, text in zip(
                    members, self._generate_texts(contexts, options), strict=True
                ):
                    texts[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update()
        return texts

    def _generate_texts(self, contexts: Sequence[str], options: dict[str, Any]) -> Iterator[str]:
        tokenizer = self.model.tokenizer
        how, strings, longest = parse_generation_options(options, tokenizer)
        room = self.max_length - how.max_new_tokens
        if room < 1:
            raise ValueError(
                f"{how.max_new_tokens} new tokens leave no room for a prompt in max_length="
                f"{self.max_length}: set --gen_kwargs max_gen_toks=… or a larger max_length"
            )
        seen: Counter[str] = Counter()
        prompts, keys = [], []
        for context, tokens in zip(contexts, tokenizer.encode_batch(contexts), strict=True):
            prompts.append(tokens[-room:] if len(tokens) else np.array([self.prefix_token_id]))
            keys.append(seen[context])
            seen[context] += 1
        limits = [how.max_new_tokens] * len(prompts)
        if longest is not None:
            limits = [min(longest, self.max_length) - len(prompt) for prompt in prompts]
            if min(limits, default=1) < 1:
                raise ValueError(
                    f"generation option max_length={longest} leaves no room after a prompt of "
                    f"{max(map(len, prompts))} tokens: use max_gen_toks"
                )
        for first in range(0, len(prompts), _CHUNK):
            chunk = range(first, min(first + _CHUNK, len(prompts)))
            found: dict[int, np.ndarray] = {}
            for rooms in sorted({-(-limits[number] // _ROOM) for number in chunk}):
                some = [number for number in chunk if -(-limits[number] // _ROOM) == rooms]
                new = max(limits[number] for number in some) if longest is None else rooms * _ROOM
                with self._on_mesh():
                    made = generate(
                        self.model.config,
                        self.model.params,
                        [prompts[number] for number in some],
                        dataclasses.replace(how, max_new_tokens=new),
                        keys=[keys[number] for number in some],
                    )
                found.update(zip(some, made, strict=True))
            for number in chunk:
                yield cut_at_stops(found[number][: limits[number]], tokenizer, strings)

    def _score(self, requests: Sequence[Request], disable_tqdm: bool) -> list[Scored]:
        scores = []
        with self._progress_bar(len(requests), disable_tqdm) as bar, self._on_mesh():
            for scored in stream_scores(self.model.config, self.model.params, requests, _PASSES):
                scores.append(scored)
                bar.update()
        return scores

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def _progress_bar(self, total: int, disable: bool) -> tqdm.tqdm:
        disable = disable or not total
        return progress_bar(total=total, desc="ttoaa", disable=disable)
