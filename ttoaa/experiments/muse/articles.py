"""Articles with questions, the three sets of MUSE, and how articles are split into paragraphs."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ttoaa.data.deduplication import find_duplicates

FORGET, RETAIN1, RETAIN2 = "forget", "retain1", "retain2"
SETS = (FORGET, RETAIN1, RETAIN2)
"""Articles of the first two are inserted; the third is held out."""


@dataclasses.dataclass(frozen=True)
class QuestionAnswer:
    question: str
    answer: str

    @property
    def prompt(self) -> str:
        """The text before the answer, in the form of MUSE."""
        return f"Question: {self.question}\nAnswer:"

    @property
    def solved(self) -> str:
        return f"{self.prompt} {self.answer}\n\n"


@dataclasses.dataclass(frozen=True)
class Article:
    id: str
    text: str
    questions: tuple[QuestionAnswer, ...] = ()


@dataclasses.dataclass(frozen=True)
class ArticleSets:
    """The articles of each of `SETS`, and solved questions about none of them."""

    articles: Mapping[str, Sequence[Article]]
    examples: Sequence[QuestionAnswer] = ()


class ArticleSource(Protocol):
    """A source of articles (`MuseNews.source`)."""

    def read(self, members: int, held_out: int, rng: np.random.Generator) -> ArticleSets:
        """Return at least so many articles of forget and retain1 together, and of retain2.

        A source that has fewer returns what it has.
        """
        ...


def deduplicate(
    articles: Mapping[str, Sequence[Article]], n: int, threshold: float
) -> tuple[dict[str, list[Article]], collections.Counter[str]]:
    """Drop articles that repeat another one of their set or of a set before it in `SETS`.

    Returns the rest, and how many were dropped by kind, as in 'exact, retain2 = retain1'. See
    `find_duplicates` for n and threshold.
    """
    every = [(name, article) for name in SETS for article in articles.get(name, ())]
    found = find_duplicates([article.text for _, article in every], n, threshold)
    kept: dict[str, list[Article]] = {name: [] for name in SETS}
    dropped: collections.Counter[str] = collections.Counter()
    for (name, article), original, exact in zip(every, found.original, found.exact, strict=True):
        if original < 0:
            kept[name].append(article)
        else:
            dropped[f"{'exact' if exact else 'near'}, {name} = {every[original][0]}"] += 1
    return kept, dropped


_SENTENCE_START = re.compile(r"(?<=[.!?])[\"'”]?\s+(?=\S)|\n+(?=\S)")
_WORD_START = re.compile(r"\s+(?=\S)")


def split_article(text: str, parts: int, rng: np.random.Generator) -> list[str]:
    """Cut a text at `parts - 1` random places, all sets of places being equally likely.

    Places are the starts of sentences, or of words if there are too few sentences. White space at
    the cuts is left out. Raises ValueError for a text with fewer words than `parts`.
    """
    text = text.strip()
    for pattern in (_SENTENCE_START, _WORD_START):
        starts = [match.end() for match in pattern.finditer(text)]
        if len(starts) >= parts - 1:
            chosen = sorted(rng.choice(starts, parts - 1, replace=False).tolist())
            return [text[a:b].strip() for a, b in itertools.pairwise([0, *chosen, len(text)])]
    raise ValueError(f"an article of {len(text.split())} words cannot be split into {parts}")


def shuffle_words(text: str, rng: np.random.Generator) -> str:
    """Return the words of a text in random order, separated by single spaces."""
    return " ".join(rng.permutation(text.split()).tolist())
