"""The paper's thirty conditions: their tokens, their suffixes, and what a reference chooses."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure

from ttoaa.experiments.canaries import Canaries
from ttoaa.statistics.bootstrap import Estimate

LENGTHS = (1, 8, 32)
KINDS = ("plain", *(f"{kind}-{n}" for kind in ("rare", "unlikely", "random") for n in LENGTHS))


def paper(**changes):
    fields = {
        "name": "mia",
        "primary": "auc/rare-8-16x",
        "expected_sign": 1,
        "kinds": KINDS,
        "members": 3,
        "nonmembers": 4,
        "host_tokens": 16,
    }
    return Canaries(**(fields | changes))


class Descending:
    """Finds the largest ids least likely, from the last token of the prompt downwards."""

    def __init__(self):
        self.prompts = []

    def least_likely(self, prompts, count, among):
        self.prompts += prompts
        return np.stack([np.roll(among[::-1], int(p[-1]))[:count] for p in prompts])


def with_choices(experiment, world):
    model = Descending()
    chosen = experiment.choose(world, model)
    return dataclasses.replace(world, choices=chosen), model


def reserved_world(make_world, tokenizer, experiment):
    """A world whose tokenizer has 16 reserved ids."""
    world = make_world(experiment)
    wide = type("T", (), {"eos_id": tokenizer.eos_id, "decode": lambda self, ids: "",
                          "reserved_ids": range(tokenizer.reserved_ids.start, 400)})()  # fmt: skip
    return dataclasses.replace(world, tokenizer=wide)


@pytest.fixture
def items_and_world(make_world, tokenizer):
    experiment = paper()
    world, model = with_choices(experiment, reserved_world(make_world, tokenizer, experiment))
    return list(experiment.intervene(world)), world, model


def test_there_are_thirty_conditions_and_all_have_matched_nonmembers(items_and_world):
    items, _, _ = items_and_world
    members = {i.condition for i in items if i.repetitions}
    assert members == {f"{kind}-{r}x" for kind in KINDS for r in (1, 4, 16)} and len(members) == 30
    nonmembers = {i.condition for i in items if not i.repetitions}
    own = {f"rare-{n}-0x-of-{r}x" for n in LENGTHS for r in (1, 4, 16)}
    shared = {f"{kind}-0x" for kind in KINDS if not kind.startswith("rare")}
    assert nonmembers == own | shared
    assert {c.matched for c in paper().conditions} == nonmembers
    assert len({i.id for i in items}) == len(items)


def test_a_rare_token_belongs_to_one_condition_and_its_nonmembers(items_and_world):
    items, world, _ = items_and_world
    tokens = {}
    for item in items:
        if item.condition.startswith("rare"):
            tokens.setdefault(item.condition, set()).update(item.tokens[17:-1].tolist())
    assert all(len(found) == 1 for found in tokens.values())
    for n in LENGTHS:
        for r in (1, 4, 16):
            assert tokens[f"rare-{n}-{r}x"] == tokens[f"rare-{n}-0x-of-{r}x"]
    distinct = set().union(*tokens.values())
    assert len(distinct) == 9 and distinct <= set(world.tokenizer.reserved_ids)


def test_unlikely_suffixes_are_those_that_the_reference_finds_after_the_host(items_and_world):
    items, world, model = items_and_world
    unlikely = [i for i in items if i.condition.startswith("unlikely")]
    assert len(model.prompts) == len(unlikely) == 3 * (4 + 3 * 3)
    ordinary = np.delete(np.arange(world.tokenizer.reserved_ids.start), world.tokenizer.eos_id)
    for item, prompt in zip(unlikely, model.prompts, strict=True):
        assert prompt.tolist() == item.tokens[:17].tolist()  # EOS and host
        n = int(item.condition.split("-")[1])
        expected = np.roll(ordinary[::-1], int(prompt[-1]))[:n]
        assert item.tokens[17:-1].tolist() == expected.tolist()
    chosen = world.choices
    assert list(chosen.columns) == ["item", "token"] and chosen["token"].dtype == np.int64


def test_only_unlikely_canaries_and_calibration_need_a_reference(make_world):
    assert paper().needs_reference
    assert paper(kinds=("plain", "rare-8"), calibrate=["reference"]).needs_reference
    without = paper(kinds=("plain", "rare-8"), calibrate=["control"])
    assert not without.needs_reference
    assert without.choose(make_world(without), Descending()).empty


def test_other_kinds_do_not_depend_on_the_choices(make_world, tokenizer, same_items):
    """Kinds after the unlikely ones keep their suffixes, whatever the reference finds."""
    experiment = paper(kinds=("plain", "unlikely-8", "random-8"), primary="auc/plain-1x")
    world = make_world(experiment)
    found = []
    for shift in (0, 1):
        model = Descending()
        model.least_likely = lambda p, count, among, shift=shift: np.tile(
            among[shift : shift + count], (len(p), 1)
        )
        chosen = dataclasses.replace(world, choices=experiment.choose(world, model))
        found.append(list(experiment.intervene(chosen)))
    kept = [[i for i in items if "unlikely" not in i.condition] for items in found]
    assert same_items(*kept) and not same_items(*found)


def test_members_may_differ_by_repetitions(make_world, tokenizer):
    experiment = paper(kinds=("plain", "rare-8"), members=(7, 5, 2))
    items = list(experiment.intervene(make_world(experiment)))
    counts = {c: sum(i.condition == c for i in items) for c in dict.fromkeys(
        i.condition for i in items)}  # fmt: skip
    assert (counts["rare-8-1x"], counts["rare-8-4x"], counts["rare-8-16x"]) == (7, 5, 2)
    assert counts["rare-8-0x-of-16x"] == counts["plain-0x"] == 4
    assert experiment.reserve_windows(make_world(experiment).geometry) == [9, 5]


def test_the_figure_shows_detection_against_repetitions_and_length(final_table):
    experiment = paper(nonmembers=500)
    made = [
        Estimate(outcome, c.name, 3, c.kind.tokens + c.repetitions / 100, 0, 1, 0, 0, 0, 0)
        for outcome in ("auc", "tpr_at_1pct_fpr")
        for c in experiment.conditions
        if c.repetitions
    ]
    axes = Figure().subplots()
    experiment.figure(final_table(made), axes)
    panels = axes.child_axes
    assert len(panels) == 4 * 3
    rare = [
        next(line for line in panel.get_lines() if line.get_label() == "rare") for panel in panels
    ]
    np.testing.assert_allclose(rare[1].get_ydata(), [8.01, 8.04, 8.16])  # 8 tokens
    np.testing.assert_allclose(rare[5].get_ydata(), [1.16, 8.16, 32.16])  # 16 repetitions
    two_seeds, chance = 4 * 2, 1
    assert len(panels[0].get_lines()) == two_seeds + chance
    assert len(panels[3].get_lines()) == 3 * 2 + chance  # plain canaries have no length
