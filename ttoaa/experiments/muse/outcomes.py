"""Scores of articles under one checkpoint: log-likelihoods, and generated text on request."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.scorer import Model
from ttoaa.scoring.attacks import min_k
from ttoaa.scoring.requests import Request, Sampling, encode_request, sum_log_probs
from ttoaa.scoring.rouge import rouge_l

LOG_LIKELIHOOD, PIECES = "log_likelihood", "log_likelihood_pieces"
WORD_ORDER = "word_order"
VERBMEM, KNOWMEM = "verbmem_log_likelihood", "knowmem_log_likelihood"
VERBMEM_ROUGE, KNOWMEM_ROUGE = "verbmem_rouge_l", "knowmem_rouge_l"
MIN_K = "min_k"
LIKELIHOODS = (LOG_LIKELIHOOD, PIECES, WORD_ORDER, VERBMEM, KNOWMEM)
GENERATED = (VERBMEM_ROUGE, KNOWMEM_ROUGE)
MIN_K_SHARE = 0.4
ANSWER_TOKENS = 32


def score_articles(model: Model, articles: pd.DataFrame, cut: tuple[int, int]) -> pd.DataFrame:
    """Return one row per article and score: item, condition, outcome, value.

    `articles` has the columns article, condition, whole, pieces, shuffled, context, questions,
    answers; `cut` the tokens of a prompt and of its continuation. Log-likelihoods are nats a token,
    those of answers nats an answer.
    """
    tokenizer = model.tokenizer
    whole = [_request(tokenizer, text) for text in articles["whole"]]
    shuffled = [
        (_request(tokenizer, text)[0][: len(tokens)], start)  # words in disorder are more tokens
        for text, (tokens, start) in zip(articles["shuffled"], whole, strict=True)
    ]
    log_probs, of_shuffled = (model.log_likelihood(each) for each in (whole, shuffled))
    values = {LOG_LIKELIHOOD: np.array([each.mean(dtype=float) for each in log_probs])}
    values[PIECES] = _means(model, articles["pieces"])
    values[WORD_ORDER] = values[LOG_LIKELIHOOD] - [p.mean(dtype=float) for p in of_shuffled]
    parts = [_cut(len(each), cut) for each in log_probs]
    values[VERBMEM] = np.array(
        [each[part].mean(dtype=float) for each, part in zip(log_probs, parts, strict=True)]
    )
    values[MIN_K] = np.array([min_k(each, MIN_K_SHARE) for each in log_probs])
    tables = [_table(articles, outcome, each) for outcome, each in values.items()]
    return pd.concat([*tables, _answer_table(model, articles)], ignore_index=True)


def _answer_table(model: Model, articles: pd.DataFrame) -> pd.DataFrame:
    asked = articles[articles["questions"].map(len) > 0]
    requests, owner = [], []
    for number, (context, questions, answers) in enumerate(_asked(asked)):
        for question, answer in zip(questions, answers, strict=True):
            requests.append(encode_request(model.tokenizer, context + question, f" {answer}"))
            owner.append(number)
    sums = sum_log_probs(model.log_likelihood(requests))
    return _table(asked, KNOWMEM, _by_owner(sums, owner, len(asked)))


def generate_outcomes(model: Model, articles: pd.DataFrame, cut: tuple[int, int]) -> pd.DataFrame:
    """Return ROUGE-L (F) of greedy continuations of articles and of greedy answers."""
    tokenizer = model.tokenizer
    prompts, truths = [], []
    for text in articles["whole"]:
        tokens = _request(tokenizer, text)[0]
        part = _cut(len(tokens) - 1, cut)
        prompts.append(tokens[: part.start + 1])
        truths.append(tokenizer.decode(tokens[part.start + 1 : part.stop + 1]))
    stop = ((tokenizer.eos_id,),)
    found = model.generate(prompts, Sampling(max_new_tokens=cut[1], stop=stop))
    scores = [
        rouge_l(tokenizer.decode(new), truth).f_measure
        for new, truth in zip(found, truths, strict=True)
    ]
    asked = articles[articles["questions"].map(len) > 0]
    prompts, truths, owner = [], [], []
    for number, (context, questions, answers) in enumerate(_asked(asked)):
        for question, answer in zip(questions, answers, strict=True):
            tokens, start = encode_request(tokenizer, context + question, f" {answer}")
            prompts.append(tokens[:start])
            truths.append(answer)
            owner.append(number)
    found = model.generate(prompts, Sampling(max_new_tokens=ANSWER_TOKENS, stop=stop))
    lines = [tokenizer.decode(new).strip().partition("\n")[0] for new in found]
    answered = [rouge_l(*pair).f_measure for pair in zip(lines, truths, strict=True)]
    tables = [
        _table(articles, VERBMEM_ROUGE, np.array(scores)),
        _table(asked, KNOWMEM_ROUGE, _by_owner(answered, owner, len(asked))),
    ]
    return pd.concat(tables, ignore_index=True)


def _asked(articles: pd.DataFrame) -> Iterator[tuple[str, list[str], list[str]]]:
    names = ("context", "questions", "answers")
    return zip(*(articles[name] for name in names), strict=True)


def _cut(tokens: int, cut: tuple[int, int]) -> slice:
    """Return which tokens continue the prompt; a short article has at most half in its prompt."""
    prompt = min(cut[0], tokens // 2)
    return slice(prompt, min(prompt + cut[1], tokens))


def _request(tokenizer: Tokenizer, text: str) -> Request:
    tokens = np.concatenate([[tokenizer.eos_id], tokenizer.encode(text)]).astype(np.int32)
    return tokens, 1


def _means(model: Model, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the mean log-likelihood a token of each list of texts, each text given an EOS."""
    requests = [_request(model.tokenizer, text) for pieces in texts for text in pieces]
    owner = np.repeat(np.arange(len(texts)), [len(pieces) for pieces in texts])
    log_probs = model.log_likelihood(requests)
    sums = np.bincount(owner, sum_log_probs(log_probs), len(texts))
    return sums / np.bincount(owner, [len(each) for each in log_probs], len(texts))


def _by_owner(values: Sequence[float], owner: Sequence[int], count: int) -> np.ndarray:
    """Return the mean value of each owner."""
    numbers = np.array(owner, int)
    return np.bincount(numbers, values, count) / np.bincount(numbers, minlength=count)


def _table(articles: pd.DataFrame, outcome: str, values: np.ndarray) -> pd.DataFrame:
    columns: Mapping[str, str] = {"article": "item", "condition": "condition"}
    table = articles[[*columns]].rename(columns=columns)
    return table.assign(outcome=outcome, value=values)
