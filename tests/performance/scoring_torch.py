"""The other side of the scoring race: transformers' Olmo2ForCausalLM in torch."""

import time

import numpy as np
import torch

from tests.performance.side_torch import _model, _named
from tests.performance.sides import Task, Variant, cores

PAD = 0


class Side:
    def __init__(self) -> None:
        torch.set_num_threads(cores())

    def prepare(self, task: Task, params: dict) -> None:
        state = {name: torch.tensor(value) for name, value in _named(params)}
        self.models = {}
        for attention in ("eager", "sdpa"):
            model = self.models[attention] = _model(task, attention).eval()
            model.load_state_dict(state)

    def give(self, sequences: list[np.ndarray], new_tokens: int) -> None:
        """What the next calls score or continue."""
        self.sequences, self.new_tokens = sequences, new_tokens

    def score(self, variant: Variant) -> tuple[float, list[np.ndarray]]:
        """(seconds, float32[n - 1] log-probabilities for each sequence).

        Sorted by length and padded to the longest of `variant.rows`; padding comes after the
        tokens, so that causal attention needs no other mask.
        """
        model, started = self.models[variant.attention], time.perf_counter()
        order = sorted(range(len(self.sequences)), key=lambda i: len(self.sequences[i]))
        scores = [np.empty(0, np.float32)] * len(order)
        with torch.inference_mode():
            for first in range(0, len(order), variant.rows):
                members = order[first : first + variant.rows]
                rows = [torch.from_numpy(self.sequences[i]).long() for i in members]
                ids = torch.nn.utils.rnn.pad_sequence(rows, True, PAD)
                logits = model(ids, use_cache=False).logits[:, :-1]
                target = logits.gather(2, ids[:, 1:, None])[..., 0]
                found = (target - logits.logsumexp(2)).numpy()
                for row, i in enumerate(members):
                    scores[i] = found[row, : len(self.sequences[i]) - 1]
        return time.perf_counter() - started, scores

    def generate(self, variant: Variant) -> tuple[float, list[np.ndarray]]:
        """(seconds, int[new_tokens] greedy tokens for each sequence); padding comes first."""
        model, started = self.models[variant.attention], time.perf_counter()
        out = []
        with torch.inference_mode():
            for first in range(0, len(self.sequences), variant.rows):
                part = self.sequences[first : first + variant.rows]
                longest = max(map(len, part))
                ids = torch.full((len(part), longest), PAD)
                mask = torch.zeros_like(ids)
                for row, sequence in enumerate(part):
                    ids[row, longest - len(sequence) :] = torch.from_numpy(sequence)
                    mask[row, longest - len(sequence) :] = 1
                grown = model.generate(
                    ids,
                    attention_mask=mask,
                    do_sample=False,
                    pad_token_id=PAD,
                    min_new_tokens=self.new_tokens,
                    max_new_tokens=self.new_tokens,
                )
                out += list(grown[:, longest:].numpy())
        return time.perf_counter() - started, out
