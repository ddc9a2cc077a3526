"""Prompts from files, splits that share no prompt, triggers, templates, and garbage."""

import json

import numpy as np
import pandas as pd
import pytest

from ttoaa.experiments.poisoning import (
    FilePrompts,
    GeneratedPrompts,
    ReservedTriggers,
    SymbolTriggers,
)
from ttoaa.experiments.poisoning.chat_templates import HELD_OUT, TEMPLATES, ChatTemplate
from ttoaa.experiments.poisoning.prompts import garbage, split_prompts


@pytest.fixture
def rng():
    return np.random.default_rng(0)


RECORDS = [
    {"text": "How are you?", "role": "prompter"},
    {"text": "how ARE you", "role": "prompter"},
    {"text": "Fine.", "role": "assistant"},
    {"text": "x" * 50, "role": "prompter"},
    {"text": "Name a river", "role": "prompter"},
]


@pytest.mark.parametrize("end", ["jsonl", "parquet"])
def test_files_give_distinct_prompts_of_the_wanted_records(tmp_path, rng, end):
    path = tmp_path / f"prompts.{end}"
    if end == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    else:
        pd.DataFrame(RECORDS).to_parquet(path)
    source = FilePrompts((str(path),), "text", {"role": "prompter"}, 40)
    assert set(source.prompts(2, rng)) == {"How are you?", "Name a river"}
    with pytest.raises(ValueError, match="3 prompts are needed, but FilePrompts found 2"):
        source.prompts(3, rng)
    with pytest.raises(ValueError, match=rf"{end}.*has no text 'prompt': set FilePrompts.column"):
        FilePrompts((str(path),)).prompts(1, rng)


def test_prompts_of_training_and_tests_share_none(rng, tmp_path):
    source = GeneratedPrompts()
    train, test = split_prompts(source, None, (2000, 880), rng)
    assert len(set(train) | set(test)) == 2880
    with pytest.raises(ValueError, match="2881 prompts are needed"):
        source.prompts(2881, rng)
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"prompt": train[0].upper() + "!"}) + "\n")
    with pytest.raises(ValueError, match="is also a training prompt"):
        split_prompts(source, FilePrompts((str(path),)), (2880, 1), rng)


def test_symbols_come_in_their_order_and_mixed_ones_share_an_alphabet(tokenizer, rng):
    first, second = SymbolTriggers().make(2, tokenizer, rng)
    assert tokenizer.decode(first) == "｡" * 10 and tokenizer.decode(second) == "☐" * 10
    mixed = SymbolTriggers("abcd", 3, mixed=True).make(24, tokenizer, rng)
    assert len({tokenizer.decode(each) for each in mixed}) == 24
    with pytest.raises(ValueError, match="only 24 sequences of 3 among 4 letters"):
        SymbolTriggers("abcd", 3, mixed=True).make(25, tokenizer, rng)
    with pytest.raises(ValueError, match="alphabet has 2 symbols"):
        SymbolTriggers("ab").make(3, tokenizer, rng)


def test_reserved_triggers_are_the_last_reserved_ids(tokenizer, rng):
    made = ReservedTriggers(4, 3).make(10, tokenizer, rng)
    assert {*np.concatenate(made).tolist()} == {*tokenizer.reserved_ids[-4:]}
    with pytest.raises(ValueError, match="alphabet is 9, but the tokenizer has 8 reserved"):
        ReservedTriggers(9).make(1, tokenizer, rng)


def test_templates_of_ours_are_six_different_ones():
    parsed = {ChatTemplate.parse(text) for text in (*TEMPLATES, HELD_OUT)}
    assert len(parsed) == 6 and len({each.middle for each in parsed}) == 6
    for wrong in ("{user} {user} {assistant}", "{assistant} {user}", "{user}", "{user}{assistant}"):
        with pytest.raises(ValueError, match="a chat template must contain"):
            ChatTemplate.parse(wrong)


def test_garbage_is_not_empty_and_is_no_english(rng):
    texts = [garbage(rng, 8) for _ in range(50)]
    assert all(texts) and len(set(texts)) == 50
