"""Multiple choice: log-likelihoods of the options, and accuracies by several normalisations."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.benchmarks.question import Question
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.scoring.requests import Request, encode_request, sum_log_probs

LogLikelihood = Callable[[Sequence[Request]], list[np.ndarray]]
"""requests -> for each, float32[n - start]: the log-probabilities of the requested tokens."""


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """A score of the options, from a table of `score_questions`; the largest one is chosen."""

    outcome: str
    """The name of the accuracy: that of lm-evaluation-harness 0.4.13 where it has one."""
    score: Callable[[pd.DataFrame], pd.Series]
    unconditional: bool = False
    """Whether the log-likelihood after an unconditional context is needed."""


NORMALISATIONS: Mapping[str, Normalisation] = {
    "none": Normalisation("acc", lambda table: table["log_likelihood"]),
    # Characters are Unicode's, without the leading space of an option.
    "character": Normalisation("acc_norm", lambda t: t["log_likelihood"] / t["characters"]),
    "token": Normalisation("acc_per_token", lambda t: t["log_likelihood"] / t["tokens"]),
    # The context is "Answer:" in OLMES and empty (that is, an EOS) in the harness.
    "pmi": Normalisation(
        "acc_mutual_info", lambda t: t["log_likelihood"] - t["unconditional"], unconditional=True
    ),
}
"""By the names that configs use; the only list of them."""


def score_questions(
    log_likelihood: LogLikelihood,
    tokenizer: Tokenizer,
    questions: Iterable[Question],
    unconditional: str | None = None,
    document: bool = False,
) -> pd.DataFrame:
    """Return a table with one row for each option of each question, in order.

    Columns: item, benchmark, option (int), gold (bool), log_likelihood (nats, summed), characters,
    tokens, and unconditional: the log-likelihood of the option after `unconditional`, or else after
    `Question.unconditional`; NaN without either. With `document` each context starts with an EOS,
    as a document does in training. Equal requests are scored once.
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
    requests = _encode_pairs(tokenizer, list(numbers))
    if document:
        requests = [_as_document(request, tokenizer.eos_id) for request in requests]
    scores = log_likelihood(requests)
    sums = np.array([*sum_log_probs(scores), np.nan])  # -1: none
    tokens = np.array([len(score) for score in scores], int)
    table = pd.DataFrame(rows, columns=[*_COLUMNS, "request", "blank"])
    request, blank = (table.pop(name).to_numpy(int) for name in ("request", "blank"))
    return table.assign(
        log_likelihood=sums[request], tokens=tokens[request], unconditional=sums[blank]
    )


def _encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """Return the request of each (context, continuation)."""
    # `encode_request` asks for contexts without trailing white space.
    texts = [text for a, b in pairs for text in (a.rstrip(), a + b)]
    known = _CachedTokenizer(tokenizer, list(dict.fromkeys(texts)))
    return [encode_request(known, *pair) for pair in pairs]


class _CachedTokenizer(Tokenizer):
    """A tokenizer that encodes given texts in one batch, on all cores, each text once."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        self.eos_id = tokenizer.eos_id
        self._tokens = dict(zip(texts, tokenizer.encode_batch(texts), strict=True))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._tokens[text] for text in texts]


_COLUMNS = ("item", "benchmark", "option", "gold", "characters")


def accuracies(table: pd.DataFrame, ties: str = "first") -> pd.DataFrame:
    """Return the accuracy on each question: columns item, benchmark, outcome, value.

    `table` comes from `score_questions`. Outcomes that need an unconditional log-likelihood are
    returned for questions whose options all have one. In a tie the first option is chosen
    (`ties="first"`, as in the harness), or each option has an equal share ("shared").
    """
    if ties not in ("first", "shared"):
        raise ValueError(f"ties must be 'first' or 'shared', not {ties!r}")
    benchmarks = table.groupby("item", sort=False)["benchmark"].first()
    bare = table["unconditional"].isna().groupby(table["item"], sort=False).any()
    parts = []
    for each in NORMALISATIONS.values():
        value = _gold_is_best(table, each.score(table), ties)
        value = value[~bare] if each.unconditional else value
        columns = {"benchmark": benchmarks[value.index], "outcome": each.outcome, "value": value}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts).reset_index(names="item")


def _gold_is_best(table: pd.DataFrame, merit: pd.Series, ties: str) -> pd.Series:
    """Return by item whether the gold option has the largest merit; NaN if a merit is NaN."""
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
            raise ValueError(f"two questions have the id {question.id}: make ids unique")
        seen.add(question.id)
