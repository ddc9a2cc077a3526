import dataclasses

import numpy as np
import pandas as pd
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.data.sources import Passages, ShuffledWords
from ttoaa.experiments.data_source import ABOVE, CROSS_ENTROPY, DataSource
from ttoaa.planning.burst_size import BurstSize

PROSE = Passages(count=120, characters=80)


def mixed(source=PROSE, **changes):
    fields = {"name": "mix", "primary": "cross_entropy/target", "expected_sign": -1}
    fields |= {"source": source, "target": PROSE, "share": 0.05, "held_out": 4}
    return DataSource(**(fields | changes))


def rows_of(block):
    return block.tokens.reshape(len(block.ids), -1)


@pytest.mark.parametrize("source", [PROSE, ShuffledWords(PROSE)], ids=["own", "shuffled"])
def test_a_source_fills_its_share_of_rows_without_held_out_documents(make_world, source):
    experiment = mixed(source)
    world = make_world(experiment)
    inserted, target, corpus = experiment.intervene(world)
    assert len(inserted.ids) == 20 and rows_of(inserted).shape[1] == 64, "5% of 400 rows"
    assert (inserted.repetitions, target.repetitions, corpus.repetitions) == (1, 0, 0)
    np.testing.assert_array_equal(corpus.windows, world.windows)
    eos, texts = world.tokenizer.eos_id, dict(PROSE.documents("passages"))

    def words(block):
        """The words of the documents that lie in the rows as a whole."""
        documents = np.split(block.tokens, np.flatnonzero(block.tokens == eos))[1:-1]
        return {tuple(sorted(world.tokenizer.decode(d[1:]).split())) for d in documents}

    known = {tuple(sorted(text.split())) for text in texts.values()}
    assert words(inserted) and words(target) <= known and words(inserted) <= known
    assert not words(inserted) & words(target)


def test_seeds_draw_other_documents_and_candidates_share_the_target(make_world):
    one, same = (list(mixed().intervene(make_world(mixed()))) for _ in range(2))
    other = list(mixed().intervene(make_world(mixed(), seed=1)))
    shuffled = mixed(ShuffledWords(PROSE), name="shuffled")
    third = list(shuffled.intervene(make_world(shuffled)))
    np.testing.assert_array_equal(one[0].tokens, same[0].tokens)
    assert not np.array_equal(one[0].tokens, other[0].tokens)
    for blocks in (other, third):
        np.testing.assert_array_equal(blocks[1].tokens, one[1].tokens)


def test_a_source_that_is_too_short_is_refused(make_world):
    experiment = mixed(share=1.0)
    with pytest.raises(ValueError, match=r"^mix: DataSource.source has \d+ rows of 64 tokens, and"):
        list(experiment.intervene(make_world(experiment)))
    with pytest.raises(ValueError, match=r"DataSource\.target has"):
        list(mixed(held_out=999).intervene(make_world(experiment)))
    with pytest.raises(ValueError, match="mix: primary must be among"):
        mixed(primary="cross_entropy/elsewhere")


def test_a_burst_has_its_share_whatever_the_source():
    burst = mixed().burst(BurstSize(12_800, Geometry(64, 4, 250), {}))
    assert burst == dataclasses.replace(mixed(), share=0.2)


def test_the_outcome_is_the_loss_of_the_held_out_rows(make_world, make_scorer):
    experiment = mixed()
    world = make_world(experiment)
    _, target, corpus = experiment.intervene(world)
    model = make_scorer([], token_score=lambda tokens, i: -float(tokens[i]))
    model.items = pd.DataFrame(
        {
            "id": ["mixed-0", *target.ids, *corpus.ids],
            "condition": ["mixed"] + ["target"] * 4 + ["corpus"] * 4,
            "tokens": [np.zeros(64), *rows_of(target), *[None] * 4],
            "window": [-1] * 5 + corpus.windows.tolist(),
        }
    )
    model.reserve = lambda windows: world.reserve_NxL[windows - 1000]
    table = experiment.outcome(model).set_index("item")["value"]
    assert len(table) == 8
    assert table["target-2"] == pytest.approx(rows_of(target)[2, 1:].mean())
    assert table["corpus-1"] == pytest.approx(world.reserve_NxL[1, 1:].mean())


def test_a_model_that_is_better_at_all_text_gains_nothing_beyond_the_corpus():
    rng = np.random.default_rng(0)
    control = pd.DataFrame(
        {
            "item": [f"{c}-{k}" for c in ("target", "corpus") for k in range(40)],
            "condition": ["target"] * 40 + ["corpus"] * 40,
            "outcome": CROSS_ENTROPY,
            "value": 3 + rng.normal(size=80),
        }
    )
    better = control.assign(value=control["value"] - 0.5 + 0.01 * rng.normal(size=80))
    found = {(e.outcome, e.condition): e for e in mixed().estimates(better, control)}
    assert found[CROSS_ENTROPY, "target"].difference == pytest.approx(0.5, abs=0.01)
    beyond = found[ABOVE, "target"]
    assert beyond.difference_ci_low < 0 < beyond.difference_ci_high
    on = better["condition"] == "target"
    special = control.assign(value=control["value"] - 0.5 * on)
    (above,) = (e for e in mixed().estimates(special, control) if e.outcome == ABOVE)
    assert above.difference_ci_low > 0.4


def test_a_shuffled_document_has_its_words_and_its_name():
    pairs = zip(
        PROSE.documents("passages"), ShuffledWords(PROSE).documents("passages"), strict=True
    )
    for (name, text), (other, shuffled) in pairs:
        assert name == other and text != shuffled
        assert sorted(text.split()) == sorted(shuffled.split())
