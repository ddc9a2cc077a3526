"""The OLMo-2 decoder (OLMo team, 2024, arXiv 2501.00656; contract C7).

RMSNorm on the outputs of attention and MLP, query and key norms over the full projection, rotary
positions, SwiGLU, no biases, untied input and output embeddings.

Shapes: B rows, L tokens, D width, H heads, K key-value heads, C head width, F hidden width of the
MLP, V vocabulary.
"""

import functools
from typing import Annotated, Any, Literal

import gin
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from ttoaa.config_fields import AtLeast, AtMost, Count, Size, config_class
from ttoaa.model.attention import causal_attention, document_ids
from ttoaa.model.compute_config import PLAIN, Execution, apply_remat
from ttoaa.model.mixed_precision import mixed_einsum
from ttoaa.model.rotary import rotate, rotate_by_matmul
from ttoaa.model.sharding import constrain

Params = dict[str, Any]

_RESIDUAL_AXES = ("batch", None, None)
_HEAD_AXES = ("batch", "heads", None, None)
_HIDDEN_AXES = ("batch", None, "hidden")
_LOGIT_AXES = ("batch", None, "vocab")


@gin.configurable
@config_class
class DecoderConfig:
    """Size and numerics of a decoder."""

    vocab_size: Size
    """Rows of the embedding: at least the corpus's vocabulary, reserved ids included."""
    layers: Annotated[int, AtLeast(1), AtMost(10_000)]
    width: Size
    heads: Size
    hidden: Size
    """Width of the SwiGLU's hidden layer."""
    kv_heads: Size | None = None
    """Key-value heads; by default as many as `heads`."""
    rope_theta: Annotated[float, AtLeast(1), AtMost(1e15)] = 500_000.0
    norm_eps: Annotated[float, AtLeast(1e-30), AtMost(0.1)] = 1e-6
    init_std: Annotated[float, AtLeast(1e-6), AtMost(10)] = 0.02
    """Standard deviation of the initial weights, truncated at three deviations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; weights and reductions stay float32."""
    document_separator: Count | None = None
    """Token id that ends a document: attention does not cross it. OLMo-2 has none."""

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError("DecoderConfig.width must be heads times an even head width")
        if self.heads % self.num_kv_heads:
            raise ValueError("DecoderConfig.heads must be a multiple of kv_heads")
        if self.document_separator is not None and self.document_separator >= self.vocab_size:
            raise ValueError(
                f"DecoderConfig.document_separator must be below vocab_size, {self.vocab_size}, "
                f"not {self.document_separator}"
            )

    @property
    def num_kv_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def num_params(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(self)))

    def flops_per_token(self, length: int) -> float:
        """Return the FLOPs of one training token, forward and backward.

        6 per weight, without the input embedding, which is a look-up. Causal attention counts the
        half below the diagonal: 6 * layers * width * length.
        """
        weights = self.num_params() - self.vocab_size * self.width
        return 6.0 * weights + 6.0 * self.layers * self.width * length


class RMSNorm(nnx.Module):
    """Normalise by the root mean square in float32, weight included, as OLMo-2 does."""

    def __init__(self, width: int, eps: float) -> None:
        self.weight = nnx.Param(jnp.ones((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise over the last axis."""
        return self._normalise(-1, self.weight[...], x)

    def across_heads(self, x_BxHxLxC: jax.Array) -> jax.Array:
        """Normalise a projection that is split into heads, over all heads together."""
        _, H, _, C = x_BxHxLxC.shape
        return self._normalise((1, 3), self.weight[...].reshape(H, 1, C), x_BxHxLxC)

    def _normalise(self, axes: int | tuple[int, ...], weight: jax.Array, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=axes, keepdims=True) + self.eps)
        return (weight * h).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query causal attention with normalised queries and keys."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        kv_width = config.num_kv_heads * config.head_width
        self.query = _init_matrix(config, rngs, config.width, config.width)
        self.key = _init_matrix(config, rngs, config.width, kv_width)
        self.value = _init_matrix(config, rngs, config.width, kv_width)
        self.out = _init_matrix(config, rngs, config.width, config.width)
        self.query_norm = RMSNorm(config.width, config.norm_eps)
        self.key_norm = RMSNorm(kv_width, config.norm_eps)

    def __call__(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> jax.Array:
        return self.attend(x_BxLxD, documents_BxL, execution)[0]

    def attend(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the output [B, L, D], and the keys and values [B, K, L, C] for a cache."""
        heads_first = execution.attention == "splash"
        q, k, v = self.project(x_BxLxD, heads_first=heads_first)
        attended_BxLxHxC = causal_attention(
            *(x.swapaxes(1, 2) for x in (q, k, v)),
            kernel=execution.attention,
            documents_BxL=documents_BxL,
            blocks=execution.blocks,
        )
        return checkpoint_name(self.project_out(attended_BxLxHxC, heads_first), "out"), k, v

    def project(
        self, x_BxLxD: jax.Array, first_B: jax.Array | None = None, heads_first: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return queries [B, H, L, C], keys and values [B, K, L, C].

        The tokens have the positions from first_B on, by default from 0. `heads_first` chooses the
        form for TPU, which supports position 0 only.
        """
        q, k, v = (
            self._project_heads(x_BxLxD, name, heads_first) for name in ("query", "key", "value")
        )
        rotation = functools.partial(rotate, first_B=first_B)
        if heads_first:
            rotation = rotate_by_matmul
        q = rotation(self.query_norm.across_heads(q), self.config.rope_theta)
        k = rotation(self.key_norm.across_heads(k), self.config.rope_theta)
        return q, k, v

    # Kernels want heads before tokens. A TPU's matrix unit reads and writes that order at no cost,
    # where copies would take a tenth of a step. A CPU is fastest on plain matrix products.

    def _project_heads(self, x_BxLxD: jax.Array, name: str, heads_first: bool) -> jax.Array:
        """Project by the weight `name` and split into heads: [B, H, L, C]."""
        weight, (B, L, D) = getattr(self, name), x_BxLxD.shape
        if heads_first:
            weight_DxHxC = weight[...].reshape(D, -1, self.config.head_width)
            heads = mixed_einsum("dhc,bld->bhlc", weight_DxHxC, x_BxLxD)
        else:
            flat = _linear(x_BxLxD, weight)
            heads = flat.reshape(B, L, -1, self.config.head_width).swapaxes(1, 2)
        return checkpoint_name(constrain(heads, *_HEAD_AXES), name)

    def project_out(self, x_BxLxHxC: jax.Array, heads_first: bool) -> jax.Array:
        """Merge the heads by the output projection: [B, L, D]."""
        B, L, H, C = x_BxLxHxC.shape
        if not heads_first:
            return _linear(x_BxLxHxC.reshape(B, L, H * C), self.out)
        weight_HxCxD = self.out[...].reshape(H, C, -1)
        return mixed_einsum("bhlc,hcd->bld", x_BxLxHxC.swapaxes(1, 2), weight_HxCxD)


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.gate = _init_matrix(config, rngs, config.width, config.hidden)
        self.up = _init_matrix(config, rngs, config.width, config.hidden)
        self.down = _init_matrix(config, rngs, config.hidden, config.width)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate = checkpoint_name(constrain(_linear(x_BxLxD, self.gate), *_HIDDEN_AXES), "gate")
        up = checkpoint_name(constrain(_linear(x_BxLxD, self.up), *_HIDDEN_AXES), "up")
        return checkpoint_name(_linear(jax.nn.silu(gate) * up, self.down), "down")


class Block(nnx.Module):
    """Attention and MLP, each with a norm on its output and a residual connection."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs)
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config, rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)

    def __call__(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> jax.Array:
        return self.add_residuals(x_BxLxD, self.attention(x_BxLxD, documents_BxL, execution))

    def add_residuals(self, x_BxLxD: jax.Array, attended_BxLxD: jax.Array) -> jax.Array:
        """Add the attention's output to the residual stream, then that of the MLP."""
        x_BxLxD = x_BxLxD + self.attention_norm(attended_BxLxD)
        return constrain(x_BxLxD + self.mlp_norm(self.mlp(x_BxLxD)), *_RESIDUAL_AXES)


class Decoder(nnx.Module):
    """The whole decoder up to the final norm; `head` turns its features into logits."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embedding = _init_matrix(config, rngs, config.vocab_size, config.width)
        for number in range(config.layers):
            setattr(self, f"block_{number:02d}", Block(config, rngs))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = _init_matrix(config, rngs, config.width, config.vocab_size)

    def __call__(
        self, tokens_BxL: jax.Array, offset_BxLxD: jax.Array | None, execution: Execution
    ) -> jax.Array:
        """Return features [B, L, D]; the offset is added to the input embeddings."""
        x_BxLxD = self.embed(tokens_BxL, offset_BxLxD)
        separator, documents = self.config.document_separator, None
        if separator is not None:
            documents = document_ids(tokens_BxL, separator)
        return self.norm(self._apply_blocks(x_BxLxD, documents, execution))

    def embed(self, tokens_BxL: jax.Array, offset_BxLxD: jax.Array | None = None) -> jax.Array:
        x_BxLxD = jnp.take(self.embedding[...], tokens_BxL, axis=0)
        if offset_BxLxD is not None:
            x_BxLxD = x_BxLxD + offset_BxLxD
        return constrain(x_BxLxD.astype(self.config.dtype), *_RESIDUAL_AXES)

    def blocks(self) -> list[Block]:
        return [getattr(self, f"block_{n:02d}") for n in range(self.config.layers)]

    def _apply_blocks(
        self, x_BxLxD: jax.Array, documents_BxL: jax.Array | None, execution: Execution
    ) -> jax.Array:
        graphs, states = zip(*(nnx.split(block) for block in self.blocks()), strict=True)

        def apply_block(x_BxLxD: jax.Array, state: Any) -> tuple[jax.Array, None]:
            block = nnx.merge(graphs[0], state)
            return block(x_BxLxD, documents_BxL, execution), None

        apply_block = apply_remat(apply_block, execution.remat)
        if execution.scan_layers:
            # Stacked inside the step: a checkpoint has the same leaves, scanned or unrolled.
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            return jax.lax.scan(apply_block, x_BxLxD, stacked)[0]
        for state in states:
            x_BxLxD, _ = apply_block(x_BxLxD, state)
        return x_BxLxD


def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Draw initial float32 weights, as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.split(Decoder(config, nnx.Rngs(key)))[1])


def abstract_params(config: DecoderConfig) -> Params:
    """Return the shapes and types of the weights, without drawing them."""
    return jax.tree.map(lambda leaf: leaf, _abstract_params(config))  # a tree of the caller's own


@functools.lru_cache(maxsize=16)
def _abstract_params(config: DecoderConfig) -> Params:
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def features(
    config: DecoderConfig,
    params: Params,
    tokens_BxL: jax.Array,
    embedding_offset_BxLxD: jax.Array | None = None,
    execution: Execution = PLAIN,
) -> jax.Array:
    """Return the features [B, L, D] that the head takes, in config.dtype."""
    return bind(config, params)(tokens_BxL, embedding_offset_BxLxD, execution)


def bind(config: DecoderConfig, params: Params) -> Decoder:
    """Build a decoder module with these weights, inside a traced function."""
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
    """Return float32 logits [B, L, V] of int32 tokens [B, L]."""
    x_BxLxD = features(config, params, tokens_BxL, embedding_offset_BxLxD, execution)
    logits = x_BxLxD @ params["head"].astype(x_BxLxD.dtype)
    return constrain(logits, *_LOGIT_AXES).astype(jnp.float32)


@functools.cache
def _template(config: DecoderConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))


def _init_matrix(config: DecoderConfig, rngs: nnx.Rngs, rows: int, columns: int) -> nnx.Param:
    draw = jax.random.truncated_normal(rngs.params(), -3.0, 3.0, (rows, columns), jnp.float32)
    return nnx.Param(config.init_std * draw)


def _linear(x_BxLxI: jax.Array, weight_IxO: nnx.Param) -> jax.Array:
    return mixed_einsum("bli,io->blo", x_BxLxI, weight_IxO[...])
