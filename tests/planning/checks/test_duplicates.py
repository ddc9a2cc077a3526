"""Texts in common, against sets of tuples."""

import numpy as np
import pyarrow as pa
import pytest

from ttoaa.planning.checks import duplicates
from ttoaa.planning.checks import item_texts as texts_module
from ttoaa.planning.checks.duplicates import identical, nearest, same_ngrams, same_texts, similar
from ttoaa.planning.checks.item_texts import ItemTexts
from ttoaa.planning.controller_log import SlotTexts


def make_texts(experiments):
    """Texts of {name: [(held_out, tokens)]}."""
    rows = [(e, *row) for e, name in enumerate(experiments) for row in experiments[name]]
    length = np.array([len(tokens) for _, _, tokens in rows], np.int64)
    return ItemTexts(
        experiments=tuple(experiments),
        tokens=np.concatenate([np.asarray(tokens, np.int32) for _, _, tokens in rows]),
        start=np.cumsum(length) - length,
        length=length,
        experiment=np.array([e for e, _, _ in rows]),
        held_out=np.array([held for _, held, _ in rows]),
        removed=np.zeros(len(rows), bool),
        ids=pa.array([f"i{number}" for number in range(len(rows))]),
        conditions=pa.array(["c"] * len(rows)),
    )


@pytest.fixture(scope="module", params=[1, 2, 3])
def texts(request):
    """Four experiments of texts of three words, so that they share much, short and long."""
    rng = np.random.default_rng(request.param)

    def one():
        size = rng.integers(1, 9) if rng.random() < 0.5 else rng.integers(9, 60)
        return rng.random() < 0.3, rng.integers(0, 3, size)

    return make_texts({name: [one() for _ in range(rng.integers(5, 40))] for name in "abcd"})


def ngrams(tokens, n):
    return {tuple(tokens[i : i + n].tolist()) for i in range(len(tokens) - n + 1)}


def common_by_hand(texts, parts):
    """{(item, other experiment): how many of the item's parts that experiment inserts}."""
    found = {}
    for item in range(len(texts)):
        for other in range(len(texts.experiments)):
            if other == texts.experiment[item] and not texts.held_out[item]:
                continue
            inserted = [
                parts[i]
                for i in range(len(texts))
                if texts.experiment[i] == other and not texts.held_out[i]
            ]
            common = len(parts[item] & set().union(*inserted))
            if common:
                found[item, other] = common
    return found


def as_dictionary(met):
    pairs = zip(met.item.tolist(), met.other.tolist(), strict=True)
    return dict(zip(pairs, met.common.tolist(), strict=True))


def small_pieces(monkeypatch):
    monkeypatch.setattr(texts_module, "_BLOCK", 50)
    monkeypatch.setattr(duplicates, "_KEYS", 300)
    monkeypatch.setattr(duplicates, "_PAIRS", 20)


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("small", [False, True])
def test_ngrams_in_common_are_those_of_sets(texts, n, small, monkeypatch):
    if small:
        small_pieces(monkeypatch)
    met, total = same_ngrams(texts, n)
    parts = [ngrams(texts.text(item), n) for item in range(len(texts))]
    assert total.tolist() == [len(part) for part in parts]
    assert as_dictionary(met) == common_by_hand(texts, parts)
    for item, other, example in zip(met.item, met.other, met.example, strict=True):
        assert texts.experiment[example] == other and not texts.held_out[example]
        assert parts[item] & parts[example]


@pytest.mark.parametrize("small", [False, True])
def test_same_texts_are_those_of_sets(texts, small, monkeypatch):
    if small:
        small_pieces(monkeypatch)
    met = same_texts(texts)
    parts = [{tuple(texts.text(item).tolist())} for item in range(len(texts))]
    assert len(met) and as_dictionary(met) == common_by_hand(texts, parts)
    for item, example in zip(met.item, met.example, strict=True):
        assert parts[item] == parts[example]


def test_the_nearest_is_that_of_sets(texts, monkeypatch):
    monkeypatch.setattr(texts_module, "_BLOCK", 50)
    met, _ = same_ngrams(texts, 5)
    parts = [ngrams(texts.text(item), 5) for item in range(len(texts))]
    found, share = nearest(texts, met.item, met.other, 5)
    assert len(met)
    for item, other, one, containment in zip(met.item, met.other, found, share, strict=True):
        by_hand = {
            i: len(parts[item] & parts[i])
            for i in range(len(texts))
            if texts.experiment[i] == other and not texts.held_out[i]
        }
        best = max(by_hand, key=lambda i: (by_hand[i], -i))
        assert (one, containment) == (best, by_hand[best] / len(parts[item]))


def test_a_text_of_more_experiments_than_are_told_counts_for_the_first_of_them():
    word = [(False, [1, 2, 3])]
    met = same_texts(make_texts({f"e{i:02}": word for i in range(duplicates.COMMON + 5)}))
    assert set(met.other.tolist()) == set(range(duplicates.COMMON))


COPY, OTHER, LONG = list(range(10, 22)), list(range(30, 42)), list(range(50, 90))


def test_what_an_experiment_repeats_by_design_is_not_told():
    texts = make_texts({"a": [(False, COPY), (False, COPY), (False, COPY)], "b": [(False, OTHER)]})
    assert list(identical(texts, "warning", 5)) == list(similar(texts, 8, 0.8, "warning", 5)) == []


def test_texts_held_out_by_all_are_not_told():
    texts = make_texts({"a": [(True, COPY)], "b": [(True, COPY)]})
    assert list(identical(texts, "warning", 5)) == list(similar(texts, 8, 0.8, "warning", 5)) == []


@pytest.mark.parametrize("severity", ["error", "warning"])
def test_a_holdout_that_another_inserts_is_named(severity):
    texts = make_texts({"a": [(True, COPY), (True, LONG)], "b": [(False, OTHER), (False, COPY)]})
    (finding,) = identical(texts, severity, 5)
    assert finding.severity == severity and finding.check == "holdout" and finding.items == 1
    assert finding.message == (
        "1 of 2 held-out items of a are identical to texts that b inserts: a/i0 = b/i3"
    )
    assert finding.examples == [{"item": "a/i0", "same_as": "b/i3"}]


def test_a_holdout_that_its_own_experiment_inserts_is_named():
    texts = make_texts({"a": [(True, COPY), (False, COPY)], "b": [(False, OTHER)]})
    (finding,) = identical(texts, "error", 5)
    assert finding.severity == "error" and finding.experiments == ("a",)
    assert (
        "1 of 1 held-out items of a are identical to texts that the experiment itself"
        in finding.message
    )


def test_two_that_insert_the_same_are_told_once():
    texts = make_texts({"a": [(False, COPY)] * 2, "b": [(False, COPY), (False, OTHER)]})
    (finding,) = identical(texts, "error", 5)
    assert (finding.severity, finding.check) == ("warning", "identical")
    assert finding.message.startswith("2 items of a are identical to texts that b inserts: ")


@pytest.mark.parametrize(("kept", "told"), [(30, False), (33, True)])
def test_nearly_the_same_is_told_from_the_threshold_on(kept, told):
    """Of 33 8-grams of a text of 40 tokens, those of its first `kept` tokens are `kept` - 7."""
    changed = [*LONG[:kept], 99, *LONG[kept + 1 :]]
    shared = len(ngrams(np.array(LONG), 8) & ngrams(np.array(changed), 8))
    texts = make_texts({"a": [(True, LONG)], "b": [(False, changed), (False, OTHER)]})
    found = list(similar(texts, 8, 26 / 33, "error", 5))
    assert bool(found) == told == (shared >= 26)
    if told:
        assert (found[0].severity, found[0].check) == ("error", "holdout")
        share = round(shared / 33, 4)
        example = {"share": share, "nearest": "b/i1", "share_in_nearest": share}
        assert found[0].examples == [{"item": "a/i0", **example}]


def test_a_share_from_many_texts_is_told_with_the_share_of_the_nearest():
    halves = [(False, LONG[:24]), (False, LONG[16:])]
    texts = make_texts({"a": [(False, LONG)], "b": halves})
    pairs = [f for f in similar(texts, 8, 0.8, "error", 5) if f.experiments == ("a", "b")]
    (example,) = pairs[0].examples
    assert example["share"] == 1.0 and example["share_in_nearest"] == round(17 / 33, 4)
    assert pairs[0].severity == "warning" and pairs[0].check == "similar"


def test_the_same_word_for_word_is_left_to_the_other_check():
    texts = make_texts({"a": [(True, COPY)], "b": [(False, COPY)]})
    assert list(similar(texts, 8, 0.5, "error", 5)) == []


def test_its_own_holdout_that_shares_phrases_is_only_a_note():
    changed = [*LONG[:35], 99, *LONG[36:]]
    (finding,) = similar(make_texts({"a": [(True, LONG), (False, changed)]}), 8, 0.8, "error", 5)
    assert finding.severity == "note" and "texts that it inserts itself" in finding.message


def test_an_eos_at_the_ends_is_no_part_of_a_text(plan_of, corpus):
    """As an experiment adds it on both sides, one or none."""
    from fakes import Given

    from ttoaa.planning.items import Item

    eos, text = corpus.eos_id, np.arange(40, 50, dtype=np.int32)
    ways = [[eos, *text, eos], [*text, eos], [*text], [eos, eos]]
    plan = plan_of(
        [
            Given(f"way-{k}", items=(Item("x", "c", 1, np.array(way, np.int32)),))
            for k, way in enumerate(ways)
        ]
        + [Given("rows", items=(Item("slot", "c", 2, slot=5), Item("out", "h", 0, text)))]
    )
    texts = ItemTexts.of_plan(plan, eos)
    names = [texts.name(i) for i in range(len(texts))]
    assert names == ["rows/out", "way-0/x", "way-1/x", "way-2/x"]  # what is EOS alone has no text
    assert all(texts.text(i).tolist() == text.tolist() for i in range(4))
    assert texts.held_out.tolist() == [True, False, False, False]
    assert texts.conditions.to_pylist() == ["h", "c", "c", "c"]


def test_what_controllers_may_insert_counts_as_inserted():
    """By an experiment that is neither the first nor the last."""
    texts = make_texts({"a": [(True, COPY)], "b": [(False, OTHER)], "c": [(True, LONG)]})
    whole = texts.with_slot_texts(
        [
            SlotTexts(
                "b", "fast", 4, [np.array([0, *COPY, 0]), np.array([0, 0]), np.array([7, 8])]
            ),
            SlotTexts("a", "slow", 4, [np.array([*LONG[:38], 99])]),
        ],
        eos_id=0,
    )
    names = [whole.name(i) for i in range(len(whole))]
    assert names == ["a/i0", "a/slow[0]", "b/i1", "b/fast[0]", "b/fast[2]", "c/i2"]
    rows = [COPY, [*LONG[:38], 99], OTHER, COPY, [7, 8], LONG]
    assert [whole.text(i).tolist() for i in range(len(whole))] == rows
    assert [tokens.tolist() for _, tokens, _ in whole.blocks()] == [
        [token for row in rows for token in row]
    ]
    (same,), (near,) = identical(whole, "error", 5), similar(whole, 8, 0.9, "warning", 5)
    assert same.examples == [{"item": "a/i0", "same_as": "b/fast[0]"}]
    assert near.experiments == ("c", "a") and near.examples[0]["nearest"] == "a/slow[0]"
