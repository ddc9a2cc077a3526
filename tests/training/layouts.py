"""Run by a test with 8 fake devices: the same three steps on every layout, printed as JSON."""

import dataclasses
import hashlib
import json
import math

import jax
import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.noise import unit_noise
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.planning.noise import NOISE_KEY, NOISE_SCALE, row_keys
from ttoaa.scoring.likelihood import row_losses
from ttoaa.training.config import Training
from ttoaa.training.device_feed import local_rows, place_batch
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW, Optax
from ttoaa.training.step import CompiledStep

MODEL = DecoderConfig(
    vocab_size=64, layers=2, width=32, heads=4, kv_heads=2, hidden=48, init_std=0.1
)
GEOMETRY = Geometry(length=12, batch=16, steps=3)
TRAINING = Training(AdamW(ConstantLinear(1e-3, warmup=0)), z_loss=0.01, max_arms=6)
PLAIN = Execution()
CASES = {
    "1": ((1, 1, 1), PLAIN),
    "1 scan": ((1, 1, 1), Execution(scan_layers=True, remat="full", loss_chunks=3)),
    "8 data": ((8, 1, 1), PLAIN),
    "8 all scan": ((2, 2, 2), Execution(scan_layers=True, remat="products", microbatch=8)),
    "8 fsdp tensor": ((1, 4, 2), Execution(remat="attention", loss_chunks=2, microbatch=16)),
    "8 bfloat16": ((2, 2, 2), Execution(remat="products", microbatch=8), "bfloat16"),
}


def batch_of(step):
    rng = np.random.default_rng([3, step])
    shape = (GEOMETRY.batch, GEOMETRY.length)
    return {
        "tokens": rng.integers(0, MODEL.vocab_size, shape).astype(np.int32),
        "arms": rng.integers(0, 5, shape).astype(np.uint16),
        "trained": np.arange(GEOMETRY.batch) != step,
    }


FACTORED = Optax(ConstantLinear(1e-3, warmup=0), "adafactor", {"min_dim_size_to_factor": 8})


def losses_of(optimizer, shape):
    """Of three steps with another optimizer."""
    training = dataclasses.replace(TRAINING, optimizer=optimizer)
    mesh = make_mesh(Layout(*shape), jax.devices()[: math.prod(shape)])
    program = CompiledStep(MODEL, training, GEOMETRY, PLAIN, mesh)
    state, step, losses = program.init(5), program.compile(), []
    rows = local_rows(program.batch["tokens"].sharding, program.batch["tokens"].shape)
    for number in range(GEOMETRY.steps):
        state, metrics = step(state, place_batch(batch_of(number), rows, program.batch))
        losses.append(float(metrics["loss"]))
    return losses


def placed_noise(program):
    """A batch on this mesh of which every third row has noise."""
    scale = np.zeros((GEOMETRY.batch, 2), np.float32)
    scale[::3] = 0.1
    batch = {**batch_of(1), NOISE_KEY: row_keys(7, np.arange(16)), NOISE_SCALE: scale}
    tokens = program.batch["tokens"]
    return place_batch(batch, local_rows(tokens.sharding, tokens.shape), program.noisy_batch)


def noise_bits(program):
    with jax.set_mesh(program.mesh):
        draw = jax.jit(unit_noise, static_argnums=(1, 2))
        noise = draw(placed_noise(program)[NOISE_KEY], GEOMETRY.length, MODEL.width)
    return hashlib.sha256(np.asarray(noise).tobytes()).hexdigest()


NOISY_CASES = {
    "1": CASES["1"],
    "8 data": ((8, 1, 1), Execution(microbatch=8)),
    "8 all scan": CASES["8 all scan"],
}


def noisy_step(shape, execution):
    mesh = make_mesh(Layout(*shape), jax.devices()[: math.prod(shape)])
    program = CompiledStep(MODEL, TRAINING, GEOMETRY, execution, mesh)
    _, metrics = program.compile(noisy=True)(program.init(5), placed_noise(program))
    names = ("loss", "grad_norm", "noise_rows", "noise_sigma")
    return [float(metrics[name]) for name in names]


def told_of(shape, execution, dtype="float32"):
    data, fsdp, tensor = shape
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = make_mesh(Layout(data, fsdp, tensor), devices)
    program = CompiledStep(
        dataclasses.replace(MODEL, dtype=dtype), TRAINING, GEOMETRY, execution, mesh
    )
    state = program.init(5)
    first = [float(np.asarray(leaf, np.float64).sum()) for leaf in jax.tree.leaves(state["params"])]
    step, metrics = program.compile(), []
    tokens = program.batch["tokens"]
    rows = local_rows(tokens.sharding, tokens.shape)
    for number in range(GEOMETRY.steps):
        state, told = step(state, place_batch(batch_of(number), rows, program.batch))
        metrics.append({name: np.asarray(value).tolist() for name, value in told.items()})
    query = state["params"]["block_00"]["attention"]["query"]
    with jax.set_mesh(mesh):
        scores = row_losses(MODEL, state["params"], batch_of(9)["tokens"][:5])
    return {
        "first": first,
        "shard": query.addressable_shards[0].data.shape,
        "moment": state["opt"][1][0].mu["block_01"]["mlp"]["down"].addressable_shards[0].data.shape,
        "noise": noise_bits(program),
        "metrics": metrics,
        "types": sorted({str(leaf.dtype) for leaf in jax.tree.leaves(state)}),
        "scores": scores.tolist(),
    }


if __name__ == "__main__":
    found = {name: told_of(*case) for name, case in CASES.items()}
    factored = [losses_of(FACTORED, shape) for shape in ((1, 1, 1), (2, 2, 2))]
    noisy = {name: noisy_step(*case) for name, case in NOISY_CASES.items()}
    print(json.dumps({**found, "factored": factored, "noisy": noisy}))
