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
from jax.ad_checkpoint import checkpoint_name

from ttoaa.model.attention import causal_attention, document_ids
from ttoaa.model.compute_config import PLAIN, Execution, rematerialised
from ttoaa.model.mixed_precision import product
from ttoaa.model.rotary import rotate, rotate_by_product
from ttoaa.model.sharding import constrain

Params = dict[str, Any]

_STREAM = ("batch", None, None)
_HEADS = ("batch", "heads", None, None)
_HIDDEN = ("batch", None, "hidden")
_LOGITS = ("batch", None, "vocab")


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
    document_separator: int | None = None
    """Token after which attention sees nothing before it; OLMo-2 has none."""

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
        return self._over(-1, self.weight[...], x)

    def across_heads(self, x_BxHxLxC: jax.Array) -> jax.Array:
        """The same for a projection that is cut into heads: over all of them together."""
        _, H, _, C = x_BxHxLxC.shape
        return self._over((1, 3), self.weight[...].reshape(H, 1, C), x_BxHxLxC)

    def _over(self, axes: int | tuple[int, ...], weight: jax.Array, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=axes, keepdims=True) + self.eps)
        return (weight * h).astype(x.dtype)


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

    def __call__(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> jax.Array:
        return self.attend(x_BxLxD, documents_BxL, execution)[0]

    def attend(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, L, D], and the keys and values [B, K, L, C] that later tokens will want."""
        heads_first = execution.attention == "splash"
        q, k, v = self.project(x_BxLxD, heads_first=heads_first)
        attended_BxLxHxC = causal_attention(
            *(each.swapaxes(1, 2) for each in (q, k, v)),
            kernel=execution.attention,
            documents_BxL=documents_BxL,
            blocks=execution.blocks,
        )
        return checkpoint_name(self.join(attended_BxLxHxC, heads_first), "out"), k, v

    def project(
        self, x_BxLxD: jax.Array, first_B: jax.Array | None = None, heads_first: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries [B, H, L, C], keys and values [B, K, L, C], of tokens from position first_B on.

        By default from 0; any other is turned in the form for a CPU.
        """
        q, k, v = (self._heads(x_BxLxD, name, heads_first) for name in ("query", "key", "value"))
        turn = functools.partial(rotate, first_B=first_B)
        if heads_first:
            turn = rotate_by_product
        q = turn(self.query_norm.across_heads(q), self.config.rope_theta)
        k = turn(self.key_norm.across_heads(k), self.config.rope_theta)
        return q, k, v

    # Kernels want heads before tokens. A TPU's matrix unit writes and reads them in that order for
    # nothing, where copies would take a tenth of a step; a CPU multiplies plain matrices fastest.

    def _heads(self, x_BxLxD: jax.Array, name: str, heads_first: bool) -> jax.Array:
        """[B, H, L, C]"""
        weight, (B, L, D) = getattr(self, name), x_BxLxD.shape
        if heads_first:
            weight_DxHxC = weight[...].reshape(D, -1, self.config.head_width)
            heads = product("dhc,bld->bhlc", weight_DxHxC, x_BxLxD)
        else:
            heads = _dot(x_BxLxD, weight).reshape(B, L, -1, self.config.head_width).swapaxes(1, 2)
        return checkpoint_name(constrain(heads, *_HEADS), name)

    def join(self, x_BxLxHxC: jax.Array, heads_first: bool) -> jax.Array:
        """[B, L, D]"""
        B, L, H, C = x_BxLxHxC.shape
        if not heads_first:
            return _dot(x_BxLxHxC.reshape(B, L, H * C), self.out)
        weight_HxCxD = self.out[...].reshape(H, C, -1)
        return product("bhlc,hcd->bld", x_BxLxHxC.swapaxes(1, 2), weight_HxCxD)


class MLP(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.gate = _matrix(config, rngs, config.width, config.hidden)
        self.up = _matrix(config, rngs, config.width, config.hidden)
        self.down = _matrix(config, rngs, config.hidden, config.width)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate = checkpoint_name(constrain(_dot(x_BxLxD, self.gate), *_HIDDEN), "gate")
        up = checkpoint_name(constrain(_dot(x_BxLxD, self.up), *_HIDDEN), "up")
        return checkpoint_name(_dot(jax.nn.silu(gate) * up, self.down), "down")


class Block(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs)
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config, rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)

    def __call__(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> jax.Array:
        return self.add(x_BxLxD, self.attention(x_BxLxD, documents_BxL, execution))

    def add(self, x_BxLxD: jax.Array, attended_BxLxD: jax.Array) -> jax.Array:
        x_BxLxD = x_BxLxD + self.attention_norm(attended_BxLxD)
        return constrain(x_BxLxD + self.mlp_norm(self.mlp(x_BxLxD)), *_STREAM)


class Decoder(nnx.Module):
    """Next-token prediction; an offset to the input embeddings is added without asking why."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedding = _matrix(config, rngs, config.vocab_size, config.width)
        for number in range(config.layers):
            setattr(self, f"block_{number:02d}", Block(config, rngs))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = _matrix(config, rngs, config.width, config.vocab_size)

    def __call__(
        self, tokens_BxL: jax.Array, offset_BxLxD: jax.Array | None, execution: Execution
    ) -> jax.Array:
        """[B, L, D]: what the head takes."""
        x_BxLxD = self.embed(tokens_BxL, offset_BxLxD)
        separator, documents = self.config.document_separator, None
        if separator is not None:
            documents = document_ids(tokens_BxL, separator)
        return self.norm(self._through_blocks(x_BxLxD, documents, execution))

    def embed(self, tokens_BxL: jax.Array, offset_BxLxD: jax.Array | None = None) -> jax.Array:
        x_BxLxD = jnp.take(self.embedding[...], tokens_BxL, axis=0)
        if offset_BxLxD is not None:
            x_BxLxD = x_BxLxD + offset_BxLxD
        return constrain(x_BxLxD.astype(self.config.dtype), *_STREAM)

    def blocks(self) -> list[Block]:
        return [getattr(self, f"block_{n:02d}") for n in range(self.config.layers)]

    def _through_blocks(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> jax.Array:
        graphs, states = zip(*(nnx.split(block) for block in self.blocks()), strict=True)

        def through_one(x_BxLxD: jax.Array, state: Any) -> tuple[jax.Array, None]:
            block = nnx.merge(graphs[0], state)
            return block(x_BxLxD, documents_BxL, execution), None

        through_one = rematerialised(through_one, execution.remat)
        if execution.scan_layers:
            # Stacked inside the step, so that a checkpoint is the same scanned or unrolled.
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            return jax.lax.scan(through_one, x_BxLxD, stacked)[0]
        for state in states:
            x_BxLxD, _ = through_one(x_BxLxD, state)
        return x_BxLxD


def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Fresh float32 weights as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.split(Decoder(config, nnx.Rngs(key)))[1])


def abstract_params(config: DecoderConfig) -> Params:
    """Shapes and types of the weights, without making them."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def features(
    config: DecoderConfig,
    params: Params,
    tokens_BxL: jax.Array,
    embedding_offset_BxLxD: jax.Array | None = None,
    execution: Execution = PLAIN,
) -> jax.Array:
    """[B, L, D] in config.dtype: what the head takes, as a pure function of the weights."""
    return bind(config, params)(tokens_BxL, embedding_offset_BxLxD, execution)


def bind(config: DecoderConfig, params: Params) -> Decoder:
    """The module with these weights, for the length of a trace."""
    graph, state = _template(config)
    state = jax.tree.map(lambda leaf: leaf, state)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def apply(
    config: DecoderConfig,
    params: Params,
    tokens_BxL: jax.Array,
    embedding_offset_BxLxD: jax.Array | None = None,
    execution: Execution = PLAIN,
) -> jax.Array:
    """float32[B, L, V] logits of int32[B, L] tokens, as a pure function of the weights."""
    x_BxLxD = features(config, params, tokens_BxL, embedding_offset_BxLxD, execution)
    return constrain(x_BxLxD @ params["head"].astype(x_BxLxD.dtype), *_LOGITS).astype(jnp.float32)


@functools.cache
def _template(config: DecoderConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


def _matrix(config: DecoderConfig, rngs: nnx.Rngs, rows: int, columns: int) -> nnx.Param:
    draw = jax.random.truncated_normal(rngs.params(), -3.0, 3.0, (rows, columns), jnp.float32)
    return nnx.Param(config.init_std * draw)


def _dot(x_BxLxI: jax.Array, weight_IxO: nnx.Param) -> jax.Array:
    return product("bli,io->blo", x_BxLxI, weight_IxO[...])
