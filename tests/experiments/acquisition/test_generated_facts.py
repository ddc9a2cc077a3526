import itertools
import re

import numpy as np
import pytest

from ttoaa.experiments.acquisition.generated_facts import KINDS, PROBES, GeneratedKnowledge
from ttoaa.statistics.bootstrap import keyed_rng


def entities(count=6, seed=0, **changes):
    return GeneratedKnowledge(**changes).entities(count, keyed_rng("knowledge", seed))


def grams(text, n):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}


def test_every_text_says_all_facts_of_its_topic_once_and_no_other():
    for entity in entities(facts=4, together=2, paraphrases=60):
        name = entity.name.partition("-")[2]
        assert len(entity.topics) == 2
        values = [{p.target for p in topic.probes} for topic in entity.topics]
        for topic, mine, others in zip(entity.topics, values, values[::-1], strict=True):
            assert len(topic.texts) == len(set(topic.texts)) == 60
            for text in topic.texts:
                assert name in text and text[0].isupper() and text[-1] == "."
                assert all(text.count(value) == 1 for value in mine)
                assert not any(value in text for value in others)
                assert not re.search(r"[{}]|  |\.\.| [.,;]", text), text


def test_names_and_values_are_all_different():
    for words in (1, 2):
        made = entities(40, value_words=words)
        every = [e.name.partition("-")[2] for e in made]
        every += [p.target for e in made for t in e.topics for p in t.probes]
        assert len(set(every)) == len(every) == 40 * 5
        assert all(len(value.split()) == words for value in every[40:])


def test_a_probe_is_in_words_that_no_text_has():
    """Neither its context, nor the three words before the answer and the answer."""
    for entity in entities(len(KINDS), phrasings=len(PROBES), paraphrases=500):
        for topic in entity.topics:
            texts = [text.lower() for text in topic.texts]
            seen = set().union(*(grams(text, 4) for text in texts))
            for probe in topic.probes:
                assert not any(probe.context.lower() in text for text in texts)
                assert not grams(f"{probe.context} {probe.target}", 4) & seen


def test_wording_order_and_framing_vary():
    """Of 1,000 draws for three facts all are different; two share few word trigrams."""
    (entity,) = entities(1, facts=3, paraphrases=1000)
    (topic,) = entity.topics
    values = [p.target for p in topic.probes]
    orders = [tuple(sorted(values, key=text.index)) for text in topic.texts]
    shares = [orders.count(order) / 1000 for order in itertools.permutations(values)]
    assert min(shares) > 1 / 6 - 0.05 and max(shares) < 1 / 6 + 0.05
    assert len({text[:9] for text in topic.texts}) > 30
    assert len({text[-9:] for text in topic.texts}) > 30
    rng = np.random.default_rng(0)
    pairs = [rng.choice(1000, 2, replace=False) for _ in range(500)]
    threes = [[grams(topic.texts[k], 3) for k in pair] for pair in pairs]
    assert np.mean([len(a & b) / len(a | b) for a, b in threes]) < 0.1


def test_more_entities_and_other_seeds():
    first, more = entities(3), entities(5)
    assert more[:3] == first
    assert entities(3, seed=1)[0] != first[0]
    assert len(entities(1, facts=3, together=2)[0].topics) == 2


def test_kinds_come_in_rounds_each_in_an_order_of_its_own():
    def kinds(count, **changes):
        return [e.name.partition("-")[0] for e in entities(count, **changes)]

    drawn = kinds(240)
    rounds = [tuple(drawn[first : first + 6]) for first in range(0, 240, 6)]
    assert all(set(each) == set(KINDS) for each in rounds)
    assert len(set(rounds)) > 30 and len({each[0] for each in rounds}) == 6
    few = list(KINDS)[:4]
    assert sorted(kinds(4, kinds=4)) == sorted(few) and kinds(24, seed=1) != kinds(24)


def test_short_texts_have_no_frame():
    (entity,) = entities(1, together=1, framed=False, paraphrases=12, name_syllables=2)
    assert max(len(text.split()) for topic in entity.topics for text in topic.texts) <= 9


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"facts": 2, "together": 3}, "together must be 1 to 2"),
        ({"together": 1, "framed": False, "paraphrases": 900}, "found 38 of 900 different texts"),
        ({"name_syllables": 2, "value_syllables": 1, "count": 60}, "out of names"),
    ],
)
def test_bad_settings_are_named(changes, told):
    with pytest.raises(ValueError, match=rf"GeneratedKnowledge.*{told}"):
        entities(**changes)
