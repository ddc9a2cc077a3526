"""How much of training each experiment takes: in all, and in each tenth of the way."""

import dataclasses
from typing import Any

import numpy as np

from ttoaa.checks.findings import Finding
from ttoaa.planning.items import MARK, RESERVE, SLOT, TOKENS
from ttoaa.planning.plan import Plan

TENTHS = 10
_BLOCK = 1 << 22  # edits
_KINDS = {"tokens": TOKENS, "reserve": RESERVE, "slots": SLOT, "marks": MARK}


@dataclasses.dataclass(frozen=True)
class Capacity:
    """Tokens of the stream that are edited, kept free for a controller, or marked."""

    experiments: tuple[str, ...]
    taken: np.ndarray
    """int64[experiments, tenths]"""
    kinds: np.ndarray
    """int64[experiments, 4]: as `items` numbers what an edit is."""
    room: np.ndarray
    """int64[tenths]: all tokens of each tenth."""

    @classmethod
    def of(cls, plan: Plan) -> "Capacity":
        """One pass over the columns, in memory that does not grow with them."""
        geometry, names = plan.geometry, tuple(plan.contents["experiments"])
        number = np.full(max([0, *(arm["id"] for arm in plan.arms)]) + 1, -1)
        for arm in plan.arms:
            number[arm["id"]] = names.index(arm["experiment"])
        sums = np.zeros((len(names), TENTHS, len(_KINDS)), np.int64)
        columns = plan.columns
        for first in range(0, len(columns["arm"]), _BLOCK):
            part = slice(first, first + _BLOCK)
            experiment = number[columns["arm"][part]]
            tenth = columns["position"][part] * TENTHS // geometry.sequences
            cell = (experiment * TENTHS + tenth) * len(_KINDS) + columns["kind"][part]
            added = np.bincount(cell, columns["length"][part], sums.size)
            sums += added.astype(np.int64).reshape(sums.shape)
        # The first position of tenth t is the first p with 10 p >= t sequences.
        first_row = -(-np.arange(TENTHS + 1) * geometry.sequences // TENTHS)
        return cls(names, sums.sum(2), sums.sum(1), np.diff(first_row) * geometry.length)

    def findings(self, crowded: float) -> list[Finding]:
        """A warning where experiments take this share or more of a tenth of training."""
        share = self.taken.sum(0) / np.maximum(self.room, 1)
        full = np.flatnonzero(share >= crowded)
        if not len(full):
            return []
        most = int(full[np.argmax(share[full])])
        order = np.argsort(-self.taken[:, most], kind="stable")
        return [
            Finding(
                severity="warning",
                check="capacity",
                message=f"experiments take {crowded:.0%} or more of {len(full)} tenths of "
                f"training: {share[most]:.1%} of tenth {most + 1}, most of it "
                f"{self.experiments[order[0]]}",
                experiments=tuple(self.experiments[i] for i in order if self.taken[i, most]),
            )
        ]

    def table(self) -> str:
        """Shares of the run's tokens, aligned, a line for each experiment."""
        wide = max(map(len, (*self.experiments, "experiment")))
        head = "  ".join(f"{t + 1:>6}" for t in range(TENTHS))
        lines = [f"{'experiment':{wide}}  {'tokens':>15}  {'share':>8}  of each tenth: {head}"]
        rows = [*zip(self.experiments, self.taken, strict=True), ("all", self.taken.sum(0))]
        for name, taken in rows:
            shares = taken / np.maximum(self.room, 1)
            lines.append(
                f"{name:{wide}}  {taken.sum():>15,}  {taken.sum() / self.room.sum():>8.3%}"
                f"  {'':14} {'  '.join(f'{share:>6.2%}' for share in shares)}"
            )
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        return {
            "room_of_tenths": self.room.tolist(),
            "experiments": {
                name: {
                    "tokens": int(taken.sum()),
                    "share": float(taken.sum() / self.room.sum()),
                    "tokens_of_tenths": taken.tolist(),
                    "tokens_of_kinds": dict(zip(_KINDS, kinds.tolist(), strict=True)),
                }
                for name, taken, kinds in zip(self.experiments, self.taken, self.kinds, strict=True)
            },
        }
