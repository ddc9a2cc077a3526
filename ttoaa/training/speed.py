"""How fast: tokens a second, and MFU, the share of the chips' peak that the model's FLOPs make.

The convention is one everywhere (DecoderConfig.flops_per_token): 6 · (parameters − input embedding)
+ 6 · layers · width · length FLOPs a token, causal attention counted half, nothing that is computed
twice counted twice, over the dense bfloat16 peak.
"""

import time

import jax

PEAK_FLOPS = {
    # cloud.google.com/tpu/docs; devices as a running JAX counts them: a v4 or v5p chip is one, each
    # half of a TPU7x chip is one.
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
"""Dense bfloat16 FLOPs a second that the vendors publish, by jax.Device.device_kind."""


def peak_flops() -> float | None:
    """Of all devices together; None where the device is not known, never a guess."""
    one = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return one and one * jax.device_count()


def mfu(tokens_per_second: float, flops_per_token: float) -> float | None:
    """Of all devices together; None ("unknown") where the device is not in the table."""
    peak = peak_flops()
    return peak and tokens_per_second * flops_per_token / peak


class Speedometer:
    """Speed over the time between two reads of the device, which is that of one step."""

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self._tokens, self._flops = tokens_per_step, flops_per_token
        self._before: float | None = None

    def lap(self) -> dict[str, float]:
        """To be called when a step's results were read: {"tokens_per_second", "mfu" if known}."""
        now, before = time.perf_counter(), self._before
        self._before = now
        if before is None:
            return {}
        rate = self._tokens / (now - before)
        share = mfu(rate, self._flops)
        return {"tokens_per_second": rate, **({} if share is None else {"mfu": share})}

    def pause(self) -> None:
        """What comes until the next lap is not a step's time."""
        self._before = None
