"""The shift of the dose curve: by number of documents, or by share."""

import numpy as np
import pandas as pd
import pytest

from ttoaa.experiments.poisoning.run_lengths import read_gains, shift
from ttoaa.parquet_io import write_outcomes
from ttoaa.statistics.bootstrap import keyed_rng
from ttoaa.workdir import Workdir

DOSES = (10, 30, 100, 300)


def gains(shares, key):
    """Gains of six triggers that grow with log2 of the number of documents over `shares`."""
    rng = keyed_rng("gains", key)
    return {n: 0.5 * np.log2(n / shares) + rng.normal(0, 0.1, 6) for n in DOSES}


@pytest.mark.parametrize("share", [False, True])
def test_shift_is_zero_by_number_and_one_by_share(share):
    value, low, high = shift(gains(1, "short"), gains(4.0 if share else 1, "long"), 4.0, "x")
    assert low < share < high and high - low < 0.5 and abs(value - share) < 0.2


def test_gains_are_read_from_outcome_tables(tmp_path):
    place = Workdir(tmp_path, 3)
    for run, value in (("run", 2.0), ("control", 0.5)):
        table = pd.DataFrame(
            {
                "item": [str(n) for n in range(4)],
                "condition": ["fixed-all-10"] * 4,
                "outcome": "preference_above_never",
                "value": value,
                "group": ["a", "a", "b", "b"],
            }
        )
        for step in (5, 10):
            path = place.table(run, step, "dose")
            path.parent.mkdir(parents=True)
            write_outcomes(table, path, {})
    step, found = read_gains(str(tmp_path), 3, "dose", "fixed-all")
    assert step == 10 and found[10].tolist() == [1.5, 1.5]
    with pytest.raises(ValueError, match="has no conditions fixed-late-<documents>"):
        read_gains(str(tmp_path), 3, "dose", "fixed-late")
    with pytest.raises(ValueError, match="has no outcomes of seed 4"):
        read_gains(str(tmp_path), 4, "dose", "fixed-all")
    with pytest.raises(ValueError, match="must be the same two or more"):
        shift(found, found, 2.0)
