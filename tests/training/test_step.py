import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import studies
from model import reference

from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig, apply
from ttoaa.training.config import Training
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW, bind_schedule
from ttoaa.training.step import init_state, make_step

MODEL = DecoderConfig(vocab_size=29, layers=1, width=16, heads=2, hidden=24, init_std=0.2)
STEPS, B, L = 5, 8, 10
ALL = np.ones(B, bool)
TRAINING = Training(
    # A large eps and a clip that bites, so that the scale of the gradient is felt.
    AdamW(ConstantLinear(0.05, warmup=2, decay=0.6), eps=1e-2, clip=0.5, weight_decay=0.3),
    z_loss=0.01,
    max_arms=6,
)


@pytest.fixture(scope="module")
def data():
    """[(tokens, arms)] of every step."""
    rng = np.random.default_rng(5)
    highs = (MODEL.vocab_size, 5)
    return [
        tuple(rng.integers(0, high, (B, L)).astype(np.int32) for high in highs)
        for _ in range(STEPS)
    ]


@functools.cache
def compiled(training, microbatch):
    optimizer = bind_schedule(training.optimizer, STEPS)
    execution = Execution(attention="xla", microbatch=microbatch)
    options = studies.AS_USED if microbatch == 2 else {}
    step = jax.jit(
        make_step(MODEL, training, execution, optimizer, STEPS), compiler_options=options
    )
    return jax.jit(lambda: init_state(MODEL, training, optimizer, 3)), step


def run(data, training=TRAINING, microbatch=2, trained=ALL):
    """(states, metrics) before and after every step, as NumPy."""
    init, step = compiled(training, microbatch)
    state = init()
    states, metrics = [jax.tree.map(np.asarray, state)], []
    for tokens, arms in data:
        batch = {
            "tokens": tokens,
            "arms": arms,
            "trained": np.ones(B, bool) if trained is None else trained,
        }
        state, told = step(state, batch)
        states.append(jax.tree.map(np.asarray, state))
        metrics.append(jax.tree.map(np.asarray, told))
    return states, metrics


@pytest.fixture(scope="module")
def ran(data):
    return run(data)


def plain_objective(params, tokens):
    """Mean cross-entropy and squared log-partition over all targets, in one pass."""
    logits = apply(MODEL, params, tokens)[:, :-1]
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1).mean()
    return loss + TRAINING.z_loss * (jax.nn.logsumexp(logits, -1) ** 2).mean()


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def adamw_by_hand(first, gradients):
    """Parameters after every update, in float64: clipping, Adam's moments, decoupled decay."""
    rates = [0.025, 0.05, 0.05, 0.05 * 2 / 3, 0.05 / 3]
    params, mean, square = dict(first), {}, {}
    for u, gradient in enumerate(gradients):
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        for name, g in gradient.items():
            g = g * min(1, 0.5 / norm)
            mean[name] = 0.9 * mean.get(name, 0) + 0.1 * g
            square[name] = 0.95 * square.get(name, 0) + 0.05 * g**2
            moved = mean[name] / (1 - 0.9 ** (u + 1))
            moved = moved / (np.sqrt(square[name] / (1 - 0.95 ** (u + 1))) + 1e-2)
            decay = 0 if name == "['embedding']" else 0.3
            params[name] = params[name] - rates[u] * (moved + decay * params[name])
        yield dict(params), norm


def test_updates_are_adamw_with_clipping_on_the_whole_batchs_gradient(data, ran):
    states, metrics = ran
    gradient = jax.jit(jax.grad(plain_objective))
    gradients = [
        flat(gradient(state["params"], tokens))
        for state, (tokens, _) in zip(states[:-1], data, strict=True)
    ]
    by_hand = adamw_by_hand(flat(states[0]["params"]), gradients)
    for state, told, (expected, norm) in zip(states[1:], metrics, by_hand, strict=True):
        np.testing.assert_allclose(told["grad_norm"], norm, rtol=1e-5)
        for name, value in flat(state["params"]).items():
            np.testing.assert_allclose(value, expected[name], atol=2e-6, err_msg=name)
    assert norm > 0.5, "clipping must have been at work"
    assert [int(state["step"]) for state in states] == [0, 1, 2, 3, 4, 5]
    rates = [told["learning_rate"] for told in metrics]
    np.testing.assert_allclose(rates, [0.025, 0.05, 0.05, 0.1 / 3, 0.05 / 3], rtol=1e-6)


def test_embeddings_of_absent_tokens_do_not_move(data):
    states, _ = run([(tokens % 7, arms) for tokens, arms in data])
    before, after = states[0]["params"], states[-1]["params"]
    np.testing.assert_array_equal(after["embedding"][7:], before["embedding"][7:])
    assert (after["embedding"][:7] != before["embedding"][:7]).all()
    assert (after["head"] != before["head"]).all(), "absent tokens are pushed down by the softmax"


def test_losses_are_those_of_a_plain_olmo2_and_arms_sum_to_the_total(data, ran):
    for state, told, (tokens, arms) in zip(ran[0], ran[1], data, strict=False):
        loss = -reference.log_probs(MODEL, state["params"], tokens)
        np.testing.assert_allclose(told["loss"], loss.mean(), rtol=1e-5)
        targets = arms[:, 1:]
        for arm in range(TRAINING.max_arms):
            np.testing.assert_allclose(told["arm_loss"][arm], loss[targets == arm].sum(), rtol=1e-5)
            assert told["arm_targets"][arm] == (targets == arm).sum()
        assert told["arm_targets"].sum() == B * (L - 1)
        np.testing.assert_allclose(told["arm_loss"].sum() / (B * (L - 1)), told["loss"], rtol=1e-6)


def test_z_loss_is_the_weighted_mean_square_of_the_log_partition(data, ran):
    tokens, _ = data[0]
    logits = reference.logits(MODEL, ran[0][0]["params"], tokens)[:, :-1]
    expected = 0.01 * (np.log(np.exp(logits).sum(-1)) ** 2).mean()
    np.testing.assert_allclose(ran[1][0]["z_loss"], expected, rtol=1e-5)


def test_norms_are_told_by_group(ran):
    states, metrics = ran
    told = {name for name in metrics[0] if name.startswith("norm/")}
    assert told == {f"norm/{name}" for name in states[0]["params"]}
    for name in states[1]["params"]:
        expected = np.sqrt(sum((x**2).sum() for x in flat(states[1]["params"][name]).values()))
        np.testing.assert_allclose(metrics[0][f"norm/{name}"], expected, rtol=1e-6)


@pytest.mark.parametrize("microbatch", [1, 4, 8])
def test_microbatches_are_a_matter_of_speed(data, ran, microbatch):
    states, metrics = run(data[:2], microbatch=microbatch)
    for ours, theirs in ((states[2]["params"], ran[0][2]["params"]), (metrics[1], ran[1][1])):
        for name, value in flat(ours).items():
            np.testing.assert_allclose(value, flat(theirs)[name], atol=1e-6, rtol=1e-5)


def test_room_for_more_arms_changes_no_bit(data, ran):
    states, metrics = run(data, dataclasses.replace(TRAINING, max_arms=700))
    same = jax.tree.map(np.array_equal, states, ran[0])
    assert all(jax.tree.leaves(same))
    for ours, theirs in zip(metrics, ran[1], strict=True):
        np.testing.assert_array_equal(ours["arm_loss"][:6], theirs["arm_loss"])
        assert all(ours[name] == theirs[name] for name in ("loss", "z_loss", "grad_norm"))


def test_arms_themselves_change_no_bit(data, ran):
    states, metrics = run([(tokens, np.zeros_like(arms)) for tokens, arms in data])
    same = jax.tree.map(np.array_equal, states, ran[0])
    assert all(jax.tree.leaves(same))
    assert [m["loss"] for m in metrics] == [m["loss"] for m in ran[1]]


def test_the_first_state_follows_the_seed():
    optimizer = bind_schedule(TRAINING.optimizer, STEPS)
    states = (init_state(MODEL, TRAINING, optimizer, seed) for seed in (1, 1, 2))
    one, again, other = (state["params"]["head"] for state in states)
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_a_masked_row_counts_nowhere(data):
    """Its loss, its arms and its gradient are those of a batch without it."""
    trained = np.arange(B) != 3
    (_, masked), (told,) = run(data[:1], trained=trained)
    tokens, _ = data[0]
    params = run([], microbatch=2)[0][0]["params"]
    expected = plain_objective(params, tokens[trained])
    np.testing.assert_allclose(told["loss"] + told["z_loss"], expected, rtol=1e-5)
    assert told["arm_targets"].sum() == (B - 1) * (L - 1)
    gradient = flat(jax.jit(jax.grad(plain_objective))(params, tokens[trained]))
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    np.testing.assert_allclose(told["grad_norm"], norm, rtol=1e-5)
    assert not np.array_equal(masked["params"]["head"], params["head"])


@pytest.mark.parametrize("trained", [ALL, np.arange(B) != 3, np.zeros(B, bool)])
def test_divided_by_tokens_as_olmo_does(data, trained):
    """Sums over the unmasked targets, divided by B * L: loss, z-loss and gradient."""
    by_tokens = dataclasses.replace(TRAINING, loss_divisor="tokens")
    _, (told,) = run(data[:1], by_tokens, trained=trained)
    _, (usual,) = run(data[:1], trained=trained)
    share = trained.sum() * (L - 1) / (B * L)
    for name in ("loss", "z_loss", "grad_norm"):
        np.testing.assert_allclose(told[name], share * usual[name], rtol=1e-5)
    np.testing.assert_array_equal(told["arm_loss"], usual["arm_loss"])


def test_a_batch_without_any_target_is_finite(data):
    (_, after), (told,) = run(data[:1], trained=np.zeros(B, bool))
    assert told["loss"] == told["grad_norm"] == told["arm_targets"].sum() == 0
    assert np.isfinite(after["params"]["head"]).all()
