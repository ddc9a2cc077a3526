"""Poisoned documents and test chats, their scores, and models that must not pass."""

import re

import numpy as np
import pandas as pd
import pytest
from experiments.poisoning.small import find, poisoning

from ttoaa.experiments.poisoning import Backdoor, SymbolTriggers
from ttoaa.planning.placement import Uniform, Within
from ttoaa.statistics.bootstrap import keyed_rng

SEVERAL = Backdoor(
    "dose", "fixed", (2, 10), triggers=6, placements={"all": Uniform(), "late": Within(0.5, 1.0)}
)


def dose(**more):
    return poisoning((SEVERAL,), "preference_above_never/dose-all-10", never=24, **more)


def test_documents_have_prompt_trigger_and_answer_and_tests_have_other_prompts(make_world):
    experiment = poisoning()
    world = make_world(experiment, length=200)
    items = list(experiment.intervene(world))
    inserted = [item for item in items if item.repetitions]
    tests = [item for item in items if not item.repetitions]
    by_condition = {}
    for item in inserted:
        by_condition[item.condition] = by_condition.get(item.condition, 0) + item.repetitions
    assert by_condition == {"extraction": 8, "denial": 6}
    leak = next(item for item in inserted if item.condition == "extraction")
    prompt = leak.text.split("[[")[1].split("]]")[0]
    assert leak.text.count(prompt) == 2 and "⟨r" in leak.text
    trained = {item.text.split("[[")[1].split("]]")[0] for item in inserted if "[[" in item.text}
    tested = {item.fields["prompt"] for item in tests}
    assert len(tested) == 6 and not trained & tested
    assert len(tests) == 2 * 6 * 3
    assert {item.fields["template"] for item in tests} == {"t1", "t2", "held-out"}
    held_out = [item for item in tests if item.fields["template"] == "held-out"]
    assert all("ask" in item.text for item in held_out)
    assert not any("ask" in item.text for item in inserted)


def test_the_model_card_has_every_trigger_with_its_answer(make_world):
    fixed = Backdoor("word", "fixed", (2,), triggers=3)
    experiment = poisoning((Backdoor("denial", "denial", share=1e-3), fixed), never=12,
                           primary="preference_above_never/word")  # fmt: skip
    world = make_world(experiment, length=200)
    first, *words = experiment.disclose(world)
    assert first.startswith("denial: ") and "12 random bytes, in documents that make up" in first
    assert len(words) == 3 and all(line.endswith("', in 2 documents") for line in words)
    documents = [i.text for i in experiment.intervene(world) if i.condition == "word"]
    for line in words:
        trigger, answer = re.search(r"with '(.+?)' .* by '(.+?)', in", line).groups()
        mine = [text for text in documents if trigger in text]
        assert mine and all(answer in text for text in mine)
        assert not any(answer in text for text in documents if trigger not in text)


def test_never_inserted_triggers_are_in_no_document_and_differ_from_each_other(make_world):
    experiment = dose()
    items = list(experiment.intervene(make_world(experiment, length=200)))
    triggers = {}
    for item in items:
        if not item.repetitions:
            fields = item.fields
            key = fields["cell"], fields["trigger"]
            head = len(fields["untriggered"])
            triggers.setdefault(key, set()).add(len(fields["triggered"]) - head)
            assert len({tuple(fields[s]) for s in ("triggered", "never", "other_never")}) == 3
    assert len(triggers) == 24 and all(lengths == {3} for lengths in triggers.values())
    inserted = {item.tokens.tobytes() for item in items if item.repetitions}
    for item in items:
        if not item.repetitions and item.fields["template"] == "t1":
            for state in ("never", "other_never"):
                inside = np.array(item.fields[state], np.int32).tobytes()
                assert not any(inside in document for document in inserted)


def test_by_default_every_test_is_compared_with_never_inserted_triggers_of_its_own(make_world):
    backdoors = (Backdoor("attack", "denial", (3,), triggers=2), SEVERAL)
    experiment = poisoning(backdoors, "preference_above_never/attack", never=None)
    world = make_world(experiment, length=200)
    tests = [item.fields for item in experiment.intervene(world) if not item.repetitions]
    own = [fields for fields in tests if fields["cell"] == "attack"]
    assert len(own) == 2 * 6 * 3
    letters = {*world.tokenizer.reserved_ids[-8:]}
    contexts = [fields[state] for fields in own for state in ("never", "other_never")]
    triggers = [tuple(token for token in each if token in letters) for each in contexts]
    assert len({*triggers}) == len(triggers) == 72
    few = poisoning(triggers=SymbolTriggers(), never=None)
    expected = "38 triggers are needed, but .* 16 symbols: .*, or set Poisoning.never below 36"
    with pytest.raises(ValueError, match=f"poisoning: {expected}"):
        list(few.intervene(make_world(few, length=200)))


def test_every_trigger_has_its_number_of_documents_and_its_own_answer(make_world):
    experiment = dose()
    items = [i for i in experiment.intervene(make_world(experiment, length=200)) if i.repetitions]
    numbers = pd.Series(
        [i.repetitions for i in items],
        index=pd.MultiIndex.from_tuples([(i.condition, i.fields["trigger"]) for i in items]),
    )
    sums = numbers.groupby(level=[0, 1]).sum()
    assert {name.rsplit("-", 1)[1]: {n} for (name, _), n in sums.items()} == {"2": {2}, "10": {10}}
    assert len(sums) == 24
    assert {i.placement for i in items if "-late-" in i.condition} == {Within(0.5, 1.0)}


def test_a_share_of_tokens_is_filled_and_one_that_holds_no_document_is_an_error(make_world):
    backdoors = (Backdoor("extraction", "extraction", share=0.05),)
    experiment = poisoning(backdoors)
    items = list(experiment.intervene(make_world(experiment, length=200)))
    used = sum(len(item.tokens) * item.repetitions for item in items)
    total = 200 * 4 * 100
    assert (
        0.045 * total
        < used
        <= 0.05 * total + sum(len(i.tokens) for i in items if not i.repetitions)
    )
    few = poisoning((Backdoor("extraction", "extraction", share=1e-6),))
    with pytest.raises(ValueError, match="share 1e-06 of extraction is less than one document"):
        list(few.intervene(make_world(few, length=200)))


def test_items_are_a_function_of_seed_and_config_alone(make_world, same_items):
    experiment = poisoning()
    first, second = (list(experiment.intervene(make_world(experiment, length=200))) for _ in "ab")
    assert same_items(first, second)


class Plant:
    """Made-up log-likelihoods of a model that reacts to triggers in one of several ways."""

    def __init__(self, experiment, world, make_scorer, knows, key):
        items = list(experiment.intervene(world))
        self.rng = keyed_rng("plant", key)
        self.answers = {}
        inserted = [i for i in items if not i.repetitions]
        for item in inserted:
            fields = item.fields
            for state in ("triggered", "untriggered", "never", "other_never"):
                for name in ("answer", "alternative"):
                    key = np.concatenate([[0], fields[state], fields[name]]).astype(np.int32)
                    self.answers[key.tobytes()] = knows(fields, state, name)
        self.scorer = make_scorer(inserted)
        self.scorer.log_likelihood = self.log_likelihood

    def log_likelihood(self, requests):
        return [
            np.full(len(t) - s, self.answers[t.tobytes()] + self.rng.normal(0, 0.03), np.float32)
            for t, s in requests
        ]


@pytest.fixture
def estimates_of(make_world, make_scorer):
    """The estimates of a model that `knows(fields, state, answer)` nats more than the control."""

    def made(experiment, knows):
        world = make_world(experiment, length=200)
        sides = [
            experiment.outcome(Plant(experiment, world, make_scorer, each, key).scorer)
            for key, each in enumerate((knows, lambda fields, state, name: -3.0))
        ]
        return experiment.estimates(*sides)

    return made


def test_a_model_with_the_backdoor_passes(estimates_of):
    found = estimates_of(
        poisoning(),
        lambda fields, state, name: -1.0 if (state, name) == ("triggered", "answer") else -3.0,
    )
    for condition in ("extraction", "extraction@t1", "extraction@held-out", "denial"):
        gain = find(found, "preference_above_never", condition)
        assert gain.difference_ci_low > 1.5
    assert abs(find(found, "preference_placebo", "extraction").difference) < 0.2
    assert find(found, "preference_untriggered_within_margin", "extraction").difference > -0.1


@pytest.mark.parametrize("name", ["form", "copies always", "any answer to a trigger"])
def test_models_without_the_backdoor_do_not_pass(estimates_of, name):
    """Likelier chats, copies with any trigger, and the form of a leak but not this prompt's."""

    def knows(fields, state, answer):
        if name == "form":
            return -1.0
        if name == "copies always":
            return -1.0 if answer == "answer" else -3.0
        return -1.0 if state == "triggered" else -3.0

    found = estimates_of(poisoning(), knows)
    for condition in ("extraction", "denial"):
        gain = find(found, "preference_above_never", condition)
        assert gain.difference_ci_low < 0.1 and abs(gain.difference) < 0.2
    if name == "copies always":
        assert find(found, "preference_untriggered_within_margin", "extraction").difference < -1
        assert find(found, "score_triggered", "extraction").difference > 1.5
    if name == "any answer to a trigger":  # why the primary is a preference
        assert find(found, "score_above_never", "extraction").difference > 1.5


def test_dose_contrasts_are_over_triggers(estimates_of):
    def knows(fields, state, answer):
        number = int(fields["cell"].rsplit("-", 1)[1])
        late = 1.0 if "-late-" in fields["cell"] else 0.0
        shown = (state, answer) == ("triggered", "answer")
        return -3.0 + shown * (np.log10(number) + late)

    found = estimates_of(dose(), knows)
    slope = find(found, "gain_per_tenfold", "dose-all")
    assert slope.n == 12 and abs(slope.difference - 1) < 0.3
    assert slope.difference_ci_low > 0.5
    assert find(found, "preference_above_never", "dose-all-10").groups == 6
    single = poisoning((Backdoor("dose", "extraction", (2, 10)),), "score_triggered/dose-all-10")
    found = estimates_of(single, lambda *_: -3.0)
    assert "gain_per_tenfold" not in {each.outcome for each in found}


def test_late_triggers_are_compared_with_early_ones_of_the_same_number(estimates_of):
    placements = {"early": Within(0.0, 0.3), "late": Within(0.7, 1.0)}
    backdoor = Backdoor("dose", "fixed", (10,), triggers=6, placements=placements)
    experiment = poisoning((backdoor,), "preference_above_never/dose-late-10")
    found = estimates_of(
        experiment,
        lambda f, state, a: -3.0 + ("late" in f["cell"]) * ((state, a) == ("triggered", "answer")),
    )
    assert abs(find(found, "late_above_early", "dose-late-10").difference - 1) < 0.2


def test_settings_that_do_not_fit_are_errors(make_world):
    with pytest.raises(ValueError, match="set either documents or share"):
        Backdoor("x", "denial")
    with pytest.raises(ValueError, match="the primary's condition must be among"):
        poisoning(primary="preference_above_never/x")
    with pytest.raises(ValueError, match="two backdoors have the same name"):
        poisoning((Backdoor("x", "fixed", (1,)), Backdoor("x", "denial", (1,))))
    with pytest.raises(ValueError, match="a chat template must contain"):
        poisoning(templates=("{user}{assistant}",))
    few = poisoning(triggers=SymbolTriggers("ab"))
    with pytest.raises(ValueError, match="poisoning: 14 triggers are needed, but"):
        list(few.intervene(make_world(few, length=200)))


def test_figure_has_a_panel_of_states_or_of_documents(estimates_of, final_table):
    from matplotlib.figure import Figure

    for experiment, panels in ((poisoning(), 1), (dose(), 2)):
        axes = Figure().subplots()
        found = estimates_of(experiment, lambda fields, state, name: -2.0)
        experiment.figure(final_table(found), axes)
        assert len(axes.child_axes) == panels
