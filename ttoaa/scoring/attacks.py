"""Membership attacks: one score per text, higher for texts that look like training data.

Scores mean something only next to those of matched non-members, texts made by the same generator
that were never trained on: scoring.membership always takes both.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import gin
import numpy as np

from ttoaa.config_fields import PositiveShare, config_class
from ttoaa.scoring.requests import Request, sum_log_probs

if TYPE_CHECKING:  # experiments import this file, and planning them: both do without JAX
    from ttoaa.scoring.likelihood import Moments

Vector = Sequence[float] | np.ndarray

LOSS_ATTACK = "log_likelihood"
_MIN_STD = 1e-4
"""float32 cannot tell a smaller standard deviation from its own rounding."""


class Model(Protocol):
    """What an attack may ask of a checkpoint: any method of experiments.scorer.Scorer."""

    @property
    def tokenizer(self) -> Any: ...

    def log_likelihood(self, requests: Sequence[Request]) -> list[np.ndarray]: ...

    def vocabulary_moments(self, requests: Sequence[Request]) -> "list[Moments]": ...


@dataclasses.dataclass(frozen=True)
class AttackedTexts:
    """N texts under one checkpoint; what several attacks need is scored once."""

    model: Model
    texts: Sequence[str]
    requests: Sequence[Request]
    """(tokens int32[n], start): the text is tokens[start:], given the tokens before it."""

    @functools.cached_property
    def log_probs(self) -> list[np.ndarray]:
        """N of float32[n - start]: log-probability of every token, in nats."""
        return self.model.log_likelihood(self.requests)

    @functools.cached_property
    def moments(self) -> "list[Moments]":
        """N log-probabilities with the mean and standard deviation the model expects of each."""
        return self.model.vocabulary_moments(self.requests)


class Attack(Protocol):
    """A frozen dataclass that gin makes (docs/extending/attack.md)."""

    @property
    def name(self) -> str:
        """Letters, digits and '_': names the attack's outcomes."""
        ...

    def scores(self, attacked: AttackedTexts) -> Sequence[float]:
        """Return N finite scores, higher for likelier members."""
        ...


@gin.configurable
@config_class
class LossAttack:
    """The log-likelihood of the whole text (Yeom et al. 2018): compare texts of one length."""

    name: str = LOSS_ATTACK

    def scores(self, attacked: AttackedTexts) -> list[float]:
        return sum_log_probs(attacked.log_probs)


@gin.configurable
@config_class
class ZlibRatio:
    """Mean log-probability over the compressed size of the text in bytes (Carlini et al. 2021).

    The compressor stands for a reference model: it tells a text that is easy to predict from one
    that was learned.
    """

    name: str = "zlib_ratio"

    def scores(self, attacked: AttackedTexts) -> list[float]:
        pairs = zip(attacked.log_probs, attacked.texts, strict=True)
        return [zlib_ratio(log_probs, text) for log_probs, text in pairs]


@gin.configurable
@config_class
class MinK:
    """Min-K%: the mean of the `share` of tokens that are least likely (Shi et al. 2024)."""

    share: PositiveShare = 0.2
    name: str = "min_k"

    def scores(self, attacked: AttackedTexts) -> list[float]:
        return [min_k(log_probs, self.share) for log_probs in attacked.log_probs]


@gin.configurable
@config_class
class MinKPlus:
    """Min-K%++: Min-K% of log-probabilities in units of what the model expects (Zhang et al. 2024).

    Costs a scoring pass of its own.
    """

    share: PositiveShare = 0.2
    name: str = "min_k_plus"

    def scores(self, attacked: AttackedTexts) -> list[float]:
        return [min_k_plus(*each, share=self.share) for each in attacked.moments]


def zlib_ratio(log_probs: Vector, text: str) -> float:
    """Return the mean log-probability over the compressed size of `text` in bytes of UTF-8."""
    if not text:
        raise ValueError("the zlib attack needs the text that was scored")
    return float(_vector(log_probs).mean()) / len(zlib.compress(text.encode()))


def min_k(log_probs: Vector, share: float = 0.2) -> float:
    """Return the mean of the lowest `share` of log-probabilities, rounded down, at least one."""
    return _mean_of_lowest(_vector(log_probs), share)


def min_k_plus(log_probs: Vector, means: Vector, stds: Vector, share: float = 0.2) -> float:
    """Return Min-K% of the standard scores (log p - mean) / std.

    `means` [n] and `stds` [n] are those of the log-probability of a token drawn from the model
    itself at the position. The smallest std that counts is 1e-4.
    """
    log_probs, means, stds = (_vector(each) for each in (log_probs, means, stds))
    if not log_probs.shape == means.shape == stds.shape:
        raise ValueError("log-probabilities, means and stds must be of the same tokens")
    if (stds < 0).any():
        raise ValueError("a std must not be negative")
    return _mean_of_lowest((log_probs - means) / np.maximum(stds, _MIN_STD), share)


def check_attacks(attacks: Sequence[Attack], where: str) -> None:
    """Raise ValueError for what is not an Attack, or a name that is malformed or occurs twice."""
    for attack in attacks:
        name = None if isinstance(attack, type) else getattr(attack, "name", None)
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{where} holds {attack!r}, which is not an attack with a name of letters, digits "
                "and '_': write @Name() with the parentheses"
            )
    names = [attack.name for attack in attacks]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{where} must hold attacks of distinct names, at least one, not {names}")


def _mean_of_lowest(scores: np.ndarray, share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(f"the share of tokens must lie in (0, 1], not {share}")
    # 0.29 * 100 is 28.999… in binary.
    count = max(1, math.floor(share * len(scores) + 1e-9))
    return float(np.partition(scores, count - 1)[:count].mean())


def _vector(values: Vector) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError("an attack needs one finite number per token, and at least one token")
    return array
