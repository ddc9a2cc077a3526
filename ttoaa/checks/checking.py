"""All checks of a plan, as one report: for a person in checks.txt, for a program in checks.json."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttoaa.checks import overlap as overlaps
from ttoaa.checks.capacity import Capacity
from ttoaa.checks.config import Checks
from ttoaa.checks.findings import SEVERITIES, Finding
from ttoaa.checks.removed import removed_and_inserted
from ttoaa.checks.repeats import identical, similar
from ttoaa.checks.texts import Texts
from ttoaa.data.corpus import Corpus
from ttoaa.planning.edits import Edits
from ttoaa.planning.fillings import Filling
from ttoaa.planning.plan import Plan
from ttoaa.workdir import write_json, write_text


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


def refuse(plan: Edits, corpus: Corpus, checks: Checks, fillings: Sequence[Filling] = ()) -> None:
    """Raises ValueError for held-out items that are inserted, where they are to be an error.

    For a plan that is compiled, before it gets its name; `fillings` are what controllers insert.
    """
    if checks.holdout != "error":
        return
    texts = Texts.of_plan(plan, corpus.eos_id).with_fillings(fillings, corpus.eos_id)
    found = identical(_kept(texts), "error", checks.examples)
    errors = [finding.message for finding in found if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more of the kind)" if len(errors) > 1 else ""
        raise ValueError(f"a holdout leaks: {errors[0]}{more}")


def _kept(texts: Texts) -> Texts:
    """Without those that are removed from training: that they are inserted is an error of its own,
    that they are held out nobody's control."""
    return texts.only(np.flatnonzero(~texts.removed))


def check_plan(
    plan: Plan,
    corpus: Corpus,
    checks: Checks,
    fillings: Sequence[Filling] = (),
    *,
    new: bool = False,
    overlap: bool = False,
    progress: bool = False,
) -> Report:
    """All quick checks, and with `overlap` the items' n-grams in the corpus, which is read whole.

    Of a `new` plan with very many tokens of items, near-identical texts are not looked for.
    """
    texts = Texts.of_plan(plan, corpus.eos_id).with_fillings(fillings, corpus.eos_id)
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
