"""The model `ttoaa` of lm-evaluation-harness; importing this module registers it.

    import lm_eval, ttoaa.interop.lm_eval.model
    lm_eval.simple_evaluate(model="ttoaa", model_args="workdir=runs/mine,step=90", tasks=["piqa"])

Windows, truncation and options follow the harness's torch model (0.4.13), so that both give the
same scores. Texts are tokenized as for every causal model of the harness: white space at the end of
a context moves to the continuation, whose tokens are those of the whole text after the context's.
Special tokens in a text are encoded as text. `longest` is the number of input tokens; the last
predicted token is not an input.
"""

import contextlib
import itertools
import json
import logging
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
from ttoaa.scoring.generation import generate
from ttoaa.scoring.length_buckets import Passes
from ttoaa.scoring.likelihood import Scored, stream_scores
from ttoaa.scoring.requests import Request, Sampling

_MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Synonyms for one option; the first one given counts."""
_DEFAULT_TOKENS = 256
_WITHOUT_EFFECT = {"num_beams": 1, "repetition_penalty": 1.0}


def continuation_request(
    context: Sequence[int], continuation: Sequence[int], longest: int
) -> Request:
    """Make the request that scores a continuation; a long context loses its beginning.

    Raises ValueError for a continuation without tokens, or with more than the model reads.
    """
    if not continuation:
        raise ValueError("a continuation has no token after its context: drop that item")
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
) -> tuple[Sampling, list[str]]:
    """Read (sampling options, strings that end a text) from a task's generation_kwargs.

    Generation stops at EOS or at the tokens of a string. A string can also appear in other tokens:
    then `cut_at_stops` cuts the text. Sample if `do_sample` is true or, without it, if there is a
    temperature. Raises ValueError for an unsupported option.
    """
    left = dict(options)
    until = left.pop("until", None) or []
    strings = [until] if isinstance(until, str) else [string for string in until if string]
    given = [left.pop(name, None) for name in _MAX_TOKENS_NAMES]
    temperature = left.pop("temperature", None)
    sampled = left.pop("do_sample", None)
    sampled = bool(temperature) if sampled is None else sampled
    top_k, top_p = left.pop("top_k", None), left.pop("top_p", None)
    seed = left.pop("seed", 0)
    for name, value in left.items():
        if value is not None and _WITHOUT_EFFECT.get(name) != value:
            raise ValueError(f"generation option {name}={value!r} is not supported: leave it out")
    stops = [tuple(map(int, tokenizer.encode(string))) for string in strings]
    return Sampling(
        max_new_tokens=int(next((n for n in given if n is not None), _DEFAULT_TOKENS)),
        temperature=float(1.0 if temperature is None else temperature) if sampled else 0.0,
        top_k=int(top_k) if top_k and sampled else None,
        top_p=float(top_p) if top_p and sampled else None,
        seed=int(seed),
        stop=((tokenizer.eos_id,), *(s for s in stops if s)),
    ), strings


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
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be a positive number, not {max_length}")
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

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **theirs: Any,
    ) -> list[Answer]:
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
        how, strings = parse_generation_options(options, tokenizer)
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
        for first in range(0, len(prompts), _CHUNK):
            part = slice(first, first + _CHUNK)
            with self._on_mesh():
                new = generate(
                    self.model.config, self.model.params, prompts[part], how, keys=keys[part]
                )
            yield from (cut_at_stops(tokens, tokenizer, strings) for tokens in new)

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
        return tqdm.tqdm(total=total, desc="ttoaa", disable=disable, dynamic_ncols=True)
