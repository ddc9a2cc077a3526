"""Run all checks of a plan and report them in checks.txt and checks.json."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.planning.checks import corpus_overlap as overlaps
from ttoaa.planning.checks.duplicates import identical, similar
from ttoaa.planning.checks.findings import SEVERITIES, Checks, Finding
from ttoaa.planning.checks.item_texts import ItemTexts
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.plan import Edits, Plan
from ttoaa.planning.store import summary_values
from ttoaa.workdir import write_json, write_text


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of all checks of one plan."""

    plan: str
    findings: list[Finding]
    summary: dict[str, Any]
    """The contents of the plan's summary.json."""
    overlap: list[dict[str, Any]] | None
    left_out: list[str]
    """Checks that were skipped, and how to run them."""
    ngram: int

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def short(self) -> str:
        """Return the number of findings by severity, the findings, and the skipped checks."""
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        numbers = ", ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in counts.items())
        ordered = sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))
        return "\n".join(
            [
                f"checks of plan {self.plan[:12]}: {numbers}",
                *(finding.line() for finding in ordered),
                *(f"not checked: {what}" for what in self.left_out),
            ]
        )

    def text(self) -> str:
        """Return the contents of checks.txt."""
        parts = [self.short(), capacity_table(self.summary)]
        if self.overlap is not None:
            parts.append(overlaps.table(self.overlap, self.ngram))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: pathlib.Path) -> None:
        """Write checks.txt and checks.json into the plan's folder, outside its hash."""
        keys = ("tokens", "share", "tokens_of_tenths", "tokens_of_kinds")
        experiments = self.summary["experiments"].items()
        write_text(folder / "checks.txt", self.text())
        write_json(
            folder / "checks.json",
            {
                "plan": self.plan,
                "findings": [dataclasses.asdict(finding) for finding in self.findings],
                "capacity": {
                    "room_of_tenths": self.summary["room_of_tenths"],
                    "experiments": {n: {key: each[key] for key in keys} for n, each in experiments},
                },
                "overlap": self.overlap,
                "left_out": self.left_out,
            },
        )


def capacity_findings(summary: dict[str, Any], crowded: float) -> list[Finding]:
    """Warn if experiments cover the share `crowded` or more of a tenth of training."""
    share = np.array(summary["occupied_by_tenth"])
    full = np.flatnonzero(share >= crowded)
    if not len(full):
        return []
    worst = int(full[np.argmax(share[full])])
    tokens = {n: each["tokens_of_tenths"][worst] for n, each in summary["experiments"].items()}
    names = sorted((name for name in tokens if tokens[name]), key=lambda name: -tokens[name])
    return [
        Finding(
            severity="warning",
            check="capacity",
            message=f"experiments cover {crowded:.0%} or more of {len(full)} tenths of training: "
            f"{share[worst]:.1%} of tenth {worst + 1}, most of it by {names[0]}",
            experiments=tuple(names),
        )
    ]


def capacity_table(summary: dict[str, Any]) -> str:
    """Format the tokens that each experiment covers, and its share of each tenth of training."""
    experiments, room = summary["experiments"], np.array(summary["room_of_tenths"])
    width = max(map(len, (*experiments, "experiment")))
    head = "  ".join(f"{tenth + 1:>6}" for tenth in range(len(room)))
    lines = [f"{'experiment':{width}}  {'tokens':>15}  {'share':>8}  of each tenth: {head}"]
    rows = [(name, np.array(each["tokens_of_tenths"])) for name, each in experiments.items()]
    rows.append(("all", sum((tokens for _, tokens in rows), np.zeros(len(room), np.int64))))
    for name, tokens in rows:
        shares = "  ".join(f"{share:>6.2%}" for share in tokens / np.maximum(room, 1))
        lines.append(
            f"{name:{width}}  {tokens.sum():>15,}  {tokens.sum() / room.sum():>8.3%}"
            f"  {'':14} {shares}"
        )
    return "\n".join(lines)


def refuse_leaks(
    plan: Edits, corpus: Corpus, checks: Checks, slot_texts: Sequence[SlotTexts] = ()
) -> None:
    """Raise ValueError for held-out items that are inserted, if the config makes that an error.

    For a compiled plan, before it is stored; `slot_texts` are what controllers may insert.
    """
    if checks.holdout != "error":
        return
    texts = ItemTexts.of_plan(plan, corpus.eos_id).with_slot_texts(slot_texts, corpus.eos_id)
    found = identical(_without_removed(texts), "error", checks.examples)
    errors = [finding.message for finding in found if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more such findings)" if len(errors) > 1 else ""
        raise ValueError(
            f"a holdout leaks: {errors[0]}{more}: change the items, or set Checks.holdout lower"
        )


def _without_removed(texts: ItemTexts) -> ItemTexts:
    """Leave out texts that are removed from training: held out, but not as a control.

    The planner refuses to insert one of them (see `removal.CheckedItems`).
    """
    return texts.only(np.flatnonzero(~texts.removed))


def check_plan(
    plan: Plan,
    corpus: Corpus,
    checks: Checks,
    slot_texts: Sequence[SlotTexts] = (),
    *,
    new: bool = False,
    overlap: bool = False,
    progress: bool = False,
) -> Report:
    """Run the quick checks, and with `overlap` search the whole corpus for n-grams of items.

    For a `new` plan with very many tokens of items, near-duplicates are not searched for.
    """
    texts = ItemTexts.of_plan(plan, corpus.eos_id).with_slot_texts(slot_texts, corpus.eos_id)
    kept = _without_removed(texts)
    left_out: list[str] = []
    findings = [*identical(kept, checks.holdout, checks.examples)]
    if new and int(kept.length.sum()) > checks.similar_up_to:
        left_out.append("near-duplicate texts (run with --check)")
    else:
        # A near-duplicate is a matter of degree: reported, but never an error.
        severity = "warning" if checks.holdout == "error" else checks.holdout
        findings += similar(texts, checks.shingle, checks.similar, severity, checks.examples)
    summary = summary_values(plan)
    findings += capacity_findings(summary, checks.crowded)
    rows = None
    if overlap:
        found = overlaps.overlap(corpus, plan, texts, checks.ngram, checks.ngrams, progress)
        rows = overlaps.by_condition(found, checks.covered, checks.examples)
        findings += overlaps.findings(rows, checks.ngram, checks.covered)
    else:
        left_out.append("items that the corpus contains (run with --check=overlap)")
    return Report(plan.hash, findings, summary, rows, left_out, checks.ngram)
