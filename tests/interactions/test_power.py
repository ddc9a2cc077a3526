import numpy as np
import pandas as pd
import pytest
from interactions.effect_frames import effects, nulls

from tests.statistics.planted_detection import measure
from ttoaa.interactions.power import (
    Rate,
    detected_strength,
    detection_rate,
    false_positives,
    paired_detection_rate,
    paired_noise,
    preview,
    relabel,
    to_markdown,
)


def test_null_matrices_subtract_bursts_that_a_row_or_a_seed_has_once():
    frame = nulls(n=3, draw=lambda rng, n: np.full(n, float(rng.integers(10**6))))
    values = frame["estimate"].unique()
    for places, differences_SxK in relabel(frame, 8, 5):
        assert differences_SxK.shape == (8, len(places)) and (differences_SxK != 0).all()
        # Within a seed, all effects of single experiments have the same null row.
        for seed_K in differences_SxK:
            nulls_of = [set(values - d) & set(values) for d in seed_K[:6]]
            assert set.intersection(*nulls_of)


def test_false_positives_of_noise_and_of_a_planted_effect():
    frame = nulls()
    rate = false_positives(frame)
    assert rate.matrices == 200 and rate.low <= 0.05 and rate.rate < 0.12
    place = ("alone/e0", "control", "e1")
    rates = {size: detection_rate(frame, [size], place, matrices=40) for size in (0.0, 3.0, 8.0)}
    assert rates[0.0].rate < 0.2 and rates[8.0].rate == 1.0
    assert 0 < detected_strength(rates) < 8


def test_a_planted_effect_is_found_next_to_the_cells_of_a_measured_matrix():
    frame, place = effects(noise=0.2), ("alone/e0", "control", "e1")
    rates = [
        paired_detection_rate(frame, np.array([-0.1, 0, 0.1]) + size, place, matrices=40).rate
        for size in (0.0, 0.5)
    ]
    assert rates[0] < 0.2 and rates[1] == 1.0
    # The same effect is not found where the noise of the planted rows exceeds it.
    assert paired_detection_rate(frame, [-5.0, 0.5, 6.0], place, matrices=40).rate < 0.5


def test_the_strength_is_interpolated():
    rates = {k: Rate(rate, 0, 1, 9) for k, rate in ((1.0, 0.1), (2.0, 0.6), (4.0, 1.0))}
    assert detected_strength(rates) == pytest.approx(3.0)
    assert detected_strength({1.0: Rate(0.7, 0, 1, 9)}) is None


def test_the_preview_states_power_cost_and_what_to_raise():
    frame = nulls(n=4)
    found = preview(frame, 8, 2.0, own={"e0": 100.0, "e1": 5.0, "e2": 0.0})
    assert (found.rows, found.seconds) == (6, 6 * 8 * 2.0)
    big, middle, none, unknown = found.columns
    assert big.advice == "enough" and big.detectable < 20
    assert (middle.detectable > 1.0 and "seeds" in middle.advice) or "longer" in middle.advice
    assert none.advice.startswith("longer bursts") and unknown.advice.startswith("run the exp")
    assert preview(frame, 20, 2.0).columns[0].detectable < big.detectable


def test_rows_that_exist_give_the_noise_of_pairs():
    own, paired = {f"e{k}": 5.0 for k in range(4)}, paired_noise(effects(seeds=2, noise=0.2))
    found = preview(nulls(n=4), 8, 2.0, own=own, paired=paired).columns
    bound = preview(nulls(n=4), 8, 2.0, own=own).columns
    assert all(a.detectable < b.detectable / 2 for a, b in zip(found, bound, strict=True))
    assert {each.advice for each in found} == {"enough"}
    assert "enough" not in {each.advice for each in bound}
    assert not paired_noise(effects(seeds=1))  # one seed shows no noise
    table = to_markdown(preview(nulls(n=4), 8, 2.0, own={"e0": 5.0}, paired={"e0": paired["e0"]}))
    assert "6 rows take 1.6 minutes" in table and table.count("unknown | ") == 6


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="at least 6 null bursts"):
        preview(nulls(bursts=5), 8, 1.0)
    with pytest.raises(ValueError, match="at least 6 seeds"):
        preview(nulls(), 4, 1.0)
    with pytest.raises(ValueError, match="need as many null bursts, not 10"):
        next(relabel(nulls(bursts=10), 8, 1))


def test_rates_of_planted_rows_are_those_of_their_effects():
    rng = np.random.default_rng(1)
    values = {"itself": 40.0, "shared-items:0.5": 20.0, "shared-items:0.05": 0.0}
    values["contradiction"] = 2.0  # of an own effect of 5
    planted = {
        kind: pd.DataFrame(
            {
                "seed": range(4),
                "experiment": "e1",
                "row": "run" if kind == "contradiction" else "alone/planted",
                "estimate": value + rng.normal(0, 0.3, 4),
            }
        )
        for kind, value in values.items()
    }
    found = measure(nulls(n=4), effects(noise=0.2), planted, 20)
    assert found["planted"]["itself"]["nulls"][0] == 1.0
    assert found["planted"]["shared-items:0.05"]["paired"][0] < 0.5
    against = found["planted"]["contradiction"]
    assert np.mean(against["effects"]) == pytest.approx(-3, abs=1) and against["paired"][0] == 1.0
    assert np.mean(against["unplanted"]) == pytest.approx(0, abs=0.5)
    assert 0.05 < found["strength"]["paired"] <= 0.5
    assert found["noise"]["nulls"]["e1"] == pytest.approx(1, rel=0.4)
    assert found["noise"]["paired"]["e1"] == pytest.approx(0.2, rel=0.3)
