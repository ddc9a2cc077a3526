"""Words of the report: what an experiment asks, and the titles and units of its outcomes.

Each experiment declares them once, as `Experiment.labels`. Names that no pattern matches are shown
as they are, with spaces in place of underscores.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

PERCENT = "%"


@dataclasses.dataclass(frozen=True)
class Label:
    """The title of an outcome and how its values are shown."""

    title: str
    """In lower case, so that it fits into a sentence: 'accuracy above the held-out questions'."""
    unit: str = ""
    """Such as 'nats per token'. With `PERCENT`, values are shares that are shown times 100, and
    their differences are in points."""
    against: str = "in the control run"
    """What the difference compares with, after 'than'."""
    help: str = ""
    """What a value means, if the title does not say it."""

    @property
    def scale(self) -> float:
        return 100.0 if self.unit == PERCENT else 1.0

    @property
    def unit_of_differences(self) -> str:
        return "points" if self.unit == PERCENT else self.unit


AUC = Label(
    "AUC",
    help="the probability that a member of the training data scores above a non-member; "
    "0.5 is chance",
)
TPR = Label("members found at 1% false positives", PERCENT, help="chance is 1%")
REPETITIONS = {"0x": "held out", r"(\d+)x": r"\1 repetitions"}
"""Conditions '<r>x'."""


@dataclasses.dataclass(frozen=True)
class ReportLabels:
    """Everything that the report says about an experiment, apart from its numbers.

    Keys of `outcomes` and `conditions` are regular expressions that must match the whole name; the
    first one counts, and titles may use its groups. In conditions "1 copies" becomes "1 copy", and
    so on.
    """

    question: str = ""
    """What the experiment asks, with a question mark."""
    method: str = ""
    """How it answers the question, in a few sentences without identifiers."""
    caption: str = ""
    """What the figure shows."""
    outcomes: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    conditions: Mapping[str, str] = dataclasses.field(default_factory=lambda: REPETITIONS)
    curves: Sequence[str] = ()
    """Patterns of 'outcome/condition': points of a curve, which belong in a figure. The report has
    no rows of them, except for the primary outcome; summary.json has them all."""

    def outcome(self, name: str) -> Label:
        """Return the label of an outcome."""
        for pattern, label in self.outcomes.items():
            if match := re.fullmatch(pattern, name):
                return dataclasses.replace(label, title=_plain(match.expand(label.title)))
        return Label(_plain(name))

    def condition(self, name: str) -> str:
        """Return the title of a condition."""
        for pattern, title in self.conditions.items():
            if match := re.fullmatch(pattern, name):
                text = re.sub(r"\b1 copies\b", "1 copy", match.expand(title))
                return re.sub(r"\b1 (\w+)s\b", r"1 \1", text)
        return _plain(name)

    def on_curve(self, outcome: str, condition: str) -> bool:
        """Return whether an estimate is a point of a curve."""
        name = f"{outcome}/{condition}"
        return any(re.fullmatch(pattern, name) for pattern in self.curves)


def _plain(name: str) -> str:
    return name.replace("_", " ")
