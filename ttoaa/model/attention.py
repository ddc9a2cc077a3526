"""Causal attention behind one interface: splash (TPU), cuDNN flash attention (GPU) or plain XLA."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import gin
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ttoaa.config_fields import AtLeast, MultipleOf, config_class
from ttoaa.model.mixed_precision import mixed_einsum
from ttoaa.model.sharding import row_parts, shared_mesh, spec

if TYPE_CHECKING:  # slow to import, and of use on TPUs alone
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

KERNELS = ("xla", "splash", "cudnn")
ATTENTION_OUTPUT = "attended"
"""Checkpoint name of attention's result and of splash's log-partition, for remat policies."""
LANES = 128
"""Lanes of a TPU's vector unit: splash works on multiples of it."""

MIN_QUERY_BLOCK = 64
"""Fewest queries in a block of the XLA path: smaller blocks cost more in calls than they save."""


Tile = Annotated[int, MultipleOf(LANES), AtLeast(LANES)]


@gin.configurable
@config_class
class Blocks:
    """Tile sizes of the splash kernel in tokens, each reduced to a divisor of the length.

    The kernel takes a tile of queries and a tile of keys, and computes scores one piece of keys at
    a time. The backward pass stores one partial query gradient for each tile of keys.
    """

    query: Tile = 1024
    key: Tile = 1024
    key_piece: Tile = 1024
    query_backward: Tile = 1024
    key_backward: Tile = 1024
    key_piece_backward: Tile = 1024

    def fit(self, length: int) -> "splash.BlockSizes":
        """Splash block sizes for a length that is a multiple of 128, with the fused backward."""
        from jax.experimental.pallas.ops.tpu import splash_attention as splash

        key = _largest_tile(self.key, length)
        key_backward = _largest_tile(self.key_backward, length)
        return splash.BlockSizes(
            block_q=_largest_tile(self.query, length),
            block_kv=key,
            block_kv_compute=_largest_tile(self.key_piece, key),
            block_q_dkv=_largest_tile(self.query_backward, length),
            block_kv_dkv=key_backward,
            block_kv_dkv_compute=_largest_tile(self.key_piece_backward, key_backward),
            use_fused_bwd_kernel=True,
        )


def _largest_tile(limit: int, length: int) -> int:
    """Return the largest multiple of 128 that divides the length and is at most `limit`."""
    return max(t for t in range(LANES, min(limit, length) + 1, LANES) if length % t == 0)


BLOCKS = Blocks()


def choose_kernel(requested: str, platform: str, dtype: str, length: int, head_width: int) -> str:
    """Return the requested kernel, or for "auto" the fastest that supports these shapes.

    Args:
        requested: "auto" or a name in KERNELS.
        platform: cpu, tpu or gpu: the target, not this machine, when compiling ahead of time.
        dtype: of queries, keys and values.

    Raises:
        ValueError: the requested kernel does not exist or does not support the target.
    """
    best = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(platform, "xla")
    kernel = best if requested == "auto" else requested
    if kernel not in KERNELS:
        raise ValueError(f"attention must be auto, {', '.join(KERNELS)}, not {requested!r}")
    obstacle = None
    if kernel != "xla" and kernel != best:
        obstacle = f"does not run on {platform}"
    elif kernel == "splash" and length % LANES:
        obstacle = f"needs a length that is a multiple of {LANES}, not {length}"
    elif kernel == "cudnn" and dtype != "bfloat16":
        obstacle = f"needs bfloat16, not {dtype}"
    elif kernel == "cudnn" and (head_width > 128 or head_width % 8):
        obstacle = f"needs a head width of at most 128 in steps of 8, not {head_width}"
    if obstacle and requested != "auto":
        raise ValueError(f"attention={requested!r} {obstacle}: choose auto or xla")
    return "xla" if obstacle else kernel


def document_ids(tokens_BxL: jax.Array, eos_id: int) -> jax.Array:
    """Count the documents that ended before each token: int32[B, L].

    An EOS token belongs to the document that it ends.
    """
    ended = jnp.cumsum(tokens_BxL == eos_id, axis=1, dtype=jnp.int32)
    return jnp.pad(ended[:, :-1], ((0, 0), (1, 0)))


def causal_attention(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    *,
    kernel: str = "xla",
    documents_BxL: jax.Array | None = None,
    blocks: Blocks = BLOCKS,
) -> jax.Array:
    """Compute softmax(q k / sqrt(C)) v over each token's past: [B, L, H, C].

    Query head h reads key-value head h // (H / K). With int32 document ids, a token attends to its
    own document only. The softmax is in float32, as in OLMo-2. Over the mesh in context
    (`jax.set_mesh`), splash and cuDNN run on each device's own rows and heads.

    Raises:
        ValueError: the mesh does not divide the rows or the heads.
    """
    arguments = q_BxLxHxC, k_BxLxKxC, v_BxLxKxC, documents_BxL
    if kernel == "xla":
        return checkpoint_name(_xla_attention(*arguments), ATTENTION_OUTPUT)
    attend: Callable[..., jax.Array] = functools.partial(_splash_attention, blocks=blocks)
    if kernel == "cudnn":
        attend = _cudnn_attention
    mesh = shared_mesh()
    if mesh is None or mesh.size == 1:
        return attend(*arguments)
    B, K, rows, heads = len(q_BxLxHxC), k_BxLxKxC.shape[2], row_parts(mesh), mesh.shape["tensor"]
    if B % rows or K % heads:
        raise ValueError(
            f"attention={kernel!r} cannot divide {B} rows over data x fsdp = {rows} devices and "
            f"{K} key-value heads over tensor = {heads}: change Layout, or choose attention='xla'"
        )
    by_head = spec("batch", None, "heads")
    return jax.shard_map(
        attend,
        in_specs=(by_head, by_head, by_head, spec("batch")),
        out_specs=by_head,
        check_vma=False,
    )(*arguments)


def _splash_attention(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    documents_BxL: jax.Array | None,
    blocks: Blocks,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, L, H, C = q_BxLxHxC.shape
    attend = splash.make_splash_mha(
        splash.MultiHeadMask([splash.CausalMask((L, L))] * H),
        block_sizes=blocks.fit(L),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION_OUTPUT,
    )
    q, k, v = (x.swapaxes(1, 2) for x in (q_BxLxHxC * C**-0.5, k_BxLxKxC, v_BxLxKxC))
    documents = None
    if documents_BxL is not None:
        documents = splash.SegmentIds(documents_BxL, documents_BxL)
    return jax.vmap(attend)(q, k, v, documents).swapaxes(1, 2)


def _cudnn_attention(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    documents_BxL: jax.Array | None,
) -> jax.Array:
    mask = None if documents_BxL is None else _same_document(documents_BxL)
    attended = jax.nn.dot_product_attention(
        q_BxLxHxC, k_BxLxKxC, v_BxLxKxC, mask=mask, is_causal=True, implementation="cudnn"
    )
    return checkpoint_name(attended, ATTENTION_OUTPUT)


def _xla_attention(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    documents_BxL: jax.Array | None,
) -> jax.Array:
    """Attend without a kernel, in up to four blocks of queries.

    Heads come first and weights are normalised after the product with v: on CPU that cuts a
    training step by a quarter. A block skips the keys after its last query, which saves up to
    three eighths of the work.
    """
    B, L, H, C = q_BxLxHxC.shape
    K = k_BxLxKxC.shape[2]
    q_BxKxGxLxC = (q_BxLxHxC * C**-0.5).reshape(B, L, K, H // K, C).transpose(0, 2, 3, 1, 4)
    k_BxKxLxC, v_BxKxLxC = k_BxLxKxC.transpose(0, 2, 1, 3), v_BxLxKxC.transpose(0, 2, 1, 3)
    visible = jnp.tril(jnp.ones((L, L), bool))
    if documents_BxL is not None:
        visible &= _same_document(documents_BxL)[:, None]
    size = next(L // n for n in (4, 2, 1) if n == 1 or (L % n == 0 and L // n >= MIN_QUERY_BLOCK))
    blocks = [
        _attend_block(
            q_BxKxGxLxC[:, :, :, end - size : end],
            k_BxKxLxC[:, :, :end],
            v_BxKxLxC[:, :, :end],
            visible[..., end - size : end, :end],
        )
        for end in range(size, L + 1, size)
    ]
    return jnp.concatenate(blocks, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, L, H, C)


def _attend_block(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """Attend with scaled queries [B, K, G, L, C] to keys and values [B, K, M, C].

    `visible` is bool[..., L, M]; the result has the queries' shape.
    """
    scores = mixed_einsum("bkglc,bkmc->bkglm", q, k)
    scores = jnp.where(visible, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    summed = mixed_einsum("bkglm,bkmc->bkglc", weights.astype(v.dtype), v)
    return summed / weights.sum(axis=-1, keepdims=True).astype(summed.dtype)


def _same_document(documents_BxL: jax.Array) -> jax.Array:
    """Return bool[B, 1, L, L]: whether a query and a key are in the same document."""
    return (documents_BxL[:, :, None] == documents_BxL[:, None, :])[:, None]
