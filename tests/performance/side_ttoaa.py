"""Our side of the race: the trainer's step with the trainer's defaults."""

import dataclasses
import time

import jax
import numpy as np

from tests.performance.sides import Task
from ttoaa.data.geometry import Geometry
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.training.config import Training
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW
from ttoaa.training.step import CompiledStep
from ttoaa.training.topology import pin_cores, split_cpu


class Side:
    def __init__(self) -> None:
        pin_cores()

    def prepare(self, task: Task, devices: int | None = None) -> dict:
        """Compiles the step, on as many devices as the trainer makes, and gives its settings."""
        self.task = task
        split_cpu(task.batch, Layout(), devices)
        optimizer = AdamW(
            schedule=ConstantLinear(peak=task.rate, warmup=0),
            beta1=task.betas[0],
            beta2=task.betas[1],
            eps=task.eps,
            weight_decay=task.weight_decay,
            clip=task.clip,
        )
        model = DecoderConfig(
            vocab_size=task.vocab_size,
            layers=task.layers,
            width=task.width,
            heads=task.heads,
            hidden=task.hidden,
            rope_theta=task.rope_theta,
            norm_eps=task.norm_eps,
            init_std=0.05,
        )
        self.program = CompiledStep(
            model,
            Training(optimizer=optimizer),
            Geometry(length=task.length, batch=task.batch, steps=10_000),
            Execution(),
            make_mesh(Layout()),
        )
        self.compiled = self.program.compile()
        tokens = task.tokens_BxL()
        # One token in fifty belongs to one of twenty arms.
        arms = np.random.default_rng(1).integers(-980, 21, tokens.shape, np.int32).clip(0)
        self.batch = {"tokens": tokens, "arms": arms, "trained": np.ones(task.batch, bool)}
        resolved = self.program.resolved
        return {
            "devices": jax.device_count(),
            "layout": dict(self.program.mesh.shape),
            "rows_per_pass": resolved.microbatch,
            **{
                field.name: getattr(resolved, field.name)
                for field in dataclasses.fields(resolved)
                if field.name in ("attention", "scan_layers", "remat", "loss_chunks")
            },
            "arms": self.program.training.max_arms,
            "z_loss": self.program.training.z_loss,
        }

    def start(self) -> dict:
        """Back to step 0; the weights."""
        self.state = self.program.init(0)
        return jax.device_get(self.state["params"])

    def step(self) -> tuple[float, float]:
        """(seconds, loss) of one step: transfer, update and reading every metric."""
        started = time.perf_counter()
        where = {name: leaf.sharding for name, leaf in self.program.batch.items()}
        self.state, metrics = self.compiled(self.state, jax.device_put(self.batch, where))
        loss = float(jax.device_get(metrics)["loss"])
        return time.perf_counter() - started, loss
