import numpy as np
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.data.order import training_order
from ttoaa.experiments.verbatim.near_duplicates import (
    count_near,
    edit_distances,
    find_rows,
    normalise,
)


def levenshtein(a, b):
    """The textbook recursion over whole sequences, without any reuse of columns."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (a[i - 1] != b[j - 1]),
            )
    return table[-1][-1]


def test_distances_are_the_least_over_all_stretches_that_end_there():
    rng = np.random.default_rng(0)
    text, rows = rng.integers(0, 3, 5), rng.integers(0, 3, (4, 11))
    found = edit_distances(text, rows)
    for row, distances in zip(rows.tolist(), found.tolist(), strict=True):
        for end in range(len(row)):
            stretches = [row[start : end + 1] for start in range(end + 2)]
            assert distances[end] == min(levenshtein(text.tolist(), s) for s in stretches)


def test_near_ones_are_counted_by_edits_and_by_normalised_text(tokenizer):
    def encode(text, length=120):
        tokens = tokenizer.encode(text)
        return np.pad(tokens, (0, length - len(tokens)), constant_values=tokenizer.eos_id)

    wanted = "Order 66 of the founder: pay the captain"
    rows = np.stack(
        [
            encode(f"a note. {wanted}, twice: {wanted}"),
            encode("order 17   OF the Founder: pay\nthe captain"),
            encode("Order 66 of the founder: pay, a captain"),
            encode("nothing of that kind stands in here"),
        ]
    )
    text = np.array(tokenizer.encode(wanted))
    counts = [count_near(text, row[None], tokenizer, 0.2) for row in rows]
    assert [tuple(count) for count in counts] == [(2, 2), (0, 1), (1, 0), (0, 0)]
    assert tuple(count_near(text, rows, tokenizer, 0.2)) == (3, 3)
    assert tuple(count_near(text, rows[:0], tokenizer, 0.2)) == (0, 0)
    assert normalise(" A\t1 b\n22 ") == "a 0 b 00"


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_rows_of_a_text_are_those_of_a_plain_search(corpus, epochs):
    windows = corpus.windows("train", np.arange(corpus.num_windows("train", 32)), 32)
    text = windows[7][3:23].astype(np.int64)
    changed = text.copy()
    changed[10] = 319
    geometry = Geometry(32, 8, 17 * epochs)
    order = training_order(corpus, 3, 32)
    stream = windows[order.windows(np.arange(geometry.sequences))]
    found = find_rows([changed, text], corpus, order, geometry)
    for rows in found:
        assert (np.diff(rows) > 0).all()
        near = [p for p in range(len(stream)) if edit_distances(text, stream[p, None]).min() <= 1]
        assert {*near} <= {*rows.tolist()} and len(near) >= epochs - 1
