"""The plan as the loader's transform: writes a batch's edits over it (contract C2)."""

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Batch
from ttoaa.planning.edits import Edits
from ttoaa.planning.items import RESERVE, SLOT, TOKENS

_READ = ("kind", "source", "offset", "length", "arm")


class Overlay:
    """Writes the plan's edits over a batch: all experiments at once, cost by edits alone."""

    def __init__(self, plan: Edits, corpus: Corpus) -> None:
        self._plan, self._corpus = plan, corpus

    def __call__(self, step: int, batch: Batch) -> Batch:
        position, tokens = batch["position"], batch["tokens"]
        columns = self._plan.columns
        chosen = self._plan.between(int(position[0]), int(position[-1]) + 1)
        if chosen.start == chosen.stop:
            return batch
        theirs = columns["position"][chosen]
        row = position.searchsorted(theirs)
        ours = position[row] == theirs  # a share need not be contiguous
        ours &= columns["kind"][chosen] != SLOT  # the corpus, until something is decided
        row = row[ours]
        kind, source, offset, length, arm = (columns[name][chosen][ours] for name in _READ)
        reserve = np.flatnonzero(kind == RESERVE)
        if reserve.size:
            self._corpus.write_windows("reserve", source[reserve], tokens, row[reserve])
        # A slice an edit costs less than an index a token: edits have hundreds of tokens.
        flat, arms, texts = tokens.reshape(-1), batch["arms"].reshape(-1), self._plan.tokens
        edits = (kind, row * tokens.shape[1] + offset, length, source, arm)
        for k, at, n, start, a in zip(*(column.tolist() for column in edits), strict=True):
            if k == TOKENS:
                flat[at : at + n] = texts[start : start + n]
            arms[at : at + n].fill(a)
        return batch
