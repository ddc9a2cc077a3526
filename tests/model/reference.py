"""OLMo-2 and its loss once more, in NumPy and float64, one row and one head at a time."""

import numpy as np


def numpy_tree(tree):
    """A nested dict of float64 arrays."""
    if isinstance(tree, dict):
        return {name: numpy_tree(branch) for name, branch in tree.items()}
    return np.asarray(tree, np.float64)


def logits(config, params, tokens, offset=None):
    """float64[B, L, V]; params as `init_params` gives them."""
    params = numpy_tree(params)
    return np.stack(
        [
            _row(config, params, row, None if offset is None else np.asarray(offset[b], np.float64))
            for b, row in enumerate(np.asarray(tokens))
        ]
    )


def log_probs(config, params, tokens):
    """float64[B, L - 1]: log p(tokens[:, i + 1] | tokens[:, :i + 1])."""
    z = logits(config, params, tokens)[:, :-1]
    log_z = np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1)) + z.max(-1)
    return np.take_along_axis(z, np.asarray(tokens)[:, 1:, None], -1)[..., 0] - log_z


def _row(config, params, tokens, offset):
    x = params["embedding"][tokens]
    if offset is not None:
        x = x + offset
    for number in range(config.layers):
        block = params[f"block_{number:02d}"]
        x = x + _norm(_attention(config, block["attention"], x), block["attention_norm"], config)
        x = x + _norm(_mlp(block["mlp"], x), block["mlp_norm"], config)
    return _norm(x, params["norm"], config) @ params["head"]


def _norm(x, norm, config):
    return norm["weight"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps)


def _mlp(mlp, x):
    gate = x @ mlp["gate"]
    return (gate / (1 + np.exp(-gate)) * (x @ mlp["up"])) @ mlp["down"]


def _attention(config, attention, x):
    C = config.width // config.heads
    kv_heads = config.kv_heads or config.heads
    q = _norm(x @ attention["query"], attention["query_norm"], config)
    k = _norm(x @ attention["key"], attention["key_norm"], config)
    v = x @ attention["value"]
    out = []
    for head in range(config.heads):
        kv = head // (config.heads // kv_heads)
        qh = _rope(q[:, head * C : (head + 1) * C], config.rope_theta)
        kh = _rope(k[:, kv * C : (kv + 1) * C], config.rope_theta)
        vh = v[:, kv * C : (kv + 1) * C]
        for t in range(len(x)):
            scores = kh[: t + 1] @ qh[t] / np.sqrt(C)
            weights = np.exp(scores - scores.max())
            out.append(weights @ vh[: t + 1] / weights.sum())
    heads_HxLxC = np.array(out).reshape(config.heads, len(x), C)
    return heads_HxLxC.transpose(1, 0, 2).reshape(len(x), -1) @ attention["out"]


def _rope(x_LxC, theta):
    """Element i of the first half turns with element i of the second: a complex product."""
    L, C = x_LxC.shape
    z = x_LxC[:, : C // 2] + 1j * x_LxC[:, C // 2 :]
    angle = np.arange(L)[:, None] * theta ** (-2 * np.arange(C // 2) / C)
    z = z * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=1)
