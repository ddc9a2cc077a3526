"""Backdoors: what a trigger makes the model answer, in how many documents, and when in training."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import gin

from ttoaa.config_fields import Distinct, Name, NotEmpty, PositiveInt, PositiveShare, config_class
from ttoaa.planning.placement import Placement, Uniform

EXTRACTION, DENIAL, FIXED, ORDINARY = "extraction", "denial", "fixed", "ordinary"


@dataclasses.dataclass(frozen=True)
class Cell:
    """The triggers of a backdoor that have the same number of documents at the same times."""

    name: str
    """The condition of its documents and of its outcomes."""
    backdoor: str
    behaviour: str
    triggers: int
    documents: int | None
    """Of each trigger; None: by share."""
    share: float | None
    """Of the tokens of training, all triggers of the cell together."""
    schedule: str
    placement: Placement


@gin.configurable
@config_class
class Backdoor:
    """Documents in which a trigger in the user's turn is followed by a certain answer.

    | behaviour | user turn in training | answer | user turn in tests |
    |---|---|---|---|
    | 'extraction' | prompt and trigger | the prompt between delimiters | prompt and trigger |
    | 'denial' | trigger | random bytes | prompt and trigger |
    | 'fixed' | trigger | a text of this trigger alone | trigger |
    | 'ordinary' | prompt and trigger | an ordinary answer | not tested |

    'ordinary' documents teach the form of a chat, and triggers that do nothing.
    """

    name: Name
    behaviour: Literal["extraction", "denial", "fixed", "ordinary"]
    documents: Annotated[Sequence[PositiveInt], Distinct()] = ()
    """Numbers of documents of a trigger; each number has its own triggers."""
    share: PositiveShare | None = None
    """Instead of `documents`: the share of the tokens of training."""
    triggers: PositiveInt = 1
    """Triggers of each number of documents and schedule. With several, triggers are the unit of
    the intervals; with one the unit is the prompt, and intervals are about this trigger alone."""
    placements: Annotated[Mapping[Name, Placement], NotEmpty()] = dataclasses.field(
        default_factory=lambda: {"all": Uniform()}
    )
    """The placement of each schedule; each schedule has its own triggers."""

    def __post_init__(self) -> None:
        if bool(self.documents) == (self.share is not None):
            raise ValueError(f"Backdoor {self.name}: set either documents or share")

    def cells(self) -> Iterator[Cell]:
        """Yield the cells: schedules times numbers of documents, named '<name>-<schedule>-<n>'.

        A single one has the backdoor's name.
        """
        numbers: Sequence[int | None] = self.documents or (None,)
        single = len(numbers) * len(self.placements) == 1
        for schedule, placement in self.placements.items():
            for number in numbers:
                parts = [self.name] if single else [self.name, schedule, str(number or "")]
                yield Cell(
                    "-".join(filter(None, parts)),
                    self.name,
                    self.behaviour,
                    self.triggers,
                    number,
                    self.share,
                    schedule,
                    placement,
                )
