import math

import numpy as np
import pytest
from scipy import integrate, stats

from ttoaa.scoring.membership import exposure, fit_candidates, sampled_exposure


def skewed(n, seed=0, shape=3.0):
    """Scores whose losses are skew-normal, in nats."""
    rng = np.random.default_rng(seed)
    return -stats.skewnorm.rvs(shape, 130, 6, size=n, random_state=rng)


def test_ranks_by_hand():
    others = np.array([-5.0, -3.0, -9.0, -7.0, -1.0, -4.0, -8.0])  # a space of 8
    first, third, last = exposure(np.array([-0.5, -3.5, -10.0]), others)
    assert (first, last) == (3.0, 0.0)
    assert third == pytest.approx(3 - math.log2(3))


def test_ties_count_against_the_secret():
    assert exposure(np.array([0.0]), np.zeros(15)) == [0.0]
    assert exposure(np.array([2.0]), np.array([2.0, 1.0, 1.0])) == [1.0]


def test_a_model_that_knows_nothing_exposes_its_mean():
    rng = np.random.default_rng(0)
    found = np.concatenate(
        [exposure(rng.normal(size=20), rng.normal(size=1023)) for _ in range(200)]
    )
    exact = 10 - np.log2(np.arange(1, 1025)).mean()  # every rank of 1,024 alike
    # Twenty secrets share their candidates, whose own draw moves all of them: 200 groups count.
    groups = found.reshape(200, 20).mean(1)
    assert abs(found.mean() - exact) < 4 * stats.sem(groups)
    assert exact == pytest.approx(math.log2(math.e), abs=0.01)


def test_a_sample_extrapolates_what_the_whole_space_shows():
    """2**20 candidates: all of them, and what a fit to 4,000 of them makes of it."""
    whole = skewed(2**20 - 1)
    best = np.sort(whole)[::-1]
    ranks = np.array([2**16, 2**12, 2**6])
    secrets = (best[ranks - 2] + best[ranks - 1]) / 2
    exact = exposure(secrets, whole)
    assert exact == pytest.approx([4, 8, 14])
    sample = np.random.default_rng(1).choice(whole, 4000, replace=False)
    fit = fit_candidates(sample)
    assert fit.fits and fit.n == 4000
    assert sampled_exposure(secrets, fit, 20) == pytest.approx(exact, rel=0.1)
    assert exposure(secrets, sample)[2] <= math.log2(4001) < 12  # where a count must stop


@pytest.mark.parametrize("shape", [-4.0, 0.0, 4.0])
def test_the_tail_is_the_integral_of_the_density(shape):
    fit = fit_candidates(skewed(3000, 2, shape))
    density = stats.skewnorm(fit.shape, fit.location, fit.scale).pdf
    for share in (1e-9, 1e-4, 0.1, 0.9):  # of candidates at least as likely
        loss = stats.skewnorm.ppf(share, fit.shape, fit.location, fit.scale)
        tail = integrate.quad(density, loss - 80, loss, epsabs=0, epsrel=1e-9, limit=400)[0]
        assert tail == pytest.approx(share, rel=1e-3)
        assert fit.log2_tail(np.array([-loss]))[0] == pytest.approx(np.log2(tail), abs=1e-3)


def test_the_fit_is_at_least_as_likely_as_the_truth():
    scores = skewed(500, 3)
    fit = fit_candidates(scores)
    likelihood = stats.skewnorm.logpdf
    found = likelihood(-scores, fit.shape, fit.location, fit.scale).sum()
    assert found >= likelihood(-scores, 3.0, 130, 6).sum()
    distance = stats.kstest(-scores, "skewnorm", (fit.shape, fit.location, fit.scale)).statistic
    assert fit.distance == pytest.approx(distance)


def test_units_do_not_matter():
    scores = skewed(300, 4)
    secrets = np.quantile(scores, [0.5, 0.99, 1.0]) + 0.1
    plain = sampled_exposure(secrets, fit_candidates(scores), 30)
    far = sampled_exposure(1e4 * secrets - 7e6, fit_candidates(1e4 * scores - 7e6), 30)
    assert far == pytest.approx(plain, abs=1e-3)


def test_exposure_stays_within_the_space():
    fit = fit_candidates(skewed(300))
    assert list(sampled_exposure(np.array([1e6, -1e6]), fit, 17.0)) == [17.0, 0.0]


def test_a_gross_misfit_shows():
    rng = np.random.default_rng(5)
    two_humps = np.concatenate([rng.normal(-130, 2, 400), rng.normal(-90, 2, 400)])
    assert not fit_candidates(two_humps).fits


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: exposure(np.array([]), np.ones(3)), "non-empty vector"),
        (lambda: exposure(np.ones(3), np.array([np.nan])), "without nan"),
        (lambda: fit_candidates(skewed(99)), "needs 100 candidates"),
        (lambda: fit_candidates(np.ones(200)), "that differ"),
        (lambda: fit_candidates(np.append(skewed(200), -np.inf)), "finite"),
        (lambda: sampled_exposure(np.ones(1), fit_candidates(skewed(100)), 0), "log2_space"),
        (lambda: sampled_exposure(np.ones(1), fit_candidates(skewed(100)), np.inf), "log2_space"),
    ],
)
def test_bad_input_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
