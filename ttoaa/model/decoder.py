"""The OLMo-2 decoder (OLMo team, 2024, arXiv 2501.00656), plain enough to read in one sitting.

Shapes: B rows, L tokens, D width, H heads, K key-value heads, C head width, F hidden width of the
MLP, V vocabulary. Norms stand on the outputs of attention and MLP; queries and keys are normed
over their full projection; no biases; input and output embeddings are untied.
"""

import dataclasses
import functools
from typing import Any

import gin
import jax
import jax.numpy as jnp
from flax import nnx

from ttoaa.model.attention import causal_attention

Params = dict[str, Any]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Size and numerics of a decoder."""

    vocab_size: int
    """Embedding rows: at least the corpus's vocabulary, reserved ids included."""
    layers: int
    width: int
    heads: int
    hidden: int
    """Width of the SwiGLU's hidden layer."""
    kv_heads: int | None = None
    """Key-value heads; as many as heads by default."""
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02
    """Weights are normal with this deviation, truncated at three of it."""
    dtype: str = "float32"
    """Of activations and matrix products; weights and reductions stay float32."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "width", "heads", "hidden", "num_kv_heads"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"DecoderConfig.{name} must be a positive integer")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError("DecoderConfig.width must be heads times an even head width")
        if self.heads % self.num_kv_heads:
            raise ValueError("DecoderConfig.heads must be a multiple of kv_heads")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"DecoderConfig.dtype is float32 or bfloat16, not {self.dtype!r}")

    @property
    def num_kv_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def num_params(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(self)))

    def flops_per_token(self, length: int) -> float:
        """Of one training token, forward and backward: 6 a matrix weight, and causal attention.

        The input embedding is a look-up and does not count; attention counts the half below the
        diagonal: 6 * layers * width * length.
        """
        matrix = self.num_params() - self.vocab_size * self.width
        return 6.0 * matrix + 6.0 * self.layers * self.width * length


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis; the weight multiplies in float32, as in OLMo-2."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = nnx.Param(jnp.ones((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + self.eps)
        return (self.weight[...] * h).astype(x.dtype)


class Attention(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        kv_width = config.num_kv_heads * config.head_width
        self.query = _matrix(config, rngs, config.width, config.width)
        self.key = _matrix(config, rngs, config.width, kv_width)
        self.value = _matrix(config, rngs, config.width, kv_width)
        self.out = _matrix(config, rngs, config.width, config.width)
        self.query_norm = RMSNorm(config.width, config.norm_eps)
        self.key_norm = RMSNorm(kv_width, config.norm_eps)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        C, theta = self.config.head_width, self.config.rope_theta
        q = self.query_norm(_dot(x_BxLxD, self.query)).reshape(B, L, -1, C)
        k = self.key_norm(_dot(x_BxLxD, self.key)).reshape(B, L, -1, C)
        v = _dot(x_BxLxD, self.value).reshape(B, L, -1, C)
        attended = causal_attention(rotate(q, theta), rotate(k, theta), v)
        return _dot(attended.reshape(B, L, D), self.out)


class MLP(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.gate = _matrix(config, rngs, config.width, config.hidden)
        self.up = _matrix(config, rngs, config.width, config.hidden)
        self.down = _matrix(config, rngs, config.hidden, config.width)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return _dot(jax.nn.silu(_dot(x_BxLxD, self.gate)) * _dot(x_BxLxD, self.up), self.down)


class Block(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs)
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config, rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        x_BxLxD = x_BxLxD + self.attention_norm(self.attention(x_BxLxD))
        return x_BxLxD + self.mlp_norm(self.mlp(x_BxLxD))


class Decoder(nnx.Module):
    """Next-token logits; an offset to the input embeddings is added without asking why."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedding = _matrix(config, rngs, config.vocab_size, config.width)
        for number in range(config.layers):
            setattr(self, f"block_{number:02d}", Block(config, rngs))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = _matrix(config, rngs, config.width, config.vocab_size)

    def __call__(
        self, tokens_BxL: jax.Array, embedding_offset_BxLxD: jax.Array | None = None
    ) -> jax.Array:
        """float32[B, L, V] logits of int32[B, L] tokens."""
        x_BxLxD = jnp.take(self.embedding[...], tokens_BxL, axis=0)
        if embedding_offset_BxLxD is not None:
            x_BxLxD = x_BxLxD + embedding_offset_BxLxD
        x_BxLxD = x_BxLxD.astype(self.config.dtype)
        for number in range(self.config.layers):
            x_BxLxD = getattr(self, f"block_{number:02d}")(x_BxLxD)
        return _dot(self.norm(x_BxLxD), self.head).astype(jnp.float32)


def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Fresh float32 weights as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.split(Decoder(config, nnx.Rngs(key)))[1])


def abstract_params(config: DecoderConfig) -> Params:
    """Shapes and types of the weights, without making them."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def apply(
    config: DecoderConfig,
    params: Params,
    tokens_BxL: jax.Array,
    embedding_offset_BxLxD: jax.Array | None = None,
) -> jax.Array:
    """float32[B, L, V] logits, as a pure function of the weights."""
    graph, state = _template(config)
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(tokens_BxL, embedding_offset_BxLxD)


@functools.cache
def _template(config: DecoderConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


def rotate(x_BxLxHxC: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding (Su et al., 2021) on halves, in float32."""
    L, C = x_BxLxHxC.shape[1], x_BxLxHxC.shape[3]
    frequency = theta ** -(jnp.arange(0, C, 2, dtype=jnp.float32) / C)
    angle_Lx1xC = jnp.outer(jnp.arange(L, dtype=jnp.float32), frequency)[:, None]
    cos, sin = jnp.cos(angle_Lx1xC), jnp.sin(angle_Lx1xC)
    a, b = jnp.split(x_BxLxHxC.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BxLxHxC.dtype)


def _matrix(config: DecoderConfig, rngs: nnx.Rngs, rows: int, columns: int) -> nnx.Param:
    draw = jax.random.truncated_normal(rngs.params(), -3.0, 3.0, (rows, columns), jnp.float32)
    return nnx.Param(config.init_std * draw)


def _dot(x: jax.Array, weight: nnx.Param) -> jax.Array:
    return x @ weight[...].astype(x.dtype)
