"""Rows with noise: which rows of a run the training step perturbs, by how much, and by which key.

The noise of a row is a function of the study's seed and the row's position alone (contract C9): the
loader hands a key of two words to the step, `ttoaa.model.noise` draws from it on the device, and
evaluation draws it again. Nothing is stored.
"""

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from ttoaa.data.order import mix64
from ttoaa.planning.items import NOISE, Noise
from ttoaa.planning.plan import Edits

if TYPE_CHECKING:  # Grain takes a second to import, and only the loader needs it
    from ttoaa.data.loader import Batch

NOISE_KEY, NOISE_SCALE = "noise_key", "noise_scale"
"""Names in a batch: uint32[b, 2], and float32[b, 2] of `Noise.scale`, 0 in rows without noise."""


def row_keys(seed: int, positions: np.ndarray, fresh: int = 0) -> np.ndarray:
    """Return the key of the noise of each row of the training order, uint32[n, 2].

    `fresh` = 0 is the noise of training; every other number gives noise that no run has seen.
    """
    text = f"noise\x1f{seed}\x1f{fresh}".encode()
    root = np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
    keys = mix64(root + np.asarray(positions).astype(np.uint64))
    words = [keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)]
    return np.stack(words, -1).astype(np.uint32)


def noisy_arms(plan: Edits, experiments: Collection[str] | None = None) -> dict[int, Noise]:
    """Return the noise of the arms that have any, of these experiments or of all."""
    return {
        arm["id"]: Noise(**arm["noise"])
        for arm in plan.arms
        if "noise" in arm and (experiments is None or arm["experiment"] in experiments)
    }


class NoiseRows:
    """A transform of the loader: adds the keys and scales of a batch in which a row has noise.

    Whether a batch has them depends on the whole batch, not on a host's share of it, so all hosts
    run the same program. All noisy rows are looked up once, at the start.
    """

    def __init__(self, plan: Edits, experiments: Collection[str] | None = None) -> None:
        """Perturb the rows of these experiments, by default of all."""
        noises = noisy_arms(plan, experiments)
        self._seed, self._batch = plan.contents["seed"], plan.geometry.batch
        self._position = np.empty(0, np.int64)
        self._scale = np.empty((0, 2), np.float32)
        if noises:
            columns = plan.columns
            edits = np.flatnonzero(np.asarray(columns["kind"]) == NOISE)
            arm = columns["arm"][edits]
            ours = np.isin(arm, list(noises))
            self._position = np.asarray(columns["position"][edits[ours]])
            scales = [noises[each].scale for each in arm[ours].tolist()]
            self._scale = np.array(scales, np.float32).reshape(-1, 2)

    def __bool__(self) -> bool:
        """Whether any row of the run has noise."""
        return len(self._position) > 0

    @property
    def positions(self) -> np.ndarray:
        """int64[n] ascending: the rows with noise."""
        return self._position

    def __call__(self, step: int, batch: "Batch") -> "Batch":
        edges = np.searchsorted(self._position, [step * self._batch, (step + 1) * self._batch])
        noisy = slice(*edges.tolist())
        if noisy.start == noisy.stop:
            return batch
        position: Any = batch["position"]
        found = self._position[noisy]
        row = np.minimum(np.searchsorted(found, position), len(found) - 1)
        marked = found[row] == position
        scale = np.where(marked[:, None], self._scale[noisy][row], np.float32(0))
        return {**batch, NOISE_KEY: row_keys(self._seed, position), NOISE_SCALE: scale}
