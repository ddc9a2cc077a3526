"""Our side of the scoring race: the primitives as the evaluation job calls them."""

import time

import jax
import numpy as np

from tests.performance.sides import Task
from ttoaa.model.decoder import DecoderConfig, init_params
from ttoaa.scoring.generation import generate
from ttoaa.scoring.length_buckets import PASSES, pass_rows
from ttoaa.scoring.likelihood import log_likelihoods
from ttoaa.scoring.requests import Sampling
from ttoaa.training.topology import pin_cores


class Side:
    def __init__(self) -> None:
        pin_cores()

    def prepare(self, task: Task) -> dict:
        """Makes the model; its weights."""
        self.config = DecoderConfig(
            vocab_size=task.vocab_size,
            layers=task.layers,
            width=task.width,
            heads=task.heads,
            hidden=task.hidden,
            rope_theta=task.rope_theta,
            norm_eps=task.norm_eps,
            init_std=0.05,
        )
        self.params = init_params(self.config, jax.random.key(0))
        return jax.device_get(self.params)

    def settings(self) -> dict:
        return {
            "devices": jax.device_count(),
            "rows_per_pass": pass_rows(256),
            "length_step": PASSES.step,
        }

    def give(self, sequences: list[np.ndarray], new_tokens: int) -> None:
        """What the next calls score or continue."""
        self.sequences, self.sampling = sequences, Sampling(max_new_tokens=new_tokens)

    def score(self) -> tuple[float, list[np.ndarray]]:
        """(seconds, float32[n - 1] log-probabilities for each sequence)."""
        started = time.perf_counter()
        scores = log_likelihoods(self.config, self.params, [(s, 1) for s in self.sequences])
        return time.perf_counter() - started, scores

    def generate(self) -> tuple[float, list[np.ndarray]]:
        """(seconds, int[new_tokens] greedy tokens for each sequence)."""
        started = time.perf_counter()
        out = generate(self.config, self.params, self.sequences, self.sampling)
        return time.perf_counter() - started, out
