"""Makes golden/olmo with OLMo's own model, optimizer and writer, which the tests then need no more.

    PYTHONPATH=…/OLMo python tests/interop/golden/make_olmo.py      (github.com/allenai/OLMo, torch)

A tiny OLMo 2 after three updates by OLMo's AdamW, as an unsharded checkpoint; in expected.npz what
it gives on the next rows, and its weights two updates later.
"""

import pathlib

import numpy as np
import torch
import yaml
from olmo.config import ModelConfig
from olmo.model import OLMo
from olmo.optim import AdamW
from olmo.safetensors_util import state_dict_to_safetensors_file

FOLDER = pathlib.Path(__file__).parent / "olmo"
RATE, CLIP = 1e-3, 1.0
MODEL = {
    "d_model": 16,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "mlp_ratio": 3,
    "weight_tying": False,
    "rope": True,
    "rope_theta": 500_000,
    "include_bias": False,
    "block_type": "sequential",
    "layer_norm_type": "rms",
    "layer_norm_eps": 1e-6,
    "attention_layer_norm": True,
    "norm_after": True,
    "activation_type": "swiglu",
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
    "max_sequence_length": 32,
    "vocab_size": 27,
    "embedding_size": 32,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "init_device": "cpu",
    "init_fn": "normal",
    "init_std": 0.02,
    "init_cutoff_factor": 3.0,
}


def make_optimizer(model):
    """As get_param_groups does for the public 1B run: all but the embedding decays."""
    weights = dict(model.named_parameters())
    plain = ["transformer.wte.weight"]
    groups = [
        {"params": [weights[n] for n in names], "param_names": names, "weight_decay": decay}
        for names, decay in ((sorted({*weights} - {*plain}), 0.1), (plain, 0.0))
    ]
    return AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)


def update(model, optimizer, ids):
    logits = model(ids).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()


def main():
    rng = np.random.default_rng(0)
    model = OLMo(ModelConfig(**MODEL)).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                drawn = rng.uniform(0.5, 1.5, weight.shape)
            else:
                drawn = rng.normal(0, weight.shape[-1] ** -0.5, weight.shape)
            weight.copy_(torch.tensor(drawn * (3 if "ln_f" in name else 1)))
    optimizer = make_optimizer(model)
    tokens = rng.integers(0, MODEL["vocab_size"], (5, 4, 12))
    for rows in tokens[:3]:
        update(model, optimizer, torch.tensor(rows))

    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "config.yaml").write_text(yaml.safe_dump({"model": MODEL}))
    state_dict_to_safetensors_file(model.state_dict(), FOLDER / "model.safetensors")
    # By name, as sharded training (FSDP) has it; OLMo's public runs are of that kind.
    state, groups = optimizer.state_dict().values()
    numbered = {k: n for g in groups for k, n in zip(g["params"], g["param_names"], strict=True)}
    named = {"state": {numbered[k]: v for k, v in state.items()}, "param_groups": groups}
    state_dict_to_safetensors_file(named, FOLDER / "optim.safetensors")

    with torch.no_grad():
        expected = {"tokens": tokens[3:].astype(np.int32)}
        expected["logits"] = model(torch.tensor(tokens[3])).logits.numpy()
    for rows in tokens[3:]:
        update(model, optimizer, torch.tensor(rows))
    after = {f"after/{name}": weight.numpy() for name, weight in model.state_dict().items()}
    np.savez(FOLDER / "expected.npz", **expected, **after)
    print("logits' deviation", expected["logits"].std().round(2))


if __name__ == "__main__":
    main()
