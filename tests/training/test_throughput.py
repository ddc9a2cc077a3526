import jax
import pytest

from ttoaa.accelerators import PEAK_FLOPS
from ttoaa.training import throughput
from ttoaa.training.throughput import Speedometer, mfu, peak_flops


@pytest.fixture
def devices(monkeypatch):
    def pretend(kind, count):
        class Device:
            device_kind = kind

        monkeypatch.setattr(jax, "devices", lambda: [Device()] * count)
        monkeypatch.setattr(jax, "device_count", lambda: count)

    return pretend


def test_a_chip_that_is_not_in_the_table_is_unknown(devices):
    assert peak_flops() is None and mfu(1e6, 1e9) is None
    devices("TPU v99", 8)
    assert peak_flops() is None


@pytest.mark.parametrize("kind", ["TPU v5", "TPU v5p"])
def test_the_peak_is_that_of_all_devices(devices, kind):
    devices(kind, 64)
    assert peak_flops() == 64 * 459e12


def test_both_names_of_a_chip_have_one_peak():
    """JAX names a v5p "TPU v5" and a v5e "TPU v5 lite"; vendors' names are taken too."""
    for one, other in [("5 lite", "5e"), ("5", "5p"), ("6 lite", "6e")]:
        assert PEAK_FLOPS[f"TPU v{one}"] == PEAK_FLOPS[f"TPU v{other}"]


def test_mfu_of_the_papers_model_by_hand(devices):
    """1.5B on 64 v5p at two million tokens a second; 16 layers, width 2,048, length 4,096."""
    devices("TPU v5", 64)
    layer = 4 * 2048 * 2048 + 3 * 2048 * 8192 + 4 * 2048
    matrix = 16 * layer + 2048 + 2048 * 100_352
    flops = 6 * matrix + 6 * 16 * 2048 * 4096
    assert mfu(2e6, flops) == pytest.approx(2e6 * flops / (64 * 459e12))
    assert 0.5 < mfu(2e6, flops) < 0.7


def test_speed_between_two_reads(devices, monkeypatch):
    now = [10.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    devices("TPU v4", 2)
    meter = Speedometer(tokens_per_step=1000, flops_per_token=275e9)
    assert meter.lap() == {}
    now[0] += 4
    assert meter.lap() == {"tokens_per_second": 250.0, "mfu": pytest.approx(0.125)}
    now[0] += 1
    meter.pause()
    now[0] += 100
    assert meter.lap() == {}
    now[0] += 2
    assert meter.lap()["tokens_per_second"] == 500.0
    devices("cpu", 2)
    now[0] += 2
    assert meter.lap() == {"tokens_per_second": 500.0}
