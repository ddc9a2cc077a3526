"""The training step (contract C8): loss, loss per arm, update and metrics; and its compilation.

The trainer runs the compiled step, ttoaa.compile lowers it for pods without having one, and
benchmarks time it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ttoaa.data.geometry import Geometry
from ttoaa.model.attention import choose_kernel
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig, Params, features, init_params
from ttoaa.model.loss import token_losses
from ttoaa.model.noise import resolve_sigma, unit_noise
from ttoaa.model.sharding import (
    LOGICAL,
    PARAMETERS,
    batch_sharding,
    constrain,
    row_parts,
    shardings,
    shared_mesh,
    spec,
    with_shardings,
)
from ttoaa.planning.noise import NOISE_KEY, NOISE_SCALE
from ttoaa.training import skip_policy
from ttoaa.training.config import Training
from ttoaa.training.metrics import StepValues, add_metrics
from ttoaa.training.optimizer import bind_schedule

State = dict[str, Any]
"""params; opt (optax state); guard (skip_policy.GuardState); step int32[], batches seen."""
Batch = dict[str, jax.Array]
"""tokens int32[B, L]; arms int32[B, L], 0 for the corpus; trained bool[B], False: no loss.

A batch in which a row has noise also holds noise_key uint32[B, 2] and noise_scale float32[B, 2]
(see `planning.noise`), and takes a program of its own."""
Metrics = dict[str, jax.Array]


def init_state(
    config: DecoderConfig,
    training: Training,
    optimizer: optax.GradientTransformationExtraArgs,
    seed: int,
) -> State:
    """Return the state of a run that begins; random weights follow from the seed."""
    params = init_params(config, jax.random.key(seed))
    return {
        "params": params,
        "opt": optimizer.init(params),
        "guard": skip_policy.init(training.guard),
        "step": jnp.zeros((), jnp.int32),
    }


def target_weights(batch: Batch) -> jax.Array:
    """Return float32[B, L]: 1 where the next token is a target, L - 1 times in a trained row."""
    L = batch["tokens"].shape[1]
    inside = jnp.arange(L) < L - 1
    return jnp.where(inside, batch["trained"][:, None], False).astype(jnp.float32)


def loss_sums(
    config: DecoderConfig, params: Params, batch: Batch, segments: int, execution: Execution
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return float32 sums: loss, squared log-partition, loss per arm [S], targets per arm [S].

    A target belongs to the arm of its token.
    """
    x_BxLxD = features(config, params, batch["tokens"], _noise(config, batch), execution)
    targets_BxL = jnp.roll(batch["tokens"], -1, axis=1)
    arms_BxL = jnp.roll(batch["arms"], -1, axis=1)
    loss, log_partition = token_losses(x_BxLxD, params["head"], targets_BxL, execution.loss_chunks)
    weights = target_weights(batch)
    loss = loss * weights
    loss_S, count_S = _by_arm(loss, weights, arms_BxL, segments)
    return jnp.sum(loss), jnp.sum(weights * log_partition**2), loss_S, count_S


def _noise(config: DecoderConfig, batch: Batch) -> jax.Array | None:
    """Return the noise [B, L, D] of a batch whose sigmas are resolved; None without noise."""
    if NOISE_KEY not in batch:
        return None
    unit_BxLxD = unit_noise(batch[NOISE_KEY], batch["tokens"].shape[1], config.width)
    return batch[_SIGMA][:, None, None] * unit_BxLxD


_SIGMA = "noise_sigma"


def _resolve_noise(params: Params, batch: Batch) -> tuple[Batch, Metrics]:
    """Return the batch with float32[B] sigmas in place of scales, and the metrics of its noise."""
    if NOISE_KEY not in batch:
        return batch, {}
    sigma_B = resolve_sigma(batch[NOISE_SCALE], params["embedding"])
    rows = jnp.sum(sigma_B > 0)
    kept = {name: value for name, value in batch.items() if name != NOISE_SCALE}
    return {**kept, _SIGMA: sigma_B}, {"noise_rows": rows, _SIGMA: jnp.sum(sigma_B) / rows}


def _by_arm(
    loss_BxL: jax.Array, weights_BxL: jax.Array, arms_BxL: jax.Array, segments: int
) -> tuple[jax.Array, jax.Array]:
    """Sum per arm, on every device over its rows first: scattered sums are slow on TPU."""

    def local(*values: jax.Array) -> tuple[jax.Array, jax.Array]:
        loss, weights, arms = (value.ravel() for value in values)
        return (
            jax.ops.segment_sum(loss, arms, segments),
            jax.ops.segment_sum(weights, arms, segments),
        )

    if shared_mesh() is None:
        return local(loss_BxL, weights_BxL, arms_BxL)
    rows = LOGICAL["batch"]

    def summed(*values: jax.Array) -> Any:
        return jax.lax.psum(local(*values), rows)

    sharded = jax.shard_map(
        summed, in_specs=(spec("batch"),) * 3, out_specs=(P(), P()), check_vma=False
    )
    # Logged only: no gradient flows through the arms.
    return sharded(*jax.lax.stop_gradient((loss_BxL, weights_BxL, arms_BxL)))


def make_step(
    config: DecoderConfig,
    training: Training,
    execution: Execution,
    optimizer: optax.GradientTransformationExtraArgs,
    steps: int,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Return step(state, batch) -> (state, metrics); donate the state.

    Gradients of micro-batches of `execution.microbatch` rows (None: all) are summed, then divided
    once by the targets of the batch, or by its tokens (`Training.loss_divisor`). The metrics of a
    batch with noise add noise_rows and noise_sigma, their mean sigma as it was used.
    """
    schedule = training.optimizer.schedule.over(steps)

    def objective(params: Params, rows: Batch, divisor: jax.Array) -> Any:
        sums = loss_sums(config, params, rows, training.max_arms, execution)
        return (sums[0] + training.z_loss * sums[1]) / divisor, sums

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        batch, noise_metrics = _resolve_noise(state["params"], batch)
        divisor = jnp.maximum(target_weights(batch).sum(), 1)
        if training.loss_divisor == "tokens":
            divisor = jnp.float32(batch["tokens"].size)
        gradient = jax.grad(objective, has_aux=True)

        grads, (loss, squares, loss_S, count_S) = _sum_microbatches(
            gradient, state["params"], batch, divisor, execution.microbatch
        )
        grad_norm = optax.global_norm(grads)
        mean_loss = loss / divisor
        accept, judged = skip_policy.judge(training.guard, state["guard"], mean_loss, grad_norm)

        updates, opt = optimizer.update(
            grads, state["opt"], state["params"], step=state["step"], value=mean_loss
        )
        updated = {"params": optax.apply_updates(state["params"], updates), "opt": opt}
        before = {"params": state["params"], "opt": state["opt"]}
        kept = jax.tree.map(lambda new, old: jnp.where(accept, new, old), updated, before)
        metrics = {
            "loss": mean_loss,
            "z_loss": training.z_loss * squares / divisor,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state["step"]),
            "arm_loss": loss_S,
            "arm_targets": count_S,
            "skipped": judged["skipped"],
            "skipped_in_a_row": judged["in_a_row"],
            **noise_metrics,
            **{f"norm/{name}": optax.global_norm(tree) for name, tree in kept["params"].items()},
        }
        values = StepValues(mean_loss, grads, state["params"], kept["params"])
        metrics = add_metrics(metrics, training.metrics, values)
        return {**kept, "guard": judged, "step": state["step"] + 1}, metrics

    return step


def _sum_microbatches(
    gradient: Callable[..., Any],
    params: Params,
    batch: Batch,
    divisor: jax.Array,
    microbatch: int | None,
) -> Any:
    """Sum gradient(params, rows, divisor) over micro-batches of `microbatch` rows (None: all).

    If every device holds all parameters, each sums its micro-batches before a single sum over
    devices; otherwise the compiler gathers and sums in every micro-batch.
    """
    B, mesh = batch["tokens"].shape[0], shared_mesh()
    rows = microbatch or B
    parts = 1 if mesh is None else row_parts(mesh)
    if rows == B or parts == 1 or mesh is None or parts < mesh.size or mesh.shape["fsdp"] > 1:
        return _sum_over(lambda r: gradient(params, r, divisor), _split_batch(batch, rows, parts))
    axes = LOGICAL["batch"]

    def on_one_device(params: Params, batch: Batch, targets: jax.Array) -> Any:
        passes = _split_batch(batch, rows // parts, 1)
        return jax.lax.psum(_sum_over(lambda r: gradient(params, r, divisor), passes), axes)

    return jax.shard_map(
        on_one_device, in_specs=(P(), spec("batch"), P()), out_specs=P(), check_vma=False
    )(params, batch, divisor)


def _split_batch(batch: Batch, rows: int, parts: int) -> Batch:
    """Reshape [B, …] to [micro-batches, rows, …], each with rows of every part of the batch."""

    def cut(x: jax.Array) -> jax.Array:
        x = x.reshape(parts, -1, rows // parts, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(-1, rows, *x.shape[3:])
        return constrain(x, None, "batch", *(None,) * (x.ndim - 2))

    return jax.tree.map(cut, batch)


def _sum_over(one_pass: Callable[[Batch], Any], passes: Batch) -> Any:
    """Sum one_pass over the leading axis."""
    first = jax.tree.map(lambda x: x[0], passes)
    if jax.tree.leaves(passes)[0].shape[0] == 1:
        return one_pass(first)  # without a loop, the compiler optimises across the whole step

    def accumulate(total: Any, rows: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one_pass(rows)), None

    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one_pass, first))
    return jax.lax.scan(accumulate, zeros, passes)[0]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """The training step of a model, training config and geometry on a mesh.

    Raises ValueError where they do not fit together.
    """

    model: DecoderConfig
    training: Training
    geometry: Geometry
    execution: Execution
    """As configured; `resolved` has the values for this mesh."""
    mesh: Mesh

    def __post_init__(self) -> None:
        _check_divides(self.model, self.mesh)
        _ = self.resolved

    @functools.cached_property
    def resolved(self) -> Execution:
        """The execution with open settings resolved for the platform of the mesh."""
        platform, parts = self.mesh.devices.flat[0].platform, row_parts(self.mesh)
        batch = self.geometry.batch
        if batch % parts:
            raise ValueError(
                f"a batch of {batch} rows cannot be cut into {parts} equal parts (data x fsdp "
                f"of the mesh {dict(self.mesh.shape)}): change Geometry.batch or Layout"
            )
        self.execution.check(self.geometry.length)
        self.training.check(self.geometry.steps)
        asked = self.execution.microbatch
        default = 2 * parts if platform == "cpu" and batch % (2 * parts) == 0 else batch
        rows = asked or default
        if batch % rows or rows % parts:
            raise ValueError(
                f"Execution.microbatch {rows} must divide the batch of {batch} rows and be a "
                f"multiple of {parts}, the parts that the rows are cut into"
            )
        kernel = choose_kernel(
            self.execution.attention,
            platform,
            self.model.dtype,
            self.geometry.length,
            self.model.head_width,
        )
        return dataclasses.replace(self.execution, attention=kernel, microbatch=rows)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        return bind_schedule(self.training.optimizer, self.geometry.steps)

    @functools.cached_property
    def state(self) -> State:
        """Abstract state: shapes, types and shardings."""
        abstract = jax.eval_shape(lambda: self._new_state(0))
        if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(abstract)):
            raise ValueError(
                "Training.optimizer keeps a random key in its state, which checkpoints cannot hold:"
                " derive it from a count with jax.random.fold_in"
            )
        return with_shardings(abstract, shardings(self.mesh, abstract))

    @functools.cached_property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Abstract batch: shapes, types and shardings."""
        rows, length = self.geometry.batch, self.geometry.length
        sharding = batch_sharding(self.mesh)
        tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=sharding)
        trained = jax.ShapeDtypeStruct((rows,), jnp.bool_, sharding=sharding)
        return {"tokens": tokens, "arms": tokens, "trained": trained}

    @functools.cached_property
    def noisy_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Abstract batch with noise."""
        shape, sharding = (self.geometry.batch, 2), batch_sharding(self.mesh)
        key = jax.ShapeDtypeStruct(shape, jnp.uint32, sharding=sharding)
        scale = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        return {**self.batch, NOISE_KEY: key, NOISE_SCALE: scale}

    def _new_state(self, seed: int) -> State:
        return init_state(self.model, self.training, self.optimizer, seed)

    def init(self, seed: int) -> State:
        """Return a new state, each leaf made on its devices: the same bits on any mesh."""
        where = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda: self._new_state(seed), out_shardings=where)()

    def lower(self, noisy: bool = False) -> jax.stages.Lowered:
        """Lower the step, or that of batches with noise; the devices need not exist."""
        step = make_step(
            self.model,
            self.training,
            self.resolved,
            self.optimizer,
            self.geometry.steps,
        )
        replicated = NamedSharding(self.mesh, P())
        where = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, replicated))
            return jitted.lower(self.state, self.noisy_batch if noisy else self.batch)

    def compile(self, noisy: bool = False) -> Any:
        """Compile step(state, batch) -> (state, metrics), once; the state is donated.

        A batch with noise needs a program of its own, so that the others keep theirs to the bit.
        """
        if noisy not in self._compiled:
            options = dict(self.execution.compiler_options)
            try:
                compiled = self.lower(noisy).compile(compiler_options=options or None)
            except jax.errors.JaxRuntimeError as error:
                raise ValueError(f"XLA refuses the step: {str(error).splitlines()[0]}") from error
            self._compiled[noisy] = compiled
        return self._compiled[noisy]

    @functools.cached_property
    def _compiled(self) -> dict[bool, Any]:
        """The compiled steps without and with noise, as far as they were needed."""
        return {}


def _check_divides(model: DecoderConfig, mesh: Mesh) -> None:
    sizes = {
        "vocab": ("vocab_size", model.vocab_size),
        "embed": ("width", model.width),
        "heads": ("kv_heads", model.num_kv_heads),
        "hidden": ("hidden", model.hidden),
    }
    for logical in {axis for axes in PARAMETERS.values() for axis in axes}:
        axis = LOGICAL[logical]
        name, size = sizes[str(logical)]
        if isinstance(axis, str) and size % mesh.shape[axis]:
            raise ValueError(
                f"DecoderConfig.{name} {size} does not divide by the {mesh.shape[axis]} devices of "
                f"the {axis} axis: change it or Layout.{axis}"
            )
