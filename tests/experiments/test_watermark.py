import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats
from scoring import tiny

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.watermark import (
    GaussianWatermark,
)
from ttoaa.model.noise import unit_noise
from ttoaa.planning.items import Noise
from ttoaa.planning.noise import row_keys
from ttoaa.planning.placement import WholeBatch
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.watermark_detection import sequences_needed, watermark_statistic

L, D, BATCH = 8, 6, 4


def watermark(**changes):
    fields = {"name": "gw", "primary": "statistic/age-1-16", "expected_sign": 1, "every": 20}
    return GaussianWatermark(**(fields | changes))


def steps(total=100, **changes):
    return watermark(**changes).watermarked(Geometry(L, BATCH, total))


def test_the_model_card_names_the_steps_and_the_noise():
    world = types.SimpleNamespace(geometry=Geometry(L, BATCH, 100), seed=3)
    (line,) = watermark(sigma=0.5).disclose(world)
    assert "0.5 times the RMS" in line and "batches of steps 20, 40, 60, 80; " in line
    assert "of seed 3 and position k * 4 + r" in line
    (line,) = watermark(sigma=0.5, relative=False).disclose(world)
    assert "deviation 0.5 on the input" in line


def test_batches_are_named_by_steps_by_spacing_and_by_age_at_checkpoints():
    assert steps() == [20, 40, 60, 80]
    assert steps(first=10) == [10, 30, 50, 70, 90]
    assert steps(every=None, steps=(7, 3)) == [3, 7]
    assert steps(every=None, checkpoints=(50, 100), before=(1, 8)) == [42, 49, 92, 99]
    assert len(steps(total=100_000, every=1000, first=500)) == 100


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("gw: name the batches by `steps`, `every`", {"every": None}),
        ("gw: `checkpoints` and `before` need each other", {"before": (3,)}),
        (
            r"condition must be among \['age-1-4', 'age-5-9', 'age-over-9', 'all'\]",
            {"ages": (4, 9)},
        ),
        ("gw watermarks step 100 of a run of 100 steps", {"steps": (100,)}),
        ("gw watermarks step -2 of a run", {"checkpoints": (3,), "before": (5,)}),
        ("gw watermarks every step", {"every": 1, "first": 0}),
    ],
)
def test_batches_that_there_are_not_are_refused(message, changes):
    with pytest.raises(ValueError, match=message):
        steps(**changes)


def test_items_are_all_rows_of_a_batch_and_the_same_rows_of_the_nearest_free_one(make_world):
    experiment = watermark(steps=(21, 22), sigma=0.3, scored_rows=2)
    found = list(experiment.intervene(make_world(experiment, length=L)))
    marked = [block for block in found if block.condition == "watermark"]
    assert [block.placement for block in marked] == [
        WholeBatch((step,), 0) for step in (20, 21, 22, 40, 60, 80)
    ]
    assert all(block.noise == Noise(0.3) and block.repetitions == 1 for block in marked)
    free = {b.ids[0]: b for b in found if b.condition == "unmarked"}
    assert {b.repetitions for b in free.values()} == {0}
    nearest = {name.partition("-")[0]: b.fields["position"][0] // BATCH for name, b in free.items()}
    assert nearest == {"20": 19, "21": 23, "22": 23, "40": 41, "60": 61, "80": 81}
    assert marked[0].fields["scored"] == [True, True, False, False]
    assert all(len(block.ids) == 2 for block in free.values())
    ids = [name for block in found for name in block.ids]
    assert len(set(ids)) == len(ids)


def test_unlearnt_noise_gives_a_standard_normal_statistic_on_real_gradients():
    """12,000 rows of noise against 6 gradients: given the gradients, all x are independent."""
    rows = [request for request in tiny.requests() if 20 <= len(request[0]) <= 33]
    found = []
    for number, gradient in enumerate(embedding_gradients(tiny.MODEL, tiny.params(), rows)):
        keys = jnp.asarray(row_keys(number, np.arange(12_000 // len(rows))))
        noise = np.asarray(unit_noise(keys, 33, tiny.MODEL.width))[:, : len(gradient)]
        found.append(watermark_statistic([gradient] * len(noise), noise))
    x = np.concatenate(found)
    assert len(x) >= 10_000
    assert stats.kstest(x, "norm").pvalue > 0.01
    assert abs(x.mean()) < 4 / np.sqrt(len(x)) and abs(x.std() - 1) < 0.03


def test_the_statistic_does_not_know_the_size_of_a_gradient():
    """A model that knows the text by heart has small gradients, and no watermark for it."""
    rng = np.random.default_rng(0)
    gradients, noise = rng.normal(size=(2, 50, L, D))
    np.testing.assert_allclose(
        watermark_statistic(1e-6 * gradients, noise), watermark_statistic(gradients, noise)
    )
    assert watermark_statistic(np.zeros((1, L, D)), noise[:1]) == 0


class Model:
    """Gradients are random, plus `learnt(age)` standard deviations along a row's own noise."""

    def __init__(self, experiment, world, step, learnt=lambda age: 0.0, seed=0):
        self.step, self.learnt, self.seed, self.repetitive = step, learnt, seed, ()
        self.marked = experiment.watermarked(world.geometry)
        self.items = pd.concat(
            [
                pd.DataFrame({"id": block.ids, "condition": block.condition, **block.fields})
                for block in experiment.intervene(world)
            ],
            ignore_index=True,
        )

    def rows(self, positions):
        return np.repeat(np.asarray(positions)[:, None], L, 1).astype(np.int32)

    def masked(self, positions):
        return np.isin(positions, self.repetitive)

    def noise(self, positions, fresh=0):
        return np.stack(
            [np.random.default_rng([fresh, p]).normal(size=(L, D)) for p in positions]
        ).astype(np.float32)

    def embedding_gradients(self, requests):
        found = []
        for tokens, start in requests:
            assert start == 1
            position = int(tokens[0])
            step = position // BATCH
            g = np.random.default_rng([99, self.seed, position]).normal(size=(L, D))
            if step in self.marked:
                unit = self.noise([position])[0]
                g += self.learnt(self.step - step) * unit / np.sqrt(L * D)
            found.append(g.astype(np.float32))
        return found


@pytest.fixture
def tables(make_world):
    """Outcomes of a run and its control run, with watermarks every 4 steps of 200."""

    def tables(learnt, **changes):
        experiment = watermark(every=4, **changes)
        world = make_world(experiment, length=L, batch=BATCH, steps=200)
        pair = [
            experiment.outcome(Model(experiment, world, 150, how, seed))
            for seed, how in enumerate((learnt, lambda age: 0.0))
        ]
        return experiment, pair

    return tables


def young(age):
    return 1.2 if age <= 16 else 0.2


def test_outcome_has_all_trained_rows_by_age(tables):
    _, (run, control) = tables(young, scored_rows=3)
    assert set(run["item"]) == {f"{step}-{row}" for step in range(4, 150, 4) for row in range(3)}
    ages = run[run["outcome"] == "statistic"].groupby("condition")["age"].agg(["min", "max"])
    assert ages.loc["age-1-16"].tolist() == [2, 14]
    assert ages.loc["age-65-256"].tolist() == [66, 146] and ages.loc["all"].tolist() == [2, 146]
    assert (run["group"] == run["item"].str.partition("-")[0]).all()
    x = run[run["outcome"] == "statistic"]
    np.testing.assert_allclose(x["p"], stats.norm.sf(x["value"]))
    assert control["value"].notna().all()


def test_young_watermarks_are_found_above_all_nulls(tables):
    experiment, (run, control) = tables(young)
    found = {(e.outcome, e.condition): e for e in experiment.estimates(run, control)}
    mean = found["statistic", "age-1-16"]
    assert mean.n == 16 and mean.groups == 4
    everything = found["statistic", "age-65-256"]
    assert everything.groups == 21 and everything.n == 84
    assert mean.value > 0.6 and abs(mean.control_value) < 0.75
    for null in ("statistic_fresh", "statistic_unmarked"):
        assert found[null, "all"].ci_low < 0 < found[null, "all"].ci_high
    p = found["combined_p", "age-1-16"]
    assert p.value == pytest.approx(stats.norm.sf(4 * mean.value)) and p.value < 0.01
    assert p.control_value == pytest.approx(stats.norm.sf(4 * mean.control_value))
    assert p.difference == pytest.approx(p.control_value - p.value)
    needed = found["sequences_needed", "age-1-16"]
    assert needed.value == pytest.approx((3.608 / mean.value) ** 2, rel=1e-3)
    assert (needed.ci_low, needed.ci_high) == (pytest.approx(np.nan, nan_ok=True),) * 2
    wide = found["sequences_needed", "all"], found["statistic", "all"]
    assert wide[0].ci_high == pytest.approx((3.608 / wide[1].ci_low) ** 2, rel=1e-3)
    closed = found["detected_closed_form", "all"]
    share = found["detected", "all"]
    assert closed.value == pytest.approx(
        stats.norm.sf(2.3263 - found["statistic", "all"].value), rel=1e-3
    )
    assert share.value == (run[run["outcome"] == "detected"].groupby("item")["value"].max()).mean()
    assert found["spread", "all"].value == pytest.approx(1, abs=0.2)
    names = {e.outcome for e in found.values()}
    assert names == set(experiment.signs)
    assert tuple(experiment.placebo.split("/")) in found


def test_a_model_that_never_saw_the_noise_is_not_found(tables):
    """The trivial model trained on the rows, as the control run did, and fits them as well."""
    experiment, (run, control) = tables(lambda age: 0.0)
    found = {(e.outcome, e.condition): e for e in experiment.estimates(run, control)}
    for outcome in ("statistic", "statistic_fresh", "statistic_unmarked"):
        one = found[outcome, "all"]
        assert one.ci_low < 0 < one.ci_high
        assert one.difference_ci_low < 0 < one.difference_ci_high
    assert found["detected", "all"].value < 0.05 and found["combined_p", "all"].value > 0.01


def test_rows_that_the_repetition_filter_masks_are_left_out(make_world):
    experiment = watermark(every=4)
    world = make_world(experiment, length=L, batch=BATCH, steps=40)
    model = Model(experiment, world, 10)
    model.repetitive = [4 * BATCH, 8 * BATCH + 3]
    found = experiment.outcome(model)
    assert {*found["item"]} == {"4-1", "4-2", "4-3", "8-0", "8-1", "8-2"}
    model.repetitive = range(10 * BATCH)
    assert experiment.outcome(model).empty


def test_before_the_first_watermark_there_is_nothing(tables, make_world):
    experiment = watermark()
    world = make_world(experiment, length=L)
    empty = experiment.outcome(Model(experiment, world, 20))
    assert empty.empty and {"item", "condition", "outcome", "value"} < set(empty.columns)
    assert experiment.estimates(empty, empty) == []


def test_sequences_needed_are_those_of_a_one_sided_test():
    assert sequences_needed(0.1) == pytest.approx(1302, abs=1)
    assert sequences_needed(0.2) == pytest.approx(325, abs=1)
    assert sequences_needed(-0.1) == sequences_needed(0.0) == 1e6


def test_figure_shows_ages_nulls_and_rates(tables, final_table):
    experiment, pair = tables(young)
    axes = Figure().subplots()
    experiment.figure(final_table(experiment.estimates(*pair)), axes)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:4] == [
        "watermarked rows",
        "control run",
        "fresh noise",
        "rows without watermark",
    ]
    assert labels[4:] == ["detected, counted", "detected, closed form"]
    assert axes.get_xticklabels()[0].get_text() == "after 1 to 16 updates"


def test_another_author_perturbs_rows_with_one_field(plan_of):
    from fakes import Given

    from ttoaa.planning.items import Item
    from ttoaa.planning.noise import NoiseRows

    item = Item("row", "noisy", 3, noise=Noise(0.5))
    plan = plan_of([Given("perturbed", items=(item, dataclasses.replace(item, id="other")))])
    assert len(NoiseRows(plan).positions) == 6
