"""Published figures of TPUs and GPUs, by the device kind that JAX reports.

A device is what a running JAX counts as one: a whole v4 or v5p chip, half of a TPU7x chip.
"""

import dataclasses

PEAK_FLOPS = {
    # cloud.google.com/tpu/docs
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
    # NVIDIA's data sheets, without sparsity.
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bfloat16 FLOP/s of one device."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the time estimate of a compiled program needs to know of a TPU."""

    peak_flops: float
    """Dense bfloat16 FLOP/s."""
    hbm_gib: float
    """Memory that a program can use."""
    hbm_bandwidth: float
    """bytes/s."""
    link: float
    """bytes/s of one torus link in one direction."""
    clock: float
    """Hz: peak FLOP/s divided by the FLOPs that the matrix units do in a cycle."""
    ring: int
    """Smallest number of chips along an axis for which the torus closes to a ring."""


# Bandwidths and topologies: cloud.google.com/tpu/docs, the page of each generation. Memory: what
# libtpu 0.0.42 reports when a program is too large. Links: a sixth (3D torus) or a quarter (2D) of
# a chip's published interconnect bandwidth, of which nine tenths are usable according to "How to
# Scale Your Model" (jax-ml.github.io/scaling-book/tpus). Clocks: in a cycle, 8 (v4, v5p) or 4
# (v5e, v6e) systolic arrays of 128 x 128 (v6e: 256 x 256) do one multiply-add per cell.
CHIPS = {
    "TPU v4": Chip(PEAK_FLOPS["TPU v4"], 30.75, 1.228e12, 45e9, 1.05e9, 4),
    "TPU v5": Chip(PEAK_FLOPS["TPU v5"], 95.74, 2.765e12, 90e9, 1.75e9, 4),
    "TPU v5 lite": Chip(PEAK_FLOPS["TPU v5 lite"], 15.75, 0.819e12, 45e9, 1.5e9, 16),
    "TPU v6 lite": Chip(PEAK_FLOPS["TPU v6 lite"], 31.25, 1.64e12, 90e9, 1.75e9, 16),
}
