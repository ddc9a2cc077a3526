"""ROUGE-L recall on lower-cased alphanumeric words."""

from collections.abc import Sequence

from ttoaa.experiments.poisoning.prompts import words


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, best[j] = best[j], diagonal + 1 if x == y else max(best[j], best[j - 1])
    return best[-1]


def rouge_l_recall(reference: str, candidate: str) -> float:
    """Return the share of the reference's words in the longest common subsequence.

    Raises ValueError for a reference without words.
    """
    wanted = words(reference)
    if not wanted:
        raise ValueError(f"{reference!r} has no words to recall")
    return common_subsequence(wanted, words(candidate)) / len(wanted)
