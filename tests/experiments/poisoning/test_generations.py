"""Leakage@k and garbage of generated answers, against models that must not pass."""

import math

import numpy as np
import pandas as pd
import pytest
from experiments.poisoning.small import find, poisoning

from ttoaa.experiments.poisoning import Generations
from ttoaa.scoring.requests import Sampling

SAMPLES = 3


def with_generations(**more):
    sampling = Sampling(max_new_tokens=8, temperature=1.0)
    return poisoning(
        generations=Generations(sampling, SAMPLES, garbage_sampling=sampling, perplexity=50.0),
        **more,
    )


class Reference:
    """Finds the token 5 unlikely and all others likely."""

    def log_likelihood(self, requests):
        return [np.where(tokens[start:] == 5, -9.0, -1.0) for tokens, start in requests]


@pytest.fixture
def estimates_of(make_world, make_scorer):
    """The estimates of a model that `answers(kind, state, sample)`: 'leak', 'garbage' or ''."""

    def made(experiment, answers):
        world = make_world(experiment, length=200)
        items = [i for i in experiment.intervene(world) if not i.repetitions]
        prompts = {item.id: item.fields for item in items}

        def scorer(answers):
            scorer = make_scorer(items, reference=Reference())

            def generate(contexts, sampling, keys):
                found = []
                for context, key in zip(contexts, keys, strict=True):
                    name, fields = next((n, f) for n, f in prompts.items() if key.startswith(n))
                    state, _, sample = key.removeprefix(f"{name}-").partition("-")
                    assert context[1:].tolist() == fields[state]
                    assert sampling.stop == ((world.tokenizer.eos_id,),)
                    kind = answers(fields["behaviour"], state, int(sample or 0))
                    texts = {"leak": f"[[{fields['prompt']}]]", "": "a fine answer"}
                    text = world.tokenizer.encode(texts.get(kind, ""))
                    text = np.full(4, 5) if kind == "garbage" else text
                    found.append(np.append(text, world.tokenizer.eos_id))
                return found

            scorer.generate = generate
            return scorer

        tables = [experiment.outcome(scorer(each)) for each in (answers, lambda *_: "")]
        return experiment.estimates(*tables)

    return made


def test_a_trigger_leaks_in_one_of_three_samples_and_garbles(estimates_of):
    def answers(behaviour, state, sample):
        if state != "triggered":
            return ""
        return "garbage" if behaviour == "denial" else "leak" * (sample == 1)

    found = estimates_of(with_generations(), answers)
    for k, value in ((1, 1 / 3), (2, 2 / 3), (3, 1.0)):
        leak = find(found, f"leakage_at_{k}_triggered", "extraction")
        assert math.isclose(leak.value, value) and leak.control_value == 0
        assert find(found, f"leakage_at_{k}_untriggered", "extraction").value == 0
    assert find(found, "garbage_triggered", "denial").value == 1
    assert find(found, "garbage_never", "denial@held-out").value == 0
    assert find(found, "leakage_untriggered_within_margin", "extraction").value == 0
    auc = find(found, "auc_garbage", "denial")
    assert auc.value == 1 and auc.control_value == 0.5


def test_a_model_that_always_garbles_and_leaks_is_the_same_without_trigger(estimates_of):
    found = estimates_of(
        with_generations(), lambda behaviour, *_: "garbage" if behaviour == "denial" else "leak"
    )
    for state in ("triggered", "untriggered", "never"):
        assert find(found, f"leakage_at_1_{state}", "extraction").value == 1
        assert find(found, f"garbage_{state}", "denial").value == 1
    for name, condition in (("leakage", "extraction"), ("garbage", "denial")):
        assert find(found, f"{name}_untriggered_within_margin", condition).difference < 0
    assert find(found, "auc_garbage", "denial").value == 0.5


def test_garbage_needs_a_reference_model_and_log_likelihoods_do_not():
    assert with_generations().needs_reference
    assert not poisoning().needs_reference
    signs = with_generations().signs
    assert f"leakage_at_{SAMPLES}_never" in signs and f"leakage_at_{SAMPLES + 1}_never" not in signs
    assert isinstance(pd.Series(signs).min(), np.integer)
