"""What a burst of each of the ten experiments is: small, complete, and long enough to measure."""

import collections
import dataclasses
import pathlib

import pytest

from ttoaa import config
from ttoaa.planning.burst_size import BurstSize, Planned

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study():
    return config.load([ROOT / "configs" / "all_ten.gin"])[0]


def size(study, tokens=2_000, steps=50, each=8_000):
    """Every condition of the full run inserts `each` tokens."""
    geometry = dataclasses.replace(study.geometry, steps=steps)
    return BurstSize(tokens, geometry, collections.defaultdict(lambda: Planned(100, each)))


def bursts(study, **changes):
    return {e.name: e.burst(size(study, **changes)) for e in study.experiments}


def test_nine_of_ten_have_a_burst_of_the_same_name(study):
    found = bursts(study)
    assert [name for name, burst in found.items() if burst is None] == ["verbatim"]
    verbatim = next(e for e in study.experiments if e.name == "verbatim")
    assert "cannot remove" in verbatim.no_burst
    assert all(burst.name == name for name, burst in found.items() if burst)


def test_items_are_fewer_and_repetitions_stay(study):
    found = bursts(study)
    assert found["contamination"].groups == ((0, 300), (144, 5))
    assert found["contamination"].primary == "gold_log_likelihood_above_holdout/144x"
    canaries = found["canaries"]
    assert (canaries.kinds, canaries.repetitions, canaries.members) == (("plain",), (16,), (15,))
    assert canaries.nonmembers == 200 and not canaries.needs_reference
    assert found["reasoning"].problems == 125 and found["reasoning"].test_problems == 49
    assert (found["muse"].repetitions, found["muse"].members) == ((10,), (1,))
    iid = found["iid"]
    assert (iid.uniform, iid.decile, iid.selected, iid.held_out) == (0, 0, 2, 64)
    (backdoor,) = found["poisoning"].backdoors
    assert (backdoor.behaviour, backdoor.triggers) == ("denial", 2)
    assert backdoor.share == pytest.approx(2_000 / size(study).geometry.tokens)
    full = bursts(study, tokens=10**6)
    assert full["contamination"].groups[1] == (144, 20) and full["canaries"].members == (60,)
    assert bursts(study, tokens=1)["reasoning"].problems == 1


def test_what_needs_steps_fits_them(study):
    found = bursts(study, steps=25)
    forgetting, geometry = found["forgetting"], size(study, steps=25).geometry
    assert forgetting._steps(geometry) == {"at-0.68": 17} and forgetting.dense_lags[-1] == 8
    assert found["watermark"].watermarked(geometry) == [13]
    assert found["acquisition"].every == 25 and found["acquisition"].policies[0].against is None
    with pytest.raises(ValueError, match="not measured in a burst of 8 steps"):
        bursts(study, steps=8)
    forgetting = next(e for e in study.experiments if e.name == "forgetting")
    late = dataclasses.replace(
        forgetting, dense_lags=(32, 64), primary="cross_entropy_above_twin/end"
    )
    with pytest.raises(ValueError, match="not measured in a burst of 25 steps"):
        late.burst(size(study, steps=25))
