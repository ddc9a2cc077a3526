import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from fakes import Planted

from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.evaluation.trained_rows import TrainedRows
from ttoaa.experiments.watermark import GaussianWatermark
from ttoaa.model.noise import unit_noise
from ttoaa.planning.injection import Overlay
from ttoaa.planning.noise import NOISE_KEY, NoiseRows

WIDTH = 16


@pytest.fixture(scope="module")
def plan(plan_of):
    noise = GaussianWatermark("gw", "statistic/all", 1, steps=(3, 11), exclusive=False)
    return plan_of([Planted("planted", repetitions=(0, 60)), noise])


@pytest.fixture(scope="module")
def trained(plan, corpus):
    return TrainedRows(plan, corpus, Order(**plan.contents["order"]), WIDTH)


def test_rows_and_noise_are_those_that_the_loader_gives_to_the_step(plan, corpus, trained):
    transforms = [Overlay(plan, corpus), NoiseRows(plan)]
    loader = batches(corpus, trained.order, plan.geometry, transforms, threads=0)
    every = {batch["step"]: batch for batch in loader}
    assert [step for step, batch in every.items() if NOISE_KEY in batch] == [3, 11]
    positions = np.array([90, 25, 3, 25, 95])
    rows = [every[p // 8]["tokens"][p % 8] for p in positions.tolist()]
    np.testing.assert_array_equal(trained.rows(positions), rows)
    noisy = np.concatenate([np.arange(88, 96), np.arange(24, 28)])
    keys = [every[p // 8][NOISE_KEY][p % 8] for p in noisy.tolist()]
    drawn = unit_noise(jnp.asarray(np.array(keys)), plan.geometry.length, WIDTH)
    np.testing.assert_array_equal(trained.noise(noisy), drawn)
    assert trained.noise([]).shape == (0, plan.geometry.length, WIDTH)


def test_rows_of_a_run_without_an_experiment_are_those_that_its_loader_gives(plan, corpus, trained):
    for names in (("gw",), ("planted",)):
        loader = batches(
            corpus, trained.order, plan.geometry, [Overlay(plan, corpus, names)], threads=0
        )
        expected = np.concatenate([batch["tokens"] for batch in loader])
        own = dataclasses.replace(trained, experiments=names)
        every = np.arange(plan.geometry.sequences)
        np.testing.assert_array_equal(own.rows(every), expected)
        wrote = (expected != dataclasses.replace(trained, experiments=()).rows(every)).any(1)
        assert wrote.any() == (names == ("planted",))
        np.testing.assert_array_equal(own.edited_rows, np.flatnonzero(wrote))


@pytest.mark.parametrize("when", ["before_edits", "after_edits"])
def test_masked_rows_are_those_that_the_loader_takes_out_of_the_loss(plan, corpus, trained, when):
    rule = RepetitionFilter(max_count=3, when=when)
    transforms = rule.among([Overlay(plan, corpus)])
    loader = batches(corpus, trained.order, plan.geometry, transforms, threads=0)
    expected = np.concatenate([~batch["trained"] for batch in loader])
    every = np.arange(plan.geometry.sequences)
    found = dataclasses.replace(trained, repetition_filter=rule).masked(every)
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.sum() < len(every) and not trained.masked(every).any()


def test_reserve_windows_are_those_that_experiments_receive(corpus, plan, trained):
    length = plan.geometry.length
    expected = corpus.windows("reserve", np.array([3, 0]), length)
    np.testing.assert_array_equal(trained.reserve([3, 0]), expected)
    assert trained.reserve([]).shape == (0, length)


def test_fresh_noise_is_other_noise(trained):
    noise = [trained.noise([5, 6], fresh) for fresh in (0, 1, 2)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.mean(noise[one] * noise[other])) < 5 / np.sqrt(noise[0].size)


def test_positions_outside_training_are_refused(trained):
    with pytest.raises(ValueError, match="positions are rows 0 to 319 of training"):
        trained.rows([320])
