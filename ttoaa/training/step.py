"""One training step, which tells it all: loss, loss per arm, norms (contract C8)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ttoaa.model.decoder import DecoderConfig, Params, apply, init_params
from ttoaa.training.config import Training

State = dict[str, Any]
"""params, opt (optax state), step int32[]: updates done."""
Metrics = dict[str, jax.Array]


def init_state(config: DecoderConfig, optimizer: optax.GradientTransformation, seed: int) -> State:
    params = init_params(config, jax.random.key(seed))
    return {"params": params, "opt": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}


def loss_sums(
    config: DecoderConfig, params: Params, tokens_BxL: jax.Array, arms_BxL: jax.Array, segments: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(loss, squared log-partition, loss per arm [S], targets per arm [S]): float32 sums.

    Row by row the L - 1 targets; a target belongs to the arm of its own token.
    """
    logits_BxLxV = apply(config, params, tokens_BxL)[:, :-1]
    log_partition = jax.nn.logsumexp(logits_BxLxV, axis=-1)
    targets = tokens_BxL[:, 1:, None]
    loss = log_partition - jnp.take_along_axis(logits_BxLxV, targets, axis=-1)[..., 0]
    arms = arms_BxL[:, 1:].ravel()
    loss_S = jax.ops.segment_sum(loss.ravel(), arms, segments)
    count_S = jax.ops.segment_sum(jnp.ones_like(loss).ravel(), arms, segments)
    return jnp.sum(loss), jnp.sum(log_partition**2), loss_S, count_S


def make_step(
    config: DecoderConfig,
    training: Training,
    optimizer: optax.GradientTransformation,
    microbatch: int,
    steps: int,
) -> Callable[[State, jax.Array, jax.Array], tuple[State, Metrics]]:
    """step(state, tokens int32[B, L], arms int32[B, L]) -> (state, metrics); donate the state.

    Microbatches of `microbatch` rows are summed and divided once by all targets of the batch.
    """
    schedule = training.optimizer.schedule.over(steps)

    def objective(params: Params, tokens: jax.Array, arms: jax.Array, targets: int) -> Any:
        # The arms' sums are for reading only: no bit of the objective goes through them.
        sums = loss_sums(config, params, tokens, arms, training.max_arms)
        return (sums[0] + training.z_loss * sums[1]) / targets, sums

    def step(state: State, tokens_BxL: jax.Array, arms_BxL: jax.Array) -> tuple[State, Metrics]:
        B, L = tokens_BxL.shape
        targets = B * (L - 1)
        gradient = jax.grad(objective, has_aux=True)

        def accumulate(total: Any, rows: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            part = gradient(state["params"], *rows, targets)
            return jax.tree.map(jnp.add, total, part), None

        rows = jax.tree.map(lambda x: x.reshape(-1, microbatch, L), (tokens_BxL, arms_BxL))
        shapes = jax.eval_shape(lambda r: gradient(state["params"], *r, targets), _first(rows))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (grads, (loss, squares, loss_S, count_S)), _ = jax.lax.scan(accumulate, zeros, rows)

        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {
            "loss": loss / targets,
            "z_loss": training.z_loss * squares / targets,
            "grad_norm": optax.global_norm(grads),
            "learning_rate": schedule(state["step"]),
            "arm_loss": loss_S,
            "arm_targets": count_S,
            **{f"norm/{name}": optax.global_norm(tree) for name, tree in params.items()},
        }
        return {"params": params, "opt": opt, "step": state["step"] + 1}, metrics

    return step


def _first(rows: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), rows)
