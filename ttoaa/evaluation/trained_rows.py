"""Rows of the training stream and their noise, as a run has them (contract C9)."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.model.noise import unit_noise
from ttoaa.planning.composed_rows import compose_rows, edited_rows
from ttoaa.planning.items import RESERVE, TOKENS
from ttoaa.planning.noise import row_keys
from ttoaa.planning.plan import Edits

_READ = 1024  # rows that `masked` reads at a time
_DRAWN = 8  # rows at a time, so that one compiled program serves any number


@dataclasses.dataclass(frozen=True)
class TrainedRows:
    """Composes rows and draws noise for outcomes, from the files of a study alone."""

    plan: Edits
    corpus: Corpus
    order: Order
    width: int
    """Of the model's embeddings."""
    repetition_filter: RepetitionFilter | None = None
    experiments: tuple[str, ...] | None = None
    """Those whose edits the rows have; None: all of the plan."""
    start: int = 0
    """The first of these rows; those before have the edits of `earlier`."""
    earlier: tuple[str, ...] | None = ()

    def rows(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `Scorer.rows`."""
        return self._compose(positions, edited=True)

    def masked(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `Scorer.masked`."""
        rule, found = self.repetition_filter, np.zeros(len(positions), bool)
        if rule is None:
            return found
        for first in range(0, len(found), _READ):
            part = slice(first, first + _READ)
            found[part] = rule.repeats(self._compose(positions[part], rule.when == "after_edits"))
        return found

    @functools.cached_property
    def edited_rows(self) -> np.ndarray:
        """As `Scorer.edited_rows`."""
        columns = self.plan.columns
        late, early = (self._is_edit_of(names) for names in (self.experiments, self.earlier))
        made = np.where(columns["position"] < self.start, early, late)
        return edited_rows(self.plan, np.isin(columns["kind"], (TOKENS, RESERVE)) & made)

    def _is_edit_of(self, names: tuple[str, ...] | None) -> np.ndarray:
        own = [a["id"] for a in self.plan.arms if names is None or a["experiment"] in names]
        return np.isin(self.plan.columns["arm"], own)

    def reserve(self, windows: Sequence[int] | np.ndarray) -> np.ndarray:
        """As `Scorer.reserve`."""
        return self.corpus.windows("reserve", np.asarray(windows), self.plan.geometry.length)

    def noise(self, positions: Sequence[int] | np.ndarray, fresh: int = 0) -> np.ndarray:
        """As `Scorer.noise`."""
        keys_Nx2 = row_keys(self.plan.contents["seed"], self._check(positions), fresh)
        n, length = len(keys_Nx2), self.plan.geometry.length
        found_NxLxD = np.empty((n, length, self.width), np.float32)
        for first in range(0, n, _DRAWN):
            part = keys_Nx2[first : first + _DRAWN]
            drawn = _draw(np.resize(part, (_DRAWN, 2)), length, self.width)
            found_NxLxD[first : first + _DRAWN] = np.asarray(drawn)[: len(part)]
        return found_NxLxD

    def _compose(self, positions: Sequence[int] | np.ndarray, edited: bool) -> np.ndarray:
        distinct, place = np.unique(self._check(positions), return_inverse=True)
        parts = np.split(distinct, [np.searchsorted(distinct, self.start)])
        composed = [
            compose_rows(self.plan, self.corpus, self.order, part, names if edited else ())
            for part, names in zip(parts, (self.earlier, self.experiments), strict=True)
            if len(part) or names is self.experiments
        ]
        return np.concatenate(composed)[place]

    def _check(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        found, total = np.asarray(positions, np.int64), self.plan.geometry.sequences
        if found.size and not 0 <= found.min() <= found.max() < total:
            raise ValueError(f"positions are rows 0 to {total - 1} of training, not {found}")
        return found


_draw = functools.partial(jax.jit, static_argnums=(1, 2))(unit_noise)
