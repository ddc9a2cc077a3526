"""How often intervals cover and tests err, by simulation: python -m tests.statistics.coverage

    python -m tests.statistics.coverage --trials=400       (some five minutes of one core)
    python -m tests.statistics.coverage --only='bootstrap mean' --trials=4000

Prints one JSON line. `coverage` should be 0.95 (an equivalence's interval: 0.9), `error` at most
0.05 and `power` 0.8; each is [share, its Monte-Carlo standard error]. `size` is the largest error
of an equivalence of shares over all shares at the margin, without simulation. Data are of the kinds
that outcomes have: answers right or wrong, skewed losses, likelihoods of members and others; some
are hard on purpose. Every trial is seeded by its number.
"""

import json
import math

import numpy as np
from absl import app, flags
from scipy import stats

from ttoaa.scoring.membership import membership_estimates
from ttoaa.statistics.bootstrap import (
    across_seeds,
    binomial_interval,
    bootstrap,
    bootstrap_mean,
    difference_in_differences,
    paired_estimate,
)
from ttoaa.statistics.equivalence import (
    binary_equivalence,
    paired_equivalence,
    two_sample_equivalence,
)
from ttoaa.statistics.multiplicity import benjamini_hochberg, holm
from ttoaa.statistics.permutation import paired_max_z, two_sample_max_z
from ttoaa.statistics.power import paired_effect, two_sample_effect

_ONLY = flags.DEFINE_string("only", "", "measure only what has this in its name")
_TRIALS = flags.DEFINE_integer("trials", 1000, "simulated studies of each kind", lower_bound=10)

COVERAGE, ERROR, POWER = {}, {}, {}
"""Named trials: functions of a generator and a key, true where it covered, erred or found."""


def into(table, name):
    def add(trial):
        table[name] = trial
        return trial

    return add


def within(truth, interval):
    return interval[0] <= truth <= interval[1]


def skewed(rng, shape):
    """Of mean 0 and deviation 1: a loss has a long upper tail."""
    return rng.standard_exponential(shape) - 1


DRAWS = {
    "normal": (np.random.Generator.standard_normal, 0.0),
    "exponential": (np.random.Generator.standard_exponential, 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), math.exp(0.5)),
}


def means(n, kind):
    draw, mean = DRAWS[kind]

    @into(COVERAGE, f"bootstrap mean, {kind}, n={n}")
    def covers(rng, key):
        return within(mean, bootstrap_mean(draw(rng, n), key)[1:])


def pairs(n):
    @into(COVERAGE, f"paired difference, skewed, n={n}")
    def covers(rng, key):
        hard = skewed(rng, n)
        one = paired_estimate("loss", str(key), hard + skewed(rng, n) + 0.5, hard, 1)
        return within(0.5, (one.difference_ci_low, one.difference_ci_high))

    @into(COVERAGE, f"paired difference of shares, 8% gained, 3% lost, n={n}")
    def covers_shares(rng, key):
        d = rng.choice([1, -1, 0], n, p=[0.08, 0.03, 0.89])
        control = np.where(d, d < 0, rng.random(n) < 0.4).astype(float)
        one = paired_estimate("right", str(key), control + d, control, 1)
        return within(0.05, (one.difference_ci_low, one.difference_ci_high))


def shares(n, share):
    @into(COVERAGE, f"Clopper-Pearson, share {share}, n={n}")
    def covers(rng, key):
        return within(share, binomial_interval(int(rng.binomial(n, share)), n))


def members(n_in, n_out, shift):
    true_auc = stats.norm.cdf(shift / math.sqrt(2))

    @into(COVERAGE, f"AUC {true_auc:.3f}, {n_in} members, {n_out} non-members")
    def covers_auc(rng, key):
        groups = rng.normal(shift, 1, n_in), rng.normal(0, 1, n_out)
        auc, _ = membership_estimates(*groups, *groups, str(key))
        return within(true_auc, (auc.ci_low, auc.ci_high))

    true_tpr = stats.norm.sf(stats.norm.isf(0.01) - shift)

    @into(COVERAGE, f"TPR at 1% FPR {true_tpr:.3f}, {n_in} members, {n_out} non-members")
    def covers_tpr(rng, key):
        groups = rng.normal(shift, 1, n_in), rng.normal(0, 1, n_out)
        _, tpr = membership_estimates(*groups, *groups, str(key))
        return within(true_tpr, (tpr.ci_low, tpr.ci_high))


def errors_of_a_mean(own, noise, n=8, intervals=60):
    """The logarithm of the RMS error of a mean of n facts, of what n others would have: as
    `experiments.acquisition.estimates` has it.

    Facts share a trajectory; each has its own level and noise.
    """
    course = 0.8 * np.sqrt(2) * np.sin(np.arange(intervals) / 6)

    def facts(rng):
        level, rest = rng.normal(0, own, (n, 1)), rng.normal(0, noise, (n, intervals))
        return course + level + rest

    def statistic(off_NxI):
        def log_rms(counts_RxN):
            mean_RxI = counts_RxN @ off_NxI / n
            return 0.5 * np.log(np.mean(mean_RxI**2, 1, keepdims=True))

        return log_rms

    def value(rng):
        return float(statistic(facts(rng))(np.ones((1, n)))[0, 0])

    rng = np.random.default_rng(0)
    truth = np.mean([value(rng) for _ in range(4000)])
    for centred in (False, True):
        how = "centred" if centred else "plain"

        @into(COVERAGE, f"log RMSE of a mean of {n}, levels {own}, noise {noise}, {how}")
        def covers(rng, key, centred=centred):
            bounds = bootstrap([n], statistic(facts(rng)), key, centred=centred)[1:]
            return within(truth, [bound[0] for bound in bounds])


for kind in DRAWS:
    for n in (6, 10, 50, 200):
        means(n, kind)
errors_of_a_mean(0.7, 0.5)
errors_of_a_mean(0.5, 1.5)
errors_of_a_mean(0.2, 2.0)
errors_of_a_mean(0.7, 0.5, n=6)
errors_of_a_mean(0.2, 2.0, n=6)
pairs(30)
pairs(200)
shares(50, 0.02)
shares(200, 0.3)
members(100, 500, 0.0)
members(100, 500, 1.0)
members(30, 1000, 3.0)


@into(COVERAGE, "difference in differences, skewed, n=60 and 100")
def covers_groups(rng, key):
    hard_a, hard_b = skewed(rng, 60), skewed(rng, 100)
    run_a, run_b = hard_a + skewed(rng, 60) + 0.7, hard_b + skewed(rng, 100) + 0.2
    one = difference_in_differences("loss", str(key), run_a, hard_a, run_b, hard_b)
    return within(0.5, (one.difference_ci_low, one.difference_ci_high))


def nearly_all(n_a, n_b, gained, lost):
    @into(COVERAGE, f"the same of shares, {gained:.0%} gained, {lost:.0%} lost, n={n_a} and {n_b}")
    def covers(rng, key):
        a, b = changed(rng, n_a, gained, lost), changed(rng, n_b, 0.01, 0.0)
        groups = [x.astype(float) for x in (*a, *b)]
        one = difference_in_differences("right", str(key), *groups)
        return within(gained - lost - 0.01, (one.difference_ci_low, one.difference_ci_high))


nearly_all(25, 25, 0.9, 0.1)
nearly_all(25, 25, 0.98, 0.02)
nearly_all(100, 400, 0.3, 0.05)


@into(COVERAGE, "t over 4 seeds")
def covers_seeds(rng, key):
    return within(1.0, across_seeds(rng.normal(1.0, 0.3, 4))[1:])


@into(COVERAGE, "90% interval of a paired equivalence, n=30")
def covers_equivalence(rng, key):
    found = paired_equivalence(rng.normal(0.2, 1, 30), 1.0)
    return within(0.2, (found.low, found.high))


@into(COVERAGE, "90% interval of an equivalence of shares, 4% gained, 1% lost, n=400")
def covers_binary(rng, key):
    found = binary_equivalence(*changed(rng, 400, 0.04, 0.01), 0.05)
    return within(0.03, (found.low, found.high))


def changed(rng, n, gained, lost):
    d = rng.choice([1, -1, 0], n, p=[gained, lost, max(0, 1 - gained - lost)])
    return d > 0, d < 0


@into(ERROR, "Holm, family-wise, 40 true of 60")
def errs_holm(rng, key):
    return (holm(p_values(rng))[:40] < 0.05).any()


@into(ERROR, "Benjamini-Hochberg, share of false findings, 40 true of 60 (0.033 expected)")
def errs_discovery(rng, key):
    found = benjamini_hochberg(p_values(rng)) < 0.05
    return found[:40].sum() / max(1, found.sum())


def p_values(rng):
    return stats.norm.sf(rng.normal(np.repeat([0, 2.5], [40, 20]), 1))


@into(ERROR, "max |z|, pairs, family-wise, 9 correlated of 10, n=20")
def errs_paired(rng, key):
    x = (rng.standard_t(4, (20, 1)) + rng.normal(size=(20, 10))) * np.arange(1, 11)
    x[:, 0] += 2
    return (paired_max_z(x, key, permutations=999).p_K[1:] <= 0.05).any()


@into(ERROR, "max |z|, two groups of 5 seeds, family-wise, 9 correlated of 10")
def errs_groups(rng, key):
    x = rng.normal(size=(10, 1)) + rng.normal(size=(10, 10))
    x[:5, 0] += 5
    return (two_sample_max_z(x[:5], x[5:], key, permutations=999).p_K[1:] <= 0.05).any()


@into(ERROR, "max |z|, skewed groups of 30 and 60 of deviations 2 and 1, one outcome")
def errs_unequal(rng, key):
    groups = 2 * skewed(rng, (30, 1)), skewed(rng, (60, 1))
    return two_sample_max_z(*groups, key, permutations=999).p_K[0] <= 0.05


@into(ERROR, "paired equivalence at the margin, n=10")
def errs_equivalence(rng, key):
    return paired_equivalence(rng.normal(2.0, 1, 10), 2.0).equivalent


@into(ERROR, "two-sample equivalence at the margin, n=5 and 12, deviations 2 and 1")
def errs_welch(rng, key):
    groups = rng.normal(4.0, 2, 5), rng.normal(0, 1, 12)
    return two_sample_equivalence(*groups, 4.0).equivalent


def margins(n, lost):
    @into(ERROR, f"equivalence of shares at the margin of 2%, {lost:.0%} lost, n={n}")
    def errs(rng, key):
        return binary_equivalence(*changed(rng, n, lost + 0.02, lost), 0.02).equivalent

    @into(ERROR, f"(not to be used) the same by t tests, {lost:.0%} lost, n={n}")
    def errs_by_t(rng, key):
        run, control = changed(rng, n, lost + 0.02, lost)
        return paired_equivalence(run.astype(float) - control, 0.02).equivalent


margins(200, 0.0)
margins(500, 0.02)


@into(POWER, "paired t test, n=12")
def finds_pairs(rng, key):
    d = rng.normal(paired_effect(1.0, 12), 1, 12)
    return stats.ttest_1samp(d, 0).pvalue < 0.05


@into(POWER, "t test of 3 and 5 seeds")
def finds_seeds(rng, key):
    groups = rng.normal(two_sample_effect(1.0, 3, 5), 1, 3), rng.normal(0, 1, 5)
    return stats.ttest_ind(*groups).pvalue < 0.05


SIZES = [*((n, margin) for n in (5, 10, 20) for margin in (0.2, 0.4, 0.7)), (300, 0.02)]


def largest_error(n, margin):
    """The largest chance of a wrong "equivalent" at the margin, over the shares of lost items.

    By the definition: the multinomial chance of every result that is called equivalent.
    """
    results = np.stack(np.meshgrid(range(n + 1), range(n + 1)), -1).reshape(-1, 2)
    results = results[results.sum(1) <= n]
    near = np.abs(results[:, 0] - results[:, 1]) < n * margin  # others are never equivalent
    counts = np.c_[results, n - results.sum(1)][near]
    wrong = np.array([judged_equivalent(row, margin) for row in counts], bool)
    lost = np.linspace(0, 1, 101) ** 2 * (1 - margin) / 2
    shares = np.stack([lost + margin, lost, np.maximum(0, 1 - margin - 2 * lost)], 1)
    return max(float(stats.multinomial.pmf(counts[wrong], n, row).sum()) for row in shares)


def judged_equivalent(counts, margin):
    items = np.repeat([1, -1, 0], counts)
    return binary_equivalence(items > 0, items < 0, margin).equivalent


def rate(name, trial, trials):
    seed = [ord(letter) for letter in name]
    values = [float(trial(np.random.default_rng([*seed, k]), k)) for k in range(trials)]
    return [round(float(np.mean(values)), 4), round(float(stats.sem(values)), 4)]


def main(argv):
    trials = _TRIALS.value
    tables = {"coverage": COVERAGE, "error": ERROR, "power": POWER}
    found = {
        title: {name: rate(name, table[name], trials) for name in table if _ONLY.value in name}
        for title, table in tables.items()
    }
    found["size"] = {
        name: round(largest_error(n, margin), 4)
        for n, margin in SIZES
        if _ONLY.value in (name := f"equivalence of shares, margin {margin}, n={n}")
    }
    print(json.dumps({"trials": trials, **found}))


if __name__ == "__main__":
    app.run(main)
