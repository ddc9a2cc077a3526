"""Planted interactions insert what they say, and refuse what they cannot plant."""

import dataclasses

import numpy as np
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import World
from ttoaa.experiments.contamination import Contamination
from ttoaa.experiments.poisoning import Backdoor, Poisoning
from ttoaa.experiments.poisoning.triggers import ReservedTriggers
from ttoaa.interactions.planted import plant

QUESTIONS = Contamination(
    "questions", "gold_log_likelihood_above_holdout/4x", 1, groups=((0, 3), (4, 6))
)
BACKDOORS = Poisoning(
    "backdoors",
    "preference_above_never/denial",
    1,
    backdoors=(Backdoor("denial", "denial", documents=(2,), triggers=2),),
    triggers=ReservedTriggers(alphabet=16, length=2),
    never=8,
    test_number=2,
    training_number=20,
)


@pytest.fixture(scope="module")
def items(corpus):
    def items(experiment):
        geometry = Geometry(256, 4, 10)
        world = World(0, experiment.name, corpus.tokenizer, geometry, np.empty(0, int), None)
        return {item.id: item for item in experiment.intervene(world)}

    return items


def test_items_are_shared_as_far_as_asked(items):
    own = items(QUESTIONS)
    for kind, copies in (
        ("itself", [4] * 6),
        ("shared-items:0.5", [4] * 3),
        ("shared-items:0.25", [4, 2]),
        ("shared-items:0.01", [1]),
    ):
        found = items(plant(kind, [BACKDOORS, QUESTIONS]))
        inserted = [item for item in found.values() if item.repetitions]
        assert [item.repetitions for item in inserted] == copies
        assert len(found) == len(copies) + 3
        assert all(np.array_equal(item.tokens, own[item.id].tokens) for item in found.values())


def test_a_contradiction_inserts_a_wrong_option(items):
    own, found = items(QUESTIONS), items(plant("contradiction", [QUESTIONS]))
    assert found.keys() == own.keys()
    for name, item in found.items():
        options = [a + b for a, b in zip(*map(item.fields.get, ("contexts", "continuations")),
                                         strict=True)]  # fmt: skip
        assert (options.index(item.text) == item.fields["label"]) == (not item.repetitions), name
        assert item.fields == own[name].fields


def test_one_trigger_gets_two_behaviours(items):
    planted = plant("one-trigger", [QUESTIONS, BACKDOORS])
    (other,) = planted.of.backdoors
    assert other == dataclasses.replace(BACKDOORS.backdoors[0], behaviour="extraction")

    def trained(experiment):
        documents = [item.tokens for item in items(experiment).values() if item.repetitions]
        reserved = [{*tokens[tokens >= 288].tolist()} for tokens in documents]
        return {number for tokens in reserved for number in tokens}, documents

    (triggers, own), (same, others) = trained(BACKDOORS), trained(planted)
    assert triggers and triggers == same
    assert not {tuple(tokens) for tokens in own} & {tuple(tokens) for tokens in others}


@pytest.mark.parametrize("kind", ["other", "itself:0.5", "shared-items", "shared-items:2"])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match="--plant"):
        plant(kind, [QUESTIONS])


def test_the_needed_experiment_must_be_there():
    with pytest.raises(ValueError, match="one-trigger needs a Poisoning"):
        plant("one-trigger", [QUESTIONS])
