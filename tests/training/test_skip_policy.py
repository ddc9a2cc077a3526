import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttoaa.training import skip_policy
from ttoaa.training.skip_policy import Guard

NAN, INF = float("nan"), float("inf")


class Reference:
    """The rule, step by step in float64."""

    def __init__(self, rule):
        self.rule = rule
        self.loss, self.grad_norm = (collections.deque(maxlen=rule.window) for _ in range(2))

    def limit(self, seen):
        return np.mean(seen) + self.rule.sigmas * np.std(seen, ddof=1)

    def __call__(self, loss, grad_norm):
        accept = np.isfinite([loss, grad_norm]).all()
        if self.rule.sigmas is not None and len(self.loss) >= self.rule.window // 2:
            accept &= loss <= self.limit(self.loss) and grad_norm <= self.limit(self.grad_norm)
        if accept:
            self.loss.append(loss)
            self.grad_norm.append(grad_norm)
        return bool(accept)


def make_judge(rule):
    return jax.jit(lambda state, *values: skip_policy.judge(rule, state, *map(jnp.float32, values)))


def run(rule, pairs):
    """(accepted, state after) of every (loss, grad_norm)."""
    judge, state, told = make_judge(rule), skip_policy.init(rule), []
    for pair in pairs:
        accept, state = judge(state, *pair)
        told.append(bool(accept))
    return told, state


@pytest.mark.parametrize("window", [4, 7, 16])
@pytest.mark.parametrize("sigmas", [None, 1.5, 3])
def test_every_verdict_is_the_references(window, sigmas):
    rng = np.random.default_rng(window)
    pairs = rng.normal([3.0, 1.0], [0.1, 0.2], (200, 2)).astype(np.float32)
    pairs[rng.random(200) < 0.1, 0] += 1
    pairs[rng.random(200) < 0.1, 1] -= 5
    pairs[rng.random(200) < 0.05, 1] *= 4
    pairs[rng.random((200, 2)) < 0.03] = NAN
    pairs[rng.random((200, 2)) < 0.02] = INF
    rule = Guard("skip", sigmas, window)
    reference = Reference(rule)
    expected = [reference(*map(float, pair)) for pair in pairs]
    told, state = run(rule, pairs)
    assert told == expected and 10 < expected.count(False) < 150
    assert state["accepted"] == expected.count(True)
    assert state["skipped"] == expected.count(False)
    assert sorted(np.asarray(state["loss"])) == sorted(reference.loss)
    assert sorted(np.asarray(state["grad_norm"])) == sorted(reference.grad_norm)
    assert {leaf.dtype.name for leaf in state.values()} == {"float32", "int32"}


@pytest.mark.parametrize("watched", [0, 1])
def test_the_limit_is_so_many_sigmas_above_the_mean(watched):
    rule = Guard("skip", 6.0, 8)
    seen = [(3.0 + 0.1 * (i % 3), 1.0 + 0.05 * (i % 2)) for i in range(8)]
    mean, sigma = (
        f([pair[watched] for pair in seen]) for f in (np.mean, lambda x: np.std(x, ddof=1))
    )
    for factor, accepted in ((5.99, True), (6.01, False), (-100.0, True)):
        last = list(seen[-1])
        last[watched] = mean + factor * sigma
        assert run(rule, [*seen, last])[0][-1] is accepted, factor


@pytest.mark.parametrize(("before", "accepted"), [(3, True), (4, False)])
def test_nothing_is_a_leap_before_half_the_window_is_there(before, accepted):
    calm = [(3.0 + 0.01 * i, 1.0 + 0.01 * i) for i in range(before)]
    assert run(Guard("skip", 6.0, 8), [*calm, (50.0, 1.0)])[0][-1] is accepted


@pytest.mark.parametrize("bad", [(NAN, 1.0), (3.0, NAN), (INF, 1.0), (3.0, INF), (-INF, 1.0)])
@pytest.mark.parametrize("sigmas", [None, 6.0])
def test_what_is_not_finite_is_refused_from_the_first_step_on(bad, sigmas):
    told, state = run(Guard("skip", sigmas, 8), [bad, bad, (3.0, 1.0), bad])
    assert told == [False, False, True, False]
    counts = {name: int(state[name]) for name in ("accepted", "skipped", "in_a_row")}
    assert counts == {"accepted": 1, "skipped": 3, "in_a_row": 1}
    assert np.isfinite(state["loss"]).all() and np.isfinite(state["grad_norm"]).all()


def test_a_spike_does_not_hide_the_next_one():
    calm = [(3.0 + 0.1 * (i % 3), 1.0) for i in range(8)]
    assert run(Guard("skip", 6.0, 8), [*calm, (9.0, 1.0), (8.0, 1.0)])[0][-2:] == [False, False]


def test_without_sigmas_leaps_pass():
    assert all(run(Guard(window=8), [(3.0, 1.0)] * 20 + [(1e9, 1e9)])[0])


VALUES = {"loss": 9.0, "grad_norm": 1.5}


@pytest.mark.parametrize(
    ("rule", "most"),
    [
        (Guard("stop"), 0),
        (Guard("stop", 6.0, max_skips=5), 0),
        (Guard("skip", 6.0, max_skips=5), 5),
    ],
)
def test_the_run_ends_after_so_many_refused_in_a_row(rule, most):
    for in_a_row in range(most + 1):
        skip_policy.check(rule, 7, VALUES, in_a_row)
    with pytest.raises(ValueError, match=r"step 7 has loss 9, grad_norm 1.5") as error:
        skip_policy.check(rule, 7, VALUES, most + 1)
    text = str(error.value)
    assert "lower the peak learning rate" in text and "\n" not in text
    assert ("6 steps in a row" in text) is (rule.policy == "skip")
    assert ("6.0 sigmas" in text) is (rule.sigmas is not None)
