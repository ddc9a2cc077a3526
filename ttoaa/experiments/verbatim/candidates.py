"""Candidates for removal: texts that a corpus repeats, or those of a list."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ttoaa.data.ngram_search import window_hashes
from ttoaa.data.tokenizer import Tokenizer

_SHARED = 8
"""Two candidates share no piece of this many tokens."""


class Candidate(NamedTuple):
    tokens: np.ndarray
    """int32[n]"""
    copies: int
    """Exact copies in the rows that were scanned."""


def repeated_texts(
    rows_NxL: np.ndarray,
    length: int,
    least: int,
    eos: int,
    most: int,
    without: Sequence[np.ndarray] = (),
) -> list[Candidate]:
    """Find texts of `length` tokens that the rows repeat, most copies first.

    Of a longer repeated stretch only its beginning counts. Candidates have no EOS, and share no
    piece of 8 tokens with each other or with the texts `without`.

    Args:
        least: copies, at least.
        most: how many to return at most.
    """
    if rows_NxL.shape[1] < length:
        return []
    hashes_NxS = window_hashes(rows_NxL.astype(np.uint64), length)
    ends = np.cumsum(rows_NxL == eos, axis=1)
    before = np.pad(ends, ((0, 0), (1, 0)))[:, : hashes_NxS.shape[1]]
    whole_NxS = ends[:, length - 1 :] == before
    values, count = np.unique(hashes_NxS[whole_NxS], return_counts=True)
    common = values[count >= least]
    repeated_NxS = whole_NxS & np.isin(hashes_NxS, common)
    begins_NxS = repeated_NxS.copy()
    begins_NxS[:, 1:] &= ~repeated_NxS[:, :-1]
    rows, starts = np.nonzero(begins_NxS)
    _, first = np.unique(hashes_NxS[rows, starts], return_index=True)
    rows, starts = rows[first], starts[first]
    copies = count[np.searchsorted(values, hashes_NxS[rows, starts])]
    taken: set[int] = {piece for text in without for piece in _pieces(text)}
    found: list[Candidate] = []
    for i in np.lexsort((starts, rows, -copies)).tolist():
        tokens = rows_NxL[rows[i], starts[i] : starts[i] + length].astype(np.int32)
        pieces = _pieces(tokens)
        if taken.isdisjoint(pieces):
            taken |= pieces
            found.append(Candidate(tokens, int(copies[i])))
            if len(found) == most:
                break
    return found


def _pieces(tokens: np.ndarray) -> set[int]:
    if len(tokens) < _SHARED:
        return set()
    return set(window_hashes(np.asarray(tokens, np.uint64)[None], _SHARED)[0].tolist())


def read_list(path: str, tokenizer: Tokenizer, length: int) -> list[np.ndarray]:
    """Read the texts of a list, int32[length] each: JSON lines with "token_ids" or "text".

    Longer texts are cut. Raises ValueError, with file and line, for a shorter one.
    """
    texts = []
    with open(pathlib.Path(path).expanduser(), encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
                ids = record.get("token_ids") or tokenizer.encode(record["text"])
                tokens = np.array(ids, np.int32)[:length]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f'{where} has neither "token_ids" nor "text"') from error
            if len(tokens) < length or tokens.max() >= tokenizer.vocab_size:
                raise ValueError(
                    f"{where} has {len(tokens)} tokens below {tokenizer.vocab_size:,}, and "
                    f"{length} are needed: lower prompt and continuation, or use its tokenizer"
                )
            texts.append(tokens)
    return texts
