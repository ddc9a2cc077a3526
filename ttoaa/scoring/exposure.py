"""Exposure of a secret, in bits: how much of guessing it the model saves (Carlini et al. 2019).

A secret is one of a space of candidates R, made alike. Scores are log-likelihoods, higher for what
the model finds likelier. Exposure is log2 |R| - log2 rank: 0 for the least likely candidate,
log2 |R| for the likeliest, and log2 e = 1.44 in the mean where the model knows nothing.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from ttoaa.scoring.membership import checked_scores

_FEWEST = 100


def exposure(secrets: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """float[S]: log2 |R| - log2 rank of each secret in R, itself and the given candidates.

    Assumes nothing where the candidates are all others there are. Where they are a random sample of
    them, it is an estimate for as far as the sample sees: a secret above all of it has
    log2(candidates + 1), and then read "at least". A candidate that ties with the secret counts as
    found before it, so that a model which cannot tell them apart exposes none.

    Raises ValueError for scores that are none, nan, or not a vector.
    """
    secrets, candidates = checked_scores(secrets), np.sort(checked_scores(candidates))
    rank = 1 + len(candidates) - np.searchsorted(candidates, secrets, "left")
    return np.log2(len(candidates) + 1) - np.log2(rank)


@dataclasses.dataclass(frozen=True)
class CandidateFit:
    """A skew-normal distribution of candidates' losses (minus their scores)."""

    shape: float
    location: float
    scale: float
    distance: float
    """Kolmogorov-Smirnov: largest gap between the sample's distribution and the fit."""
    n: int

    @property
    def fits(self) -> bool:
        """The gap is no larger than chance makes it, for a distribution that was not fitted.

        A fit comes closer to its own sample, so that this finds gross misfits alone (5% level).
        """
        return bool(stats.kstwo.sf(self.distance, self.n) > 0.05)

    def log2_tail(self, scores: np.ndarray) -> np.ndarray:
        """log2 of the share of candidates that are at least as likely; -inf beyond doubles."""
        losses = -np.asarray(scores, float)
        share = stats.skewnorm.cdf(losses, self.shape, self.location, self.scale)
        with np.errstate(divide="ignore"):
            return np.log2(share)


def fit_candidates(candidates: np.ndarray) -> CandidateFit:
    """The likeliest skew-normal for a random sample of candidates, 100 at least.

    Raises ValueError for fewer, for scores without spread, infinite or nan.
    """
    losses = -checked_scores(candidates)
    if len(losses) < _FEWEST or not np.isfinite(losses).all() or np.ptp(losses) == 0:
        raise ValueError(
            f"a fit needs {_FEWEST} candidates with finite scores that differ: `exposure` takes any"
        )
    # In standard units, where the fit's search begins; a loss in nats can be far from them.
    center, unit = losses.mean(), losses.std()
    shape, location, scale = stats.skewnorm.fit((losses - center) / unit)
    fitted = (float(shape), float(center + unit * location), float(unit * scale))
    distance = stats.kstest(losses, stats.skewnorm(*fitted).cdf).statistic
    return CandidateFit(*fitted, float(distance), len(losses))


def sampled_exposure(secrets: np.ndarray, fit: CandidateFit, log2_space: float) -> np.ndarray:
    """float[S]: exposure in a space of 2**log2_space candidates, from a fit to a sample of them.

    Assumes that the sample is random, that losses are skew-normal, and, for a secret beyond the
    sample, that they are so where none was seen: bits above log2 of the sample's size are
    extrapolated. Look at `fit.fits`, and give `exposure` beside it. At most log2_space.
    """
    if not (log2_space > 0 and math.isfinite(log2_space)):
        raise ValueError(f"log2_space is the space's size in bits, above 0, not {log2_space}")
    return np.clip(-fit.log2_tail(checked_scores(secrets)), 0, log2_space)
