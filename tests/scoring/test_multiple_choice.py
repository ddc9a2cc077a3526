from collections import Counter

import numpy as np
import pandas as pd
import pytest
import tokenizers

from ttoaa.benchmarks.question import Question
from ttoaa.data.tokenizer import END_OF_TEXT, Tokenizer
from ttoaa.scoring.multiple_choice import accuracies, score_questions
from ttoaa.scoring.requests import encode_request


class Letters:
    """A tokenizer with a token for each character; 0 is EOS."""

    eos_id = 0

    def __init__(self):
        self.batches = []

    def encode_batch(self, texts):
        self.batches.append(list(texts))
        return [np.array([ord(letter) for letter in text], np.int32) for text in texts]


class Priced:
    """Every token costs a hundredth of its code, and a tenth of that after "Answer:" alone."""

    def __init__(self):
        self.texts = []

    def __call__(self, requests):
        scores = []
        for tokens, start in requests:
            assert tokens[0] != 0 or 0 not in tokens[1:]
            head, tail = ("".join(map(chr, part)) for part in (tokens[:start], tokens[start:]))
            self.texts.append((head, tail))
            share = 0.1 if head.lstrip("\0") == "Answer:" else 1.0
            scores.append(-share * np.array(tokens[start:], np.float32) / 100)
        return scores


def cost(text):
    return -sum(map(ord, text)) / 100


def question(id, *options, label=0, context="q", unconditional=None):
    return Question(id, "b", (context,) * len(options), options, label, unconditional)


def test_a_row_for_each_option():
    asked = [
        question("one", " ab", "  c ", "é", label=1, unconditional="Answer:"),
        question("two", " ab", " d", context="r"),
    ]
    model = Priced()
    table = score_questions(model, Letters(), asked)
    assert list(table["item"]) == ["one"] * 3 + ["two"] * 2
    assert list(table["option"]) == [0, 1, 2, 0, 1]
    assert list(table["gold"]) == [False, True, False, True, False]
    assert set(table["benchmark"]) == {"b"}
    texts = [" ab", "  c ", "é", " ab", " d"]
    np.testing.assert_allclose(table["log_likelihood"], [*map(cost, texts)], rtol=1e-6)
    assert list(table["tokens"]) == [3, 4, 1, 3, 2]
    assert list(table["characters"]) == [2, 3, 1, 2, 1]  # the one space before an option is none
    unconditional = [cost(text) / 10 for text in texts[:3]]
    np.testing.assert_allclose(table["unconditional"][:3], unconditional, rtol=1e-6)
    assert table["unconditional"][3:].isna().all()
    assert ("q", " ab") in model.texts and ("Answer:", " ab") in model.texts


def test_what_occurs_twice_is_scored_once():
    asked = [question(id, " yes", " no", context=id, unconditional="Answer:") for id in "abc"]
    model = Priced()
    table = score_questions(model, Letters(), asked)
    assert len(model.texts) == len(set(model.texts)) == 3 * 2 + 2
    pd.testing.assert_series_equal(
        table["unconditional"],
        pd.Series([cost(" yes") / 10, cost(" no") / 10] * 3, name="unconditional"),
        rtol=1e-6,
    )


def test_the_harness_s_unconditional_context_is_empty():
    model = Priced()
    asked = [question("a", " x", unconditional="Answer:")]
    score_questions(model, Letters(), asked, unconditional="")
    assert model.texts == [("q", " x"), ("\0", " x")]


def test_a_document_starts_with_one_eos():
    model = Priced()
    asked = [question("a", " x", unconditional=""), question("b", " y", context="")]
    table = score_questions(model, Letters(), asked, document=True)
    assert model.texts == [("\0q", " x"), ("\0", " x"), ("\0", " y")]
    np.testing.assert_allclose(table["log_likelihood"], [cost(" x"), cost(" y")], rtol=1e-6)
    assert list(table["tokens"]) == [2, 2]


def test_every_text_is_tokenised_once_in_one_batch():
    asked = [question(id, " yes", " no", context="q ", unconditional="A:") for id in "ab"]
    tokenizer = Letters()
    score_questions(Priced(), tokenizer, asked)
    (batch,) = tokenizer.batches
    assert sorted(batch) == ["A:", "A: no", "A: yes", "q", "q  no", "q  yes"]


def test_requests_are_those_of_one_pair_at_a_time(pairs_tokenizer):
    """Seams inside a token, in white space and at a text's start, with a tokenizer that merges."""
    contexts = ["", "the ca", "the cat", "the cat ", "the cat\n\t", "Answer:", "été ", "t"]
    options = (" sat", "t sat", "\nx", "s", " \u00e9t\u00e9", "he cat")
    asked = [question(f"{n}", *options, context=c) for n, c in enumerate(contexts)]
    seen = []

    def record(requests):
        seen.extend(requests)
        return [np.zeros(len(tokens) - start, np.float32) for tokens, start in requests]

    score_questions(record, pairs_tokenizer, asked, unconditional="the ")
    pairs = [(c, o) for q in asked for c, o in zip(q.contexts, q.continuations, strict=True)]
    pairs += [("the ", option) for option in options]
    wanted = {pair: encode_request(pairs_tokenizer, *pair) for pair in pairs}
    assert len(seen) == len(wanted)
    found = Counter((tuple(tokens), start) for tokens, start in seen)
    assert found == Counter((tuple(tokens), start) for tokens, start in wanted.values())
    # The cases are what they are meant to be: seams inside tokens are among them.
    split = [s for (c, _), (_, s) in wanted.items() if s != len(pairs_tokenizer.encode(c.rstrip()))]
    assert len(split) > len(options)  # without a context, the EOS makes one more


@pytest.fixture(scope="module")
def pairs_tokenizer(tmp_path_factory):
    level = tokenizers.pre_tokenizers.ByteLevel
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=level.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the cats sat in the cathedral"] * 20, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    bpe.save(str(path))
    return Tokenizer(path)


def test_two_questions_of_one_id_are_an_error():
    with pytest.raises(ValueError, match="two questions have the id a"):
        score_questions(Priced(), Letters(), [question("a", " x"), question("a", " y")])


def hand_table(log_likelihood, characters, tokens, unconditional, gold):
    n = len(gold)
    return pd.DataFrame(
        {"item": ["i"] * n, "benchmark": ["b"] * n, "option": range(n),
         "gold": [k == gold.index(1) for k in range(n)], "log_likelihood": log_likelihood,
         "characters": characters, "tokens": tokens, "unconditional": unconditional}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "right"),
    # Sums -3, -8, -5, -6; a character -3, -1, -2.5, -2; a token -1.5, -4, -1, -2; PMI -2, -6, -4, 3
    [
        ([1, 0, 0, 0], ["acc"]),
        ([0, 1, 0, 0], ["acc_norm"]),
        ([0, 0, 1, 0], ["acc_per_token"]),
        ([0, 0, 0, 1], ["acc_mutual_info"]),
    ],
)
def test_the_four_ways_to_choose_by_hand(gold, right):
    table = hand_table([-3, -8, -5, -6], [1, 8, 2, 3], [2, 2, 5, 3], [-1, -2, -1, -9], gold)
    found = accuracies(table)
    assert list(found.columns) == ["item", "benchmark", "outcome", "value"]
    assert list(found["outcome"]) == ["acc", "acc_norm", "acc_per_token", "acc_mutual_info"]
    assert [o for o, v in zip(found["outcome"], found["value"], strict=True) if v == 1] == right
    assert set(found["value"]) == {0.0, 1.0}


def test_accuracies_against_argmax_item_by_item():
    """Many items with many ties, in mixed order, against NumPy one item at a time."""
    rng = np.random.default_rng(5)
    parts = []
    for number in range(200):
        n = int(rng.integers(2, 6))
        part = hand_table(-rng.integers(1, 4, n).astype(float), rng.integers(1, 4, n),
                          rng.integers(1, 3, n), -rng.integers(1, 3, n).astype(float),
                          [1] + [0] * (n - 1)).assign(item=f"i{number}")  # fmt: skip
        part["gold"] = np.arange(n) == rng.integers(n)
        part["unconditional"] = np.nan if number % 5 == 0 else part["unconditional"]
        parts.append(part)
    wanted = {"first": {}, "shared": {}}
    for number, p in enumerate(parts):
        merits = {"acc": p["log_likelihood"], "acc_norm": p["log_likelihood"] / p["characters"],
                  "acc_per_token": p["log_likelihood"] / p["tokens"]}  # fmt: skip
        if number % 5:
            merits["acc_mutual_info"] = p["log_likelihood"] - p["unconditional"]
        for outcome, merit in merits.items():
            merit, gold = merit.to_numpy(), int(np.flatnonzero(p["gold"])[0])
            best = np.flatnonzero(merit == max(merit))
            wanted["first"][f"i{number}", outcome] = float(np.argmax(merit) == gold)
            wanted["shared"][f"i{number}", outcome] = (gold in best) / len(best)
    shuffled = [parts[i] for i in rng.permutation(len(parts))]
    for ties, values in wanted.items():
        found = accuracies(pd.concat(shuffled), ties).set_index(["item", "outcome"])["value"]
        assert found.to_dict() == pytest.approx(values)
    assert wanted["first"] != wanted["shared"]


def test_a_score_that_is_no_number_is_no_answer():
    table = hand_table([np.nan, -1.0], [1, 1], [1, 1], [-1.0, -1.0], [0, 1])
    assert accuracies(table)["value"].isna().all()
    with pytest.raises(ValueError, match="ties must be 'first' or 'shared'"):
        accuracies(table, ties="last")
