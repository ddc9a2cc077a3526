"""The plan as the loader's transform: writes a batch's edits over it (contract C2)."""

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Batch
from ttoaa.planning.edits import Edits
from ttoaa.planning.items import RESERVE, SLOT, TOKENS

_READ = ("position", "offset", "length", "source", "kind", "arm")


class Overlay:
    """Writes the plan's edits over a batch: all experiments at once, cost by edits alone."""

    def __init__(self, plan: Edits, corpus: Corpus) -> None:
        self._plan, self._corpus = plan, corpus

    def __call__(self, step: int, batch: Batch) -> Batch:
        position, tokens = batch["position"], batch["tokens"]
        length = tokens.shape[1]
        chosen = self._plan.between(int(position[0]), int(position[-1]) + 1)
        edits = {name: self._plan.columns[name][chosen] for name in _READ}
        row = position.searchsorted(edits["position"])
        ours = position[row] == edits["position"]  # a share need not be contiguous
        ours &= edits["kind"] != SLOT  # the corpus, until something is decided
        row, edits = row[ours], {name: column[ours] for name, column in edits.items()}
        lengths = edits["length"].astype(np.int64)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        target = row * length + edits["offset"]
        target = np.repeat(target, lengths) + within
        reserve = np.flatnonzero(edits["kind"] == RESERVE)
        windows = self._corpus.windows("reserve", edits["source"][reserve], length).ravel()
        start = edits["source"].copy()
        start[reserve] = np.arange(len(reserve)) * length
        start, kind = np.repeat(start, lengths) + within, np.repeat(edits["kind"], lengths)
        flat = tokens.reshape(-1)
        flat[target[kind == TOKENS]] = self._plan.tokens[start[kind == TOKENS]]
        flat[target[kind == RESERVE]] = windows[start[kind == RESERVE]]
        batch["arms"].reshape(-1)[target] = np.repeat(edits["arm"], lengths)
        return batch
