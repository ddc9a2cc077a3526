"""Our decoder and transformers' Olmo2ForCausalLM, live and both ways: one JSON line a model.

    python -m tests.interop.parity         (needs torch and transformers: pip install 'ttoaa[hf]')

Import: transformers' weights run here. Export: weights of here run there, with nothing missing or
left over. Greedy tokens are of 16 forward passes here and of `generate` there. Weights are as
transformers initialises them, or loud: each matrix of unit gain and every norm's its own. Loud ones
magnify rounding, so that transformers' own two attentions differ by 3e-5. There, and in bfloat16
everywhere, no side is right: each is judged by its root-mean-square error, against float64
(`reference.py`) or against float32.
"""

import dataclasses
import json
import math
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

try:
    import torch
    from transformers import Olmo2Config, Olmo2ForCausalLM
except ImportError as error:
    sys.exit(f"parity: {error.name} is missing: pip install 'ttoaa[hf]'")

from tests.interop.golden.make import COMMON, MODELS, randomise
from tests.model import reference
from ttoaa.interop.huggingface.config import read_config
from ttoaa.interop.huggingface.weights import (
    get_leaf,
    load_params,
    save,
    tensor_paths,
    transpose_matrix,
)
from ttoaa.model.decoder import apply

MORE = {
    "wide": {
        **{"vocab_size": 1009, "hidden_size": 128, "intermediate_size": 344},
        **{"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4},
        **{"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    }
}
ATOL, RATIO = 2e-5, 1.5
"""Of initial weights' logits, with a deviation of 3; of errors."""


def scale_logits(model, deviation=3.0):
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        model.model.norm.weight.mul_(deviation / model(ids).logits.std())


def rms(error):
    return float(np.sqrt((np.asarray(error, np.float64) ** 2).mean()))


def load(folder, **options):
    model, info = Olmo2ForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(info.values()), info
    return model.eval()


def of_transformers(model, tokens):
    """(logits, loss, gradients by name)."""
    ids = torch.tensor(tokens, dtype=torch.long)
    model.zero_grad()
    out = model(ids, labels=ids)
    out.loss.backward()
    gradients = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    return out.logits.detach().float().numpy(), out.loss.item(), gradients


def of_ours(config, params, tokens):
    def loss(params):
        logits = apply(config, params, tokens)
        log_p = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return np.asarray(logits), float(value), gradients


def relative_gradients(config, ours, theirs, tied):
    if tied:
        ours["embedding"] += ours["head"].T
    worst = 0.0
    for name, path in tensor_paths(config).items():
        if name in theirs:
            wanted = theirs[name]
            error = np.abs(np.asarray(transpose_matrix(path, get_leaf(ours, path))) - wanted).max()
            worst = max(worst, error / np.abs(wanted).max())
    return worst


def greedy(config, params, tokens, steps=16):
    forward = jax.jit(lambda tokens: apply(config, params, tokens))
    grown = np.zeros((len(tokens), tokens.shape[1] + steps), np.int32)
    grown[:, : tokens.shape[1]] = tokens
    for end in range(
        tokens.shape[1], grown.shape[1]
    ):  # what follows `end` is not seen by causality
        grown[:, end] = np.asarray(forward(grown))[:, end - 1].argmax(-1)
    return grown


def bfloat16_errors(config, params, folder, tokens):
    """Errors of (ours, theirs) against float32 with the same weights."""
    full = np.asarray(apply(config, params, tokens))
    half = dataclasses.replace(config, dtype="bfloat16")
    ours = jax.jit(apply, static_argnums=0)(half, params, tokens)
    model = load(folder, dtype=torch.bfloat16)
    with torch.no_grad():
        theirs = model(torch.tensor(tokens, dtype=torch.long)).logits.float().numpy()
    return rms(ours - full), rms(theirs - full)


def greedy_equal(config, params, model, tokens):
    prompt = torch.tensor(tokens, dtype=torch.long)
    length = {"max_new_tokens": 16, "min_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0}
    theirs = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **length
    )
    return bool((theirs.numpy() == greedy(config, params, tokens)).all())


def compare(name, sizes, loud, root):
    source, exported, half = root / "source", root / "exported", root / "half"
    torch.manual_seed(17)
    model = Olmo2ForCausalLM(Olmo2Config(**(COMMON | sizes))).float()
    if loud:
        randomise(model, 17)
    scale_logits(model)
    model.save_pretrained(source, max_shard_size="1MB")
    model = load(source, dtype=torch.float32)
    config, card, tied = read_config(source)
    params = jax.tree.map(jnp.asarray, load_params(source))
    tokens = np.random.default_rng(3).integers(3, config.vocab_size, (4, 40)).astype(np.int32)

    theirs, ours = of_transformers(model, tokens), of_ours(config, params, tokens)
    save(exported, config, card, params, shard_bytes=10**6)
    back = load(exported, dtype=torch.float32)
    differences = [np.abs(ours[0] - theirs[0]).max()]
    differences.append(np.abs(ours[0] - of_transformers(back, tokens)[0]).max())
    exact = reference.logits(config, params, tokens)
    errors = rms(ours[0] - exact), rms(theirs[0] - exact)
    save(half, config, card, params, "bfloat16")
    half_params = jax.tree.map(jnp.asarray, load_params(half))
    half_errors = bfloat16_errors(config, half_params, half, tokens)
    gradient = relative_gradients(config, ours[2], theirs[2], tied)
    greedy_same = greedy_equal(config, params, back, tokens[:, :8])
    close = max(differences) <= ATOL or (loud and errors[0] <= RATIO * errors[1])
    close = close and math.isclose(ours[1], theirs[1], rel_tol=1e-6) and gradient < 2e-5
    return {
        "shape": name,
        "weights": "loud" if loud else "initial",
        "logits_std": round(float(theirs[0].std()), 2),
        "import_logits": float(differences[0]),
        "export_logits": float(differences[1]),
        "float32_errors": errors,
        "loss": abs(ours[1] - theirs[1]),
        "gradient": float(gradient),
        "greedy_equal": greedy_same,
        "bfloat16_errors": half_errors,
        "bfloat16_ratio": half_errors[0] / half_errors[1],
        "ok": bool(close and greedy_same and half_errors[0] <= RATIO * half_errors[1]),
    }


def main():
    for name, sizes in (MODELS | MORE).items():
        for loud in (False, True):
            with tempfile.TemporaryDirectory() as root:
                result = compare(name, sizes, loud, pathlib.Path(root))
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
