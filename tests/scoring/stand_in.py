"""The little of lm-evaluation-harness that ttoaa.harness.model builds on, for where it is missing.

Only what its documentation promises of a TemplateLM (0.4.13).
"""

import abc
import dataclasses
import types

REGISTERED = {}


@dataclasses.dataclass
class Instance:
    args: tuple


class Hook:
    """What the harness keeps answers with."""

    def __init__(self):
        self.kept = []

    def add_partial(self, kind, arguments, answer):
        self.kept.append((kind, arguments, answer))


class TemplateLM(abc.ABC):
    def __init__(self):
        self.cache_hook = Hook()

    @property
    @abc.abstractmethod
    def eot_token_id(self): ...

    @property
    def prefix_token_id(self):
        return self.eot_token_id

    @abc.abstractmethod
    def tok_encode(self, string, add_special_tokens=None, **kwargs): ...

    @abc.abstractmethod
    def _loglikelihood_tokens(self, requests, **kwargs): ...

    @abc.abstractmethod
    def loglikelihood_rolling(self, requests, disable_tqdm=False): ...

    @abc.abstractmethod
    def generate_until(self, requests, disable_tqdm=False): ...

    def loglikelihood(self, requests, disable_tqdm=False):
        """White space at a context's end is the continuation's; no context is the prefix token."""
        found = []
        for context, continuation in (request.args for request in requests):
            if context:
                head = context.rstrip()
                whole = self.tok_encode(context + continuation)
                ids = self.tok_encode(head)
                pair = ids, whole[len(ids) :]
            else:
                pair = [self.prefix_token_id], self.tok_encode(continuation)
            found.append(((context, continuation), *pair))
        return self._loglikelihood_tokens(found, disable_tqdm=disable_tqdm)


def register_model(name):
    def decorate(cls):
        REGISTERED[name] = cls
        return cls

    return decorate


def modules():
    """By name, for sys.modules."""
    model, registry = (
        types.ModuleType("lm_eval.api.model"),
        types.ModuleType("lm_eval.api.registry"),
    )
    model.TemplateLM, registry.register_model = TemplateLM, register_model
    packages = {name: types.ModuleType(name) for name in ("lm_eval", "lm_eval.api")}
    return {**packages, "lm_eval.api.model": model, "lm_eval.api.registry": registry}
