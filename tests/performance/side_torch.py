"""The other side of the race: the same model, loss and optimizer in torch and transformers."""

import time

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM
from transformers.utils import logging

from tests.performance.sides import Task, Variant, cores


class Side:
    def __init__(self) -> None:
        torch.set_num_threads(cores())
        logging.set_verbosity_error()

    def prepare(self, task: Task) -> None:
        self.task = task
        self.tokens = task.tokens_BxL()
        self.models, self.optimizers, self.losses = {}, {}, {}
        for attention in ("eager", "sdpa"):
            model = self.models[attention] = _model(task, attention)
            self.optimizers[attention] = _optimizer(task, model)

    def start(self, params: dict) -> None:
        """Back to step 0, with the other side's weights."""
        state = {name: torch.tensor(value) for name, value in _named(params)}
        for attention, model in self.models.items():
            model.load_state_dict(state)
            self.optimizers[attention] = _optimizer(self.task, model)

    def step(self, variant: Variant) -> tuple[float, float]:
        """(seconds, loss) of one step: forward, backward, clipping, update, reading the loss."""
        model, optimizer = self.models[variant.attention], self.optimizers[variant.attention]
        loss_of = self._loss_of(variant)
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        tokens = torch.from_numpy(self.tokens).long()
        targets = tokens.roll(-1, 1)
        targets[:, -1] = -100  # no target
        loss = 0.0
        for rows, wanted in zip(
            tokens.split(variant.rows), targets.split(variant.rows), strict=True
        ):
            part = loss_of(rows, wanted) / (self.task.batch * (self.task.length - 1))
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.task.clip, foreach=True)
        optimizer.step()
        return time.perf_counter() - started, loss

    def _loss_of(self, variant):
        if variant not in self.losses:
            model = self.models[variant.attention]

            def loss_of(tokens, targets):
                logits = model(tokens, use_cache=False).logits
                return torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(), reduction="sum"
                )

            compiled = torch.compile(loss_of, dynamic=False) if variant.compiled else loss_of
            self.losses[variant] = compiled
        return self.losses[variant]


def _model(task, attention):
    config = Olmo2Config(
        vocab_size=task.vocab_size,
        hidden_size=task.width,
        intermediate_size=task.hidden,
        num_hidden_layers=task.layers,
        num_attention_heads=task.heads,
        num_key_value_heads=task.heads,
        max_position_embeddings=task.length,
        rope_parameters={"rope_type": "default", "rope_theta": task.rope_theta},
        rms_norm_eps=task.norm_eps,
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation=attention,
    )
    return Olmo2ForCausalLM(config).float().train()


def _optimizer(task, model):
    embedding = model.get_input_embeddings().weight
    others = [p for p in model.parameters() if p is not embedding]
    groups = [{"params": others}, {"params": [embedding], "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups,
        lr=task.rate,
        betas=task.betas,
        eps=task.eps,
        weight_decay=task.weight_decay,
        fused=True,
    )


_NAMES = {
    "attention": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "out": "o_proj",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "attention_norm": "post_attention_layernorm",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "mlp_norm": "post_feedforward_layernorm",
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
}


def _named(params, prefix=""):
    """(transformers' name, array) of every weight; our matrices are [in, out]."""
    for name, value in params.items():
        theirs = _NAMES.get(name, name)
        if name.startswith("block_"):
            theirs = f"model.layers.{int(name.removeprefix('block_'))}"
        if isinstance(value, dict):
            yield from _named(value, f"{prefix}{theirs}.")
        elif name == "weight":
            yield f"{prefix}weight", value
        else:
            yield f"{prefix}{theirs}.weight", value if name == "embedding" else value.T
