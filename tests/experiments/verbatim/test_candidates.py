import json

import numpy as np
import pytest

from ttoaa.experiments.verbatim.candidates import read_list, repeated_texts


def rows_with(rng, *copies):
    """Random rows with texts at random places: (tokens, number of rows)."""
    rows = rng.integers(1, 10_000, (60, 40))
    free = iter(rng.permutation(60))
    for text, number in copies:
        for _ in range(number):
            start = rng.integers(0, 40 - len(text) + 1)
            rows[next(free), start : start + len(text)] = text
    return rows


def test_it_finds_what_is_repeated_most_copies_first():
    rng = np.random.default_rng(1)
    texts = [rng.integers(1, 10_000, 20) for _ in range(3)]
    rows = rows_with(rng, (texts[0], 3), (texts[1], 9), (texts[2], 2))
    found = repeated_texts(rows, 20, least=3, eos=0, most=10)
    assert [(f.tokens.tolist(), f.copies) for f in found] == [
        (texts[1].tolist(), 9),
        (texts[0].tolist(), 3),
    ]
    assert [f.copies for f in repeated_texts(rows, 20, 3, 0, most=1)] == [9]
    assert [f.copies for f in repeated_texts(rows, 20, 3, 0, 10, without=[texts[1]])] == [3]
    assert repeated_texts(rows, 41, 2, 0, 10) == []


def test_a_longer_stretch_counts_once_and_an_end_of_text_breaks_it():
    rng = np.random.default_rng(2)
    long = rng.integers(1, 10_000, 30)
    found = repeated_texts(rows_with(rng, (long, 5)), 20, least=3, eos=0, most=10)
    assert [f.tokens.tolist() for f in found] == [long[:20].tolist()]
    long[10] = 0
    found = repeated_texts(rows_with(rng, (long, 5)), 20, least=3, eos=0, most=10)
    assert found == []
    assert len(repeated_texts(rows_with(rng, (long, 5)), 15, 3, 0, 10)) == 1


def test_a_list_is_read_and_cut(tmp_path, tokenizer):
    path = tmp_path / "list.jsonl"
    text = "the capital of the river is the founder"
    lines = [{"token_ids": [5, 6, 7, 8]}, {"text": text}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = read_list(str(path), tokenizer, 3)
    assert [t.tolist() for t in found] == [[5, 6, 7], tokenizer.encode(text)[:3].tolist()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"token_ids": [5, 6]}', "line 2 has 2 tokens"),
        ('{"token_ids": [5, 6, 99999]}', "line 2 has 3 tokens below .*, and 3 are needed"),
        ('{"title": "x"}', 'line 2 has neither "token_ids" nor "text"'),
        ("not json", 'line 2 has neither "token_ids" nor "text"'),
    ],
)
def test_a_bad_line_is_named(tmp_path, tokenizer, line, expected):
    path = tmp_path / "list.jsonl"
    path.write_text('{"token_ids": [5, 6, 7]}\n' + line)
    with pytest.raises(ValueError, match=expected):
        read_list(str(path), tokenizer, 3)
