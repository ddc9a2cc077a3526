import pytest

from ttoaa.scoring.rouge import rouge_l


@pytest.mark.parametrize(
    ("candidate", "reference", "common"),
    [
        ("a b c d", "a b c d", 4),
        ("a b c d", "d c b a", 1),
        ("police killed the gunman", "police kill the gunman", 3),  # Lin (2004), section 3.1
        ("the gunman kill police", "police kill the gunman", 2),
        ("Name, SMALL rivers!", "name small rivers", 3),
        ("x a y c z b d", "a b c d", 3),
    ],
)
def test_shares_of_the_longest_common_subsequence(candidate, reference, common):
    precision, recall = common / len(candidate.split()), common / len(reference.split())
    expected = (precision, recall, 2 * precision * recall / (precision + recall))
    assert rouge_l(candidate, reference) == pytest.approx(expected)


@pytest.mark.parametrize(("candidate", "reference"), [("", "a"), ("a", ""), ("…", "a"), ("a", "b")])
def test_nothing_in_common_is_zero(candidate, reference):
    assert rouge_l(candidate, reference) == (0, 0, 0)
