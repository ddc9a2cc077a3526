"""ROUGE-L: the longest common subsequence of the words of two texts (Lin 2004).

The scores are those of Google's rouge_score without a stemmer. Words are runs of a-z and 0-9 in the
lower-cased text.
"""

import functools
from typing import Any, NamedTuple


class RougeL(NamedTuple):
    """Shares of words in the longest common subsequence: all 0 if a text has no words."""

    precision: float
    """Of the candidate's words."""
    recall: float
    """Of the reference's words."""
    f_measure: float
    """The harmonic mean of both."""


def rouge_l(candidate: str, reference: str) -> RougeL:
    """Compare a generated text with the true one."""
    return RougeL(*_scorer().score(reference, candidate)["rougeL"])


@functools.cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk

    return RougeScorer(["rougeL"], use_stemmer=False)
