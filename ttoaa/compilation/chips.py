"""What is known of each TPU, per device as a running JAX counts them."""

import dataclasses

from ttoaa.training.speed import PEAK_FLOPS


@dataclasses.dataclass(frozen=True)
class Chip:
    peak_flops: float
    """bf16 FLOP/s."""
    hbm_gib: float
    """What a program may take of the memory."""
    hbm_bandwidth: float
    """bytes/s."""
    link: float
    """bytes/s that one link of the torus carries in one direction."""
    clock: float
    """Hz: the peak over what the matrix units do in a cycle."""
    ring: int
    """Chips along an axis from which on the torus closes."""


# Bandwidths and topologies: cloud.google.com/tpu/docs, the page of each generation. Memory: what
# libtpu 0.0.42 says is there when a program is too large. Links: a sixth (3D torus) or a quarter
# (2D) of a chip's published interconnect, of which nine tenths are usable according to "How to
# Scale Your Model" (jax-ml.github.io/scaling-book/tpus). Clocks: a cycle is 8 (v4, v5p) or 4 (v5e,
# v6e) systolic arrays of 128 x 128 (v6e: 256 x 256) multiply-adds.
CHIPS = {
    "TPU v4": Chip(PEAK_FLOPS["TPU v4"], 30.75, 1.228e12, 45e9, 1.05e9, 4),
    "TPU v5": Chip(PEAK_FLOPS["TPU v5"], 95.74, 2.765e12, 90e9, 1.75e9, 4),
    "TPU v5 lite": Chip(PEAK_FLOPS["TPU v5 lite"], 15.75, 0.819e12, 45e9, 1.5e9, 16),
    "TPU v6 lite": Chip(PEAK_FLOPS["TPU v6 lite"], 31.25, 1.64e12, 90e9, 1.75e9, 16),
}
