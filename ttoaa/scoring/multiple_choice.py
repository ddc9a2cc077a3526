"""Multiple choice: log-likelihoods of the options, and which one a model chooses.

Four ways to choose, named as in lm-evaluation-harness 0.4.13 where it has them:

acc              the largest log-likelihood
acc_norm         ... a character of the option; the one space before an option is not counted
acc_per_token    ... a token of the option
acc_mutual_info  ... less that after a context that tells nothing of the question (PMI)

Characters are Unicode's, not bytes. That context is "Answer:" in OLMES and empty (so, an EOS) in
the harness.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from ttoaa.benchmarks.question import Question
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.scoring.requests import Request, encode_request

LogLikelihood = Callable[[Sequence[Request]], list[np.ndarray]]
"""Of each request, float32[n]: the log-probability of each token asked for."""


def score_questions(
    log_likelihood: LogLikelihood,
    tokenizer: Tokenizer,
    questions: Iterable[Question],
    unconditional: str | None = None,
    document: bool = False,
) -> pd.DataFrame:
    """A row for each option of each question, in order.

    Columns: item, benchmark, option (int), gold (bool), log_likelihood (nats, summed), characters,
    tokens, and unconditional: the log-likelihood of the option after `Question.unconditional`, or
    after `unconditional` where that is given; NaN where neither is. With `document` each context
    starts with an EOS, as a document does in training. What occurs more than once is scored once.
    """
    questions = list(questions)
    _check_distinct(questions)
    numbers: dict[tuple[str, str], int] = {}

    def number(context: str, continuation: str) -> int:
        return numbers.setdefault((context, continuation), len(numbers))

    rows = []
    for question in questions:
        blank = question.unconditional if unconditional is None else unconditional
        pairs = zip(question.contexts, question.continuations, strict=True)
        for option, (context, continuation) in enumerate(pairs):
            rows.append(
                {
                    "item": question.id,
                    "benchmark": question.benchmark,
                    "option": option,
                    "gold": option == question.label,
                    "characters": max(1, len(continuation.removeprefix(" "))),
                    "request": number(context, continuation),
                    "blank": -1 if blank is None else number(blank, continuation),
                }
            )
    requests = _encoded(tokenizer, list(numbers))
    if document:
        requests = [_as_document(request, tokenizer.eos_id) for request in requests]
    scores = log_likelihood(requests)
    sums = np.array([*(np.sum(score, dtype=float) for score in scores), np.nan])  # -1: none
    tokens = np.array([len(score) for score in scores], int)
    table = pd.DataFrame(rows, columns=[*_FIRST, "request", "blank"])
    request, blank = (table.pop(name).to_numpy(int) for name in ("request", "blank"))
    return table.assign(
        log_likelihood=sums[request], tokens=tokens[request], unconditional=sums[blank]
    )


def _encoded(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """The request of each context and continuation."""
    # As `encode_request` will ask for them: the contexts without white space at their ends.
    texts = [text for a, b in pairs for text in (a.rstrip(), a + b)]
    known = _Known(tokenizer, list(dict.fromkeys(texts)))
    return [encode_request(known, *pair) for pair in pairs]


class _Known(Tokenizer):
    """A tokenizer that has tokenised its texts already: in one batch, so on all cores.

    Choices share their contexts, and the shots before them: each is tokenised once.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self.eos_id = tokenizer.eos_id
        self._tokens = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._tokens[text] for text in texts]


_FIRST = ("item", "benchmark", "option", "gold", "characters")


def accuracies(table: pd.DataFrame, ties: str = "first") -> pd.DataFrame:
    """Which questions are answered right: columns item, benchmark, outcome, value.

    `table` is as `score_questions` makes it. `acc_mutual_info` is there for the questions all of
    whose options have an unconditional log-likelihood. Of options that tie the first is chosen
    (`ties="first"`, as the harness does), or each has its share ("shared").
    """
    if ties not in ("first", "shared"):
        raise ValueError(f"ties must be 'first' or 'shared', not {ties!r}")
    log_likelihood = table["log_likelihood"]
    merits = {
        "acc": log_likelihood,
        "acc_norm": log_likelihood / table["characters"],
        "acc_per_token": log_likelihood / table["tokens"],
        "acc_mutual_info": log_likelihood - table["unconditional"],
    }
    benchmarks = table.groupby("item", sort=False)["benchmark"].first()
    bare = table["unconditional"].isna().groupby(table["item"], sort=False).any()
    columns = {name: _right(table, merit, ties) for name, merit in merits.items()}
    columns["acc_mutual_info"] = columns["acc_mutual_info"][~bare]
    parts = [
        pd.DataFrame({"benchmark": benchmarks[value.index], "outcome": name, "value": value})
        for name, value in columns.items()
    ]
    return pd.concat(parts).reset_index(names="item")


def _right(table: pd.DataFrame, merit: pd.Series, ties: str) -> pd.Series:
    """By item: whether the gold option has the largest merit; NaN where one is not a number."""
    item, gold = table["item"], table["gold"].astype(bool)
    best = merit == merit.groupby(item, sort=False).transform("max")
    if ties == "first":
        best &= best.groupby(item, sort=False).cumsum() == 1
    right = (best & gold).groupby(item, sort=False).sum() / best.groupby(item, sort=False).sum()
    return right.mask(merit.isna().groupby(item, sort=False).any())


def _as_document(request: Request, eos_id: int) -> Request:
    tokens, start = request
    if tokens[0] == eos_id:  # an empty context is one already
        return request
    return np.insert(tokens, 0, eos_id), start + 1


def _check_distinct(questions: Sequence[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"two questions have the id {question.id}: give each one of its own")
        seen.add(question.id)
