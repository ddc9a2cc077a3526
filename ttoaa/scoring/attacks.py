"""Scores that tell members of the training data from others, higher for likelier members.

Each is made of one text's log-probabilities [n], one a token that was scored, as `log_likelihoods`
gives them. Scores mean something only against those of matched non-members, texts made by the same
generator that were never trained on: `membership` takes both, always.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

Vector = Sequence[float] | np.ndarray

_LEAST_STD = 1e-4
"""Below it, float32 cannot tell a distribution's spread from its own rounding."""


def loss(log_probs: Vector) -> float:
    """The loss attack: minus the mean loss (Yeom et al. 2018)."""
    return float(_checked(log_probs).mean())


def calibrated(log_probs: Vector, reference_log_probs: Vector) -> float:
    """Mean log-probability above that under a reference model which did not see the text.

    Takes out how hard a text is for anyone (Watson et al. 2022). The control run is the reference.
    With members and non-members of one generator there is little to take out, and the reference's
    own noise comes in.
    """
    run, reference = _checked(log_probs), _checked(reference_log_probs)
    if run.shape != reference.shape:
        sizes = f"{len(run)} and {len(reference)}"
        raise ValueError(f"run and reference must score the same tokens, not {sizes}")
    return float((run - reference).mean())


def zlib_ratio(log_probs: Vector, text: str) -> float:
    """Mean log-probability by the compressed length of `text` in bytes of UTF-8.

    Carlini et al. 2021: the compressor stands for a reference model; it tells a text that is
    predictable from one that was learnt.
    """
    if not text:
        raise ValueError("the zlib attack needs the text that was scored")
    return loss(log_probs) / len(zlib.compress(text.encode()))


def min_k(log_probs: Vector, share: float = 0.2) -> float:
    """Min-K%: the mean of the `share` of tokens that surprise most (Shi et al. 2024).

    A text that was not seen has some token that was not foreseen. At least one token counts, and
    the share is rounded down.
    """
    return _lowest(_checked(log_probs), share)


def min_k_plus(log_probs: Vector, means: Vector, stds: Vector, share: float = 0.2) -> float:
    """Min-K%++: Min-K% of standard scores (log p - mean) / std (Zhang et al. 2024).

    Mean [n] and std [n] are those of the log-probability of a token drawn from the model itself at
    the position (`moments`). Where nothing is left to chance, the least std is 1e-4.
    """
    log_probs, means, stds = (_checked(each) for each in (log_probs, means, stds))
    if not log_probs.shape == means.shape == stds.shape:
        raise ValueError("log-probabilities, means and stds must be of the same tokens")
    if (stds < 0).any():
        raise ValueError("a std is never negative")
    return _lowest((log_probs - means) / np.maximum(stds, _LEAST_STD), share)


def _lowest(scores: np.ndarray, share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(f"the share of tokens must lie in (0, 1], not {share}")
    # 0.29 * 100 is 28.999… in binary.
    count = max(1, math.floor(share * len(scores) + 1e-9))
    return float(np.partition(scores, count - 1)[:count].mean())


def _checked(values: Vector) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError("an attack needs one finite number a token, and one token at least")
    return array
