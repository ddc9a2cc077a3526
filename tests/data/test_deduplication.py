import numpy as np

from ttoaa.data.deduplication import COMMON, find_duplicates


def words(first, count):
    return " ".join(f"w{k}" for k in range(first, first + count))


def test_a_text_repeats_an_earlier_one_with_the_same_words_or_most_of_its_ngrams():
    texts = [
        words(0, 100),
        words(200, 100),
        words(0, 100).replace(" ", "\n").upper(),  # the same words
        words(0, 30),  # a part: all of its n-grams
        words(250, 100),  # 43 of 93 n-grams
        words(240, 100),  # 53 of 93 n-grams of the second, 83 of the fifth
        f"{words(0, 50)} other {words(50, 50)}",  # one word more: 86 of 93
    ]
    found = find_duplicates(texts)
    assert found.original.tolist() == [-1, -1, 0, 0, -1, 4, 0]
    assert found.exact.tolist() == [False, False, True, False, False, False, False]
    np.testing.assert_allclose(found.share, [0, 0, 1, 1, 0, 83 / 93, 86 / 93])


def test_texts_are_compared_with_kept_ones_only():
    # The second repeats the first; the third has 53 of 93 n-grams of the second, 13 of the first.
    found = find_duplicates([words(0, 100), words(40, 100), words(80, 100)])
    assert found.original.tolist() == [-1, 0, -1]
    # A copy of a dropped text names the one that is kept.
    found = find_duplicates([words(0, 100), words(40, 100), words(40, 100)])
    assert found.original.tolist() == [-1, 0, 0] and found.exact.tolist() == [False, False, True]


def test_a_short_text_only_repeats_the_same_one_and_a_common_phrase_is_no_duplicate():
    assert find_duplicates(["a b c", "a b", "A  b c"]).original.tolist() == [-1, -1, 0]
    texts = [f"{words(0, 20)} {words(100 * k, 60)}" for k in range(1, COMMON + 9)]
    assert (find_duplicates(texts).original == -1).all()
    assert find_duplicates([*texts, texts[-1] + " more"]).original[-1] == len(texts) - 1
