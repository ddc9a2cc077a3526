import json

import pytest

from ttoaa.experiments.acquisition.topics import FictionalTexts
from ttoaa.statistics.bootstrap import keyed_rng

RECORDS = [
    {
        "train_context": f"Text {k} on Aba {k} and Bobo {k}.",
        "paraphrases": [f"Aba {k}, and Bobo {k}.", f"Text {k} on Aba {k} and Bobo {k}."],
        "gen_input": [f"Who? {k}:", f"Which? {k}: "],
        "gen_target": [f"Aba {k}", f"Bobo {k}"],
    }
    for k in range(4)
]
QUERIES = [{"input": f"One hears of {k} ", "target": f"aba {k}"} for k in (3, 1)]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(RECORDS))
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, QUERIES)))
    return str(tmp_path / "texts.json"), str(tmp_path / "queries.jsonl")


def test_texts_with_paraphrases_and_their_own_probes(files):
    made = FictionalTexts(files[0], entries=(2, 0)).entities(2, keyed_rng(0))
    assert {e.name for e in made} == {"entry-0", "entry-2"}
    (topic,) = next(e for e in made if e.name == "entry-2").topics
    assert topic.texts == ("Text 2 on Aba 2 and Bobo 2.", "Aba 2, and Bobo 2.")  # each once
    asked = [(p.context, p.target) for p in topic.probes]
    assert asked == [("Who? 2:", "Aba 2"), ("Which? 2:", "Bobo 2")]  # the blank is gone
    assert len(FictionalTexts(files[0], entries=(2, 0)).entities(1, keyed_rng(0))) == 1


def test_queries_belong_to_the_entries_in_their_order(files):
    made = FictionalTexts(*files, entries=(3, 1)).entities(2, keyed_rng(1))
    asked = {e.name: [(p.context, p.target) for p in e.topics[0].probes] for e in made}
    assert asked == {"entry-3": [("One hears of 3", "aba 3")],
                     "entry-1": [("One hears of 1", "aba 1")]}  # fmt: skip
    with pytest.raises(ValueError, match=r"queries\.jsonl: 'aba 3' is not in .* entry 1"):
        FictionalTexts(*files, entries=(1, 3)).entities(2, keyed_rng(1))


def test_what_is_wrong_is_named(files, tmp_path):
    def made(*paths, **changes):
        return FictionalTexts(*paths, **changes).entities(1, keyed_rng(0))

    with pytest.raises(ValueError, match="not a list with the entries"):
        made(files[0], entries=(4,))
    with pytest.raises(ValueError, match=r"2 entities are needed, but .* has 1"):
        FictionalTexts(files[0], entries=(1,)).entities(2, keyed_rng(0))
    with pytest.raises(ValueError, match="equally many lines for each of 3 entries, not 2"):
        made(*files, entries=(3, 1, 0))
    with pytest.raises(ValueError, match="has no probes of the kind 'mem'"):
        made(files[0], entries=(1,), probes="mem")
    with pytest.raises(ValueError, match="there is no file"):
        made(str(tmp_path / "no.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is damaged: Expecting"):
        made(str(tmp_path / "bad.json"))
