"""How much of training each experiment takes: in all, and in each tenth of the way.

All checks of a plan, as one report: for a person in checks.txt, for a program in checks.json.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.planning.checks import corpus_overlap as overlaps
from ttoaa.planning.checks.duplicates import identical, removed_and_inserted, similar
from ttoaa.planning.checks.findings import SEVERITIES, Checks, Finding
from ttoaa.planning.checks.item_texts import ItemTexts
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import MARK, RESERVE, SLOT, TOKENS
from ttoaa.planning.plan import Edits, Plan
from ttoaa.workdir import write_json, write_text

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


@dataclasses.dataclass(frozen=True)
class Report:
    """What the checks of one plan found."""

    plan: str
    findings: list[Finding]
    capacity: Capacity
    overlap: list[dict[str, Any]] | None
    left_out: list[str]
    """Checks that were not made, and how to make them."""
    ngram: int

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def short(self) -> str:
        """How many of each severity, what they are, and what was not looked at."""
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        told = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
        ordered = sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))
        return "\n".join(
            [
                f"checks of plan {self.plan[:12]}: {told}",
                *(finding.line() for finding in ordered),
                *(f"not checked: {what}" for what in self.left_out),
            ]
        )

    def text(self) -> str:
        parts = [self.short(), self.capacity.table()]
        if self.overlap is not None:
            parts.append(overlaps.table(self.overlap, self.ngram))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: pathlib.Path) -> None:
        """checks.txt and checks.json beside the plan, which they are no part of."""
        write_text(folder / "checks.txt", self.text())
        write_json(
            folder / "checks.json",
            {
                "plan": self.plan,
                "findings": [dataclasses.asdict(finding) for finding in self.findings],
                "capacity": self.capacity.values(),
                "overlap": self.overlap,
                "left_out": self.left_out,
            },
        )


def refuse(plan: Edits, corpus: Corpus, checks: Checks, fillings: Sequence[SlotTexts] = ()) -> None:
    """Raises ValueError for held-out items that are inserted, where they are to be an error.

    For a plan that is compiled, before it gets its name; `fillings` are what controllers insert.
    """
    if checks.holdout != "error":
        return
    texts = ItemTexts.of_plan(plan, corpus.eos_id).with_fillings(fillings, corpus.eos_id)
    found = identical(_kept(texts), "error", checks.examples)
    errors = [finding.message for finding in found if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more of the kind)" if len(errors) > 1 else ""
        raise ValueError(f"a holdout leaks: {errors[0]}{more}")


def _kept(texts: ItemTexts) -> ItemTexts:
    """Without those that are removed from training: that they are inserted is an error of its own,
    that they are held out nobody's control."""
    return texts.only(np.flatnonzero(~texts.removed))


def check_plan(
    plan: Plan,
    corpus: Corpus,
    checks: Checks,
    fillings: Sequence[SlotTexts] = (),
    *,
    new: bool = False,
    overlap: bool = False,
    progress: bool = False,
) -> Report:
    """All quick checks, and with `overlap` the items' n-grams in the corpus, which is read whole.

    Of a `new` plan with very many tokens of items, near-identical texts are not looked for.
    """
    texts = ItemTexts.of_plan(plan, corpus.eos_id).with_fillings(fillings, corpus.eos_id)
    kept = _kept(texts)
    left_out: list[str] = []
    findings = [
        *removed_and_inserted(texts, checks.examples),
        *identical(kept, checks.holdout, checks.examples),
    ]
    if new and int(kept.length.sum()) > checks.similar_up_to:
        left_out.append("texts that are nearly the same (--check)")
    else:
        # Nearly the same is a matter of degree: told of a plan that is made, never refused.
        severity = "warning" if checks.holdout == "error" else checks.holdout
        findings += similar(texts, checks.shingle, checks.similar, severity, checks.examples)
    capacity = Capacity.of(plan)
    findings += capacity.findings(checks.crowded)
    rows = None
    if overlap:
        found = overlaps.overlap(corpus, plan, texts, checks.ngram, checks.ngrams, progress)
        rows = overlaps.by_condition(found, checks.covered, checks.examples)
        findings += overlaps.findings(rows, checks.ngram, checks.covered)
    else:
        left_out.append("items that the corpus has anyway (--check=overlap)")
    return Report(plan.hash, findings, capacity, rows, left_out, checks.ngram)
