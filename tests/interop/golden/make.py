"""Makes this folder's models with torch and transformers, which the tests then need no more.

    python tests/interop/golden/make.py        (torch 2.13.0, transformers 5.23.0 on CPU)

Tiny Olmo2ForCausalLM with random weights as save_pretrained writes them, and in expected.npz what
they give on random tokens in float32: logits, loss, and the gradient of the loss by every weight.
"""

import pathlib

import numpy as np
import torch
from transformers import Olmo2Config, Olmo2ForCausalLM

HERE = pathlib.Path(__file__).parent
COMMON = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
MODELS = {
    "plain": dict(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    ),
    "grouped": dict(
        vocab_size=37,
        hidden_size=24,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ),
    "one-kv-head-bfloat16": dict(
        vocab_size=101,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    ),
    "tied": dict(
        vocab_size=53,
        hidden_size=12,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        bos_token_id=1,
        pad_token_id=2,
    ),
}


def randomise(model, seed, logits_std=3.0):
    """Weights at which every part matters, with logits of about that deviation."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                drawn = rng.uniform(0.5, 1.5, weight.shape)
            else:
                drawn = rng.normal(0, weight.shape[-1] ** -0.5, weight.shape)
            weight.copy_(torch.tensor(drawn))
        model.model.norm.weight.mul_(logits_std)


def expected(model, tokens):
    ids = torch.tensor(tokens, dtype=torch.long)
    out = model(ids, labels=ids)
    out.loss.backward()
    gradients = {f"gradient/{n}": w.grad.numpy() for n, w in model.named_parameters()}
    return {"tokens": tokens, "logits": out.logits.detach().numpy(), "loss": out.loss.item()} | (
        gradients
    )


def main():
    for number, (name, sizes) in enumerate(MODELS.items()):
        config = Olmo2Config(**(COMMON | sizes), attn_implementation="eager")
        model = Olmo2ForCausalLM(config).float().eval()
        randomise(model, number)
        if name.endswith("bfloat16"):
            model = model.bfloat16()
        shard = "12KB" if name == "grouped" else "5GB"
        model.save_pretrained(HERE / name, max_shard_size=shard)
        # Loaded anew: a model that is cast to bfloat16 and back has lost bits of RoPE's angles.
        model = Olmo2ForCausalLM.from_pretrained(HERE / name, dtype=torch.float32).eval()
        low = 3  # a padding token's embedding has no gradient in torch
        tokens = np.random.default_rng(9).integers(low, config.vocab_size, (2, 12)).astype(np.int32)
        values = expected(model, tokens)
        np.savez(HERE / name / "expected.npz", **values)
        print(name, "logits' deviation", values["logits"].std().round(2), "loss", values["loss"])


if __name__ == "__main__":
    main()
