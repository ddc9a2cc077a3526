import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ttoaa.training.lr_schedules import ConstantLinear, Cosine, CosineThenLinear

PAPER = CosineThenLinear(4e-4, 4_000, horizon=5e12 / 2_097_152, decay_from=90_000)


def rates(schedule, steps):
    over = schedule.over(steps)
    return np.array([float(over(u)) for u in range(steps + 1)])


def test_constant_then_linear_by_hand():
    expected = [0.5, 1, 1.5, 2, *[2.0] * 12, 2, 1.5, 1, 0.5, 0]
    schedule = ConstantLinear(peak=2.0, warmup=4, decay=0.2)
    np.testing.assert_allclose(rates(schedule, 20), expected, rtol=1e-6)


def test_cosine_by_hand():
    rises = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1]
    falls = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 15)) / 2 for t in range(1, 16)]
    expected = 3 * np.array([*rises, *falls, 0.1])  # the last one is after the run
    np.testing.assert_allclose(rates(Cosine(peak=3.0, warmup=5), 20), expected, rtol=1e-6)
    assert expected[4] == 3 > expected[5] and math.isclose(expected[19], 0.3)


def olmo(step):
    """CosWithWarmup of olmo/optim.py for OLMo-2 1B, of `step` batches seen, in float64."""
    warmup, t_max = 8_388_608_000 / 2_097_152, 5e12 / 2_097_152
    if step < warmup:
        return 4e-4 * step / warmup
    turn = math.pi * (step - warmup) / (t_max - warmup)
    return 4e-5 + (4e-4 - 4e-5) * (1 + math.cos(turn)) / 2


def test_the_papers_schedule_by_hand():
    last = olmo(90_000)
    assert round(last / 4e-4, 4) == 0.9971
    expected = {
        **{u: olmo(u + 1) for u in (0, 1, 3_998, 3_999, 4_000, 50_000, 89_999)},
        90_000: last,
        90_001: last * 0.9999,
        95_000: last / 2,
        99_999: last / 10_000,
    }
    assert math.isclose(expected[0], 1e-7) and expected[3_999] == 4e-4 > expected[4_000]
    rate = jax.jit(PAPER.over(100_000))
    ours = [float(rate(jnp.int32(u))) for u in expected]
    np.testing.assert_allclose(ours, list(expected.values()), rtol=2e-6)


def test_the_papers_schedule_is_constant_then_linear_but_for_three_thousandths():
    toy = ConstantLinear(peak=4e-4, warmup=4_000, decay=0.1).over(100_000)
    at = np.arange(0, 100_000, 500)
    ours, theirs = (np.asarray(jax.vmap(s)(at)) for s in (PAPER.over(100_000), toy))
    np.testing.assert_allclose(ours, theirs, rtol=0.003)


def test_a_cosine_that_ends_where_the_run_does_and_one_without_warmup():
    whole = CosineThenLinear(1.0, 2, horizon=6.0, decay_from=6)
    falls = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    expected = [0.5, *falls, 0.1, 0.05]
    np.testing.assert_allclose(rates(whole, 8)[:8], expected, rtol=1e-6)
    assert rates(CosineThenLinear(1.0, 0, 1e9, 0), 4).tolist() == [1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("schedule", "steps", "first", "last"),
    [
        (ConstantLinear(1.0, warmup=0, decay=0.5), 10, 1.0, 0.2),
        (ConstantLinear(1.0, warmup=1, decay=0.1), 10, 1.0, 1.0),
        (ConstantLinear(1.0, warmup=0, decay=0), 10, 1.0, 1.0),
        (ConstantLinear(1.0, warmup=0, decay=1), 10, 1.0, 0.1),
        (ConstantLinear(1.0, warmup=5, decay=0.5), 10, 0.2, 0.2),
        (Cosine(1.0, warmup=0, final=0.0), 1, 0.0, 0.0),
        (Cosine(1.0, warmup=9), 10, 1 / 9, 0.1),
        (Cosine(1.0, warmup=9, final=1.0), 10, 1 / 9, 1.0),
        (CosineThenLinear(1.0, 0, 1e9, 0), 10, 1.0, 0.1),
        (CosineThenLinear(1.0, 9, 10.0, 9), 10, 1 / 9, 1.0),
    ],
)
def test_first_and_last_update_at_the_edges(schedule, steps, first, last):
    ours = rates(schedule, steps)
    np.testing.assert_allclose(ours[[0, steps - 1]], [first, last], rtol=1e-6)
    assert np.isfinite(ours).all() and (ours <= 1 + 1e-6).all()


def olmo_cosine(step, peak, warmup, steps, final):
    """CosWithWarmup of olmo/optim.py after `step` batches, in float64."""
    if step < warmup:
        return peak * step / warmup
    if step >= steps:
        return peak * final
    turn = math.pi * (step - warmup) / (steps - warmup)
    return peak * (final + (1 - final) * (1 + math.cos(turn)) / 2)


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (1, 20), (5, 20), (19, 20), (7, 500)])
def test_every_rate_of_a_cosine_is_olmos_and_optaxs(warmup, steps, final):
    ours = rates(Cosine(3e-3, warmup, final), steps)[:steps]
    olmo = [olmo_cosine(u + 1, 3e-3, warmup, steps, final) for u in range(steps)]
    np.testing.assert_allclose(ours, olmo, rtol=2e-6, atol=1e-10)
    theirs = optax.warmup_cosine_decay_schedule(0.0, 3e-3, warmup, steps, 3e-3 * final)
    if warmup < steps - 1:
        optaxs = [float(theirs(u + 1)) for u in range(steps)]
        np.testing.assert_allclose(ours, optaxs, rtol=2e-6, atol=1e-10)
    assert ours[-1] == np.float32(3e-3) * np.float32(final)


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(ConstantLinear(1.0, 8, decay=0.5), 10), (Cosine(1.0, 10), 10), (ConstantLinear(1.0, 2), 2)],
)
def test_a_schedule_that_does_not_fit_the_run_is_refused(schedule, steps):
    with pytest.raises(ValueError, match=rf"do not fit a run of {steps} steps"):
        schedule.over(steps)


def test_a_run_that_ends_before_the_linear_decay_is_refused():
    with pytest.raises(
        ValueError, match="decay_from 90000 leaves no decay in a run of 90000 steps"
    ):
        PAPER.over(90_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineThenLinear(1.0, 5, 9.0, 4), "decay_from must be at least warmup, 5, not 4"),
        (lambda: CosineThenLinear(1.0, 5, 7.0, 8), "horizon 7.0 must lie beyond warmup and decay"),
        (lambda: CosineThenLinear(1.0, 5, 5.0, 5), "horizon 5.0 must lie beyond warmup and decay"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
