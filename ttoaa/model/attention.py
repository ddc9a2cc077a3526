"""Causal attention, one interface; the kernel for the platform is chosen here and nowhere else."""

import dataclasses
import functools

import gin
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from ttoaa.model.mixed_precision import product
from ttoaa.model.sharding import row_parts, shared_mesh, spec

KERNELS = ("xla", "splash", "cudnn")
RESIDUAL = "attended"
"""Name under which a remat policy can keep what attention gave, and splash's log partition."""
LANES = 128
"""Of a TPU's vector unit: splash works on multiples of it."""

MIN_QUERIES = 64
"""Of a block without a kernel: fewer cost more in calls than they save in work."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Blocks:
    """Tiles of the splash kernel in tokens, each cut down to a divisor of the length.

    Forward, then backward: a tile of queries meets a tile of keys, whose scores are made a piece at
    a time. The backward pass leaves a partial sum of the queries' gradient for every tile of keys.
    """

    query: int = 1024
    key: int = 1024
    key_piece: int = 1024
    query_backward: int = 1024
    key_backward: int = 1024
    key_piece_backward: int = 1024

    def __post_init__(self) -> None:
        for name, tokens in dataclasses.asdict(self).items():
            if tokens < LANES or tokens % LANES:
                raise ValueError(f"Blocks.{name} must be a multiple of {LANES}, not {tokens}")

    def fit(self, length: int) -> splash.BlockSizes:
        """For a length that is a multiple of 128; forward and fused backward kernel."""
        key, key_backward = _tile(self.key, length), _tile(self.key_backward, length)
        return splash.BlockSizes(
            block_q=_tile(self.query, length),
            block_kv=key,
            block_kv_compute=_tile(self.key_piece, key),
            block_q_dkv=_tile(self.query_backward, length),
            block_kv_dkv=key_backward,
            block_kv_dkv_compute=_tile(self.key_piece_backward, key_backward),
            use_fused_bwd_kernel=True,
        )


def _tile(asked: int, length: int) -> int:
    """The largest multiple of 128 up to the asked one that divides the length."""
    return max(t for t in range(LANES, min(asked, length) + 1, LANES) if length % t == 0)


BLOCKS = Blocks()


def choose_kernel(asked: str, platform: str, dtype: str, length: int, head_width: int) -> str:
    """The best kernel that can do it for "auto", else the one asked for.

    Args:
        platform: cpu, tpu or gpu: the target, which is not this machine when one compiles ahead.
        dtype: of queries, keys and values.

    Raises:
        ValueError: the kernel asked for does not exist or cannot do it.
    """
    best = {"tpu": "splash", "gpu": "cudnn", "cuda": "cudnn"}.get(platform, "xla")
    kernel = best if asked == "auto" else asked
    if kernel not in KERNELS:
        raise ValueError(f"attention is auto, {', '.join(KERNELS)}, not {asked!r}")
    obstacle = None
    if kernel != "xla" and kernel != best:
        obstacle = f"does not run on {platform}"
    elif kernel == "splash" and length % LANES:
        obstacle = f"needs a length that is a multiple of {LANES}, not {length}"
    elif kernel == "cudnn" and dtype != "bfloat16":
        obstacle = f"needs bfloat16, not {dtype}"
    elif kernel == "cudnn" and (head_width > 128 or head_width % 8):
        obstacle = f"needs a head width of at most 128 in steps of 8, not {head_width}"
    if obstacle and asked != "auto":
        raise ValueError(f"attention={asked!r} {obstacle}: choose auto or xla")
    return "xla" if obstacle else kernel


def document_ids(tokens_BxL: jax.Array, eos_id: int) -> jax.Array:
    """int32[B, L]: documents that ended before each token of the row; an EOS ends its own."""
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
    """[B, L, H, C]: softmax(q k / sqrt(C)) v over the past; query head h reads kv head h // (H/K).

    With int32 documents, a token reads the past of its own document only. The softmax is in
    float32, as in OLMo-2. Splash and cuDNN work device by device over the context mesh
    (`jax.set_mesh`): each on its rows and heads.

    Raises:
        ValueError: the rows or heads cannot be shared out evenly over that mesh.
    """
    arguments = q_BxLxHxC, k_BxLxKxC, v_BxLxKxC, documents_BxL
    if kernel == "xla":
        return checkpoint_name(_xla(*arguments), RESIDUAL)
    attend = _cudnn if kernel == "cudnn" else functools.partial(_splash, blocks=blocks)
    mesh = shared_mesh()
    if mesh is None or mesh.size == 1:
        return attend(*arguments)
    B, K, rows, heads = len(q_BxLxHxC), k_BxLxKxC.shape[2], row_parts(mesh), mesh.shape["tensor"]
    if B % rows or K % heads:
        raise ValueError(
            f"attention={kernel!r} cannot share {B} rows over data x fsdp = {rows} devices or {K} "
            f"key-value heads over tensor = {heads}: change Layout, or choose attention='xla'"
        )
    by_head = spec("batch", None, "heads")
    return jax.shard_map(
        attend,
        in_specs=(by_head, by_head, by_head, spec("batch")),
        out_specs=by_head,
        check_vma=False,
    )(*arguments)


def _splash(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    documents_BxL: jax.Array | None,
    blocks: Blocks,
) -> jax.Array:
    _, L, H, C = q_BxLxHxC.shape
    attend = splash.make_splash_mha(
        splash.MultiHeadMask([splash.CausalMask((L, L))] * H),
        block_sizes=blocks.fit(L),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=RESIDUAL,
    )
    q, k, v = (x.swapaxes(1, 2) for x in (q_BxLxHxC * C**-0.5, k_BxLxKxC, v_BxLxKxC))
    documents = None
    if documents_BxL is not None:
        documents = splash.SegmentIds(documents_BxL, documents_BxL)
    return jax.vmap(attend)(q, k, v, documents).swapaxes(1, 2)


def _cudnn(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    documents_BxL: jax.Array | None,
) -> jax.Array:
    mask = None if documents_BxL is None else _same_document(documents_BxL)
    attended = jax.nn.dot_product_attention(
        q_BxLxHxC, k_BxLxKxC, v_BxLxKxC, mask=mask, is_causal=True, implementation="cudnn"
    )
    return checkpoint_name(attended, RESIDUAL)


def _xla(
    q_BxLxHxC: jax.Array,
    k_BxLxKxC: jax.Array,
    v_BxLxKxC: jax.Array,
    documents_BxL: jax.Array | None,
) -> jax.Array:
    """Heads come first and the weights are normalised after the product with v: on CPU a training
    step takes three quarters of the time that it takes the other way round. Queries come in blocks,
    none of which meets keys beyond its own end: that saves up to three eighths of the work."""
    B, L, H, C = q_BxLxHxC.shape
    K = k_BxLxKxC.shape[2]
    q_BxKxGxLxC = (q_BxLxHxC * C**-0.5).reshape(B, L, K, H // K, C).transpose(0, 2, 3, 1, 4)
    k_BxKxLxC, v_BxKxLxC = k_BxLxKxC.transpose(0, 2, 1, 3), v_BxLxKxC.transpose(0, 2, 1, 3)
    visible = jnp.tril(jnp.ones((L, L), bool))
    if documents_BxL is not None:
        visible &= _same_document(documents_BxL)[:, None]
    size = next(L // n for n in (4, 2, 1) if n == 1 or (L % n == 0 and L // n >= MIN_QUERIES))
    blocks = [
        _attend(
            q_BxKxGxLxC[:, :, :, end - size : end],
            k_BxKxLxC[:, :, :end],
            v_BxKxLxC[:, :, :end],
            visible[..., end - size : end, :end],
        )
        for end in range(size, L + 1, size)
    ]
    return jnp.concatenate(blocks, axis=3).transpose(0, 3, 1, 2, 4).reshape(B, L, H, C)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, visible: jax.Array) -> jax.Array:
    """[B, K, G, L, C] of scaled queries [B, K, G, L, C], keys and values [B, K, M, C]."""
    scores = product("bkglc,bkmc->bkglm", q, k)
    scores = jnp.where(visible, scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    summed = product("bkglm,bkmc->bkglc", weights.astype(v.dtype), v)
    return summed / weights.sum(axis=-1, keepdims=True).astype(summed.dtype)


def _same_document(documents_BxL: jax.Array) -> jax.Array:
    """bool[B, 1, L, L]"""
    return (documents_BxL[:, :, None] == documents_BxL[:, None, :])[:, None]
