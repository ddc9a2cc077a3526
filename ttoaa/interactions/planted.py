"""Planted interactions: a further experiment that is known to influence another one.

| kind | the further experiment, 'planted' |
|---|---|
| `itself` | inserts the items of the contamination experiment once more |
| `shared-items:0.5` | inserts half of its items once more |
| `contradiction` | inserts its questions with a wrong option |
| `one-trigger` | inserts the triggers of the poisoning experiment with another behaviour |

A test of dependence must find the effect of 'planted' on the other experiment.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.contamination import Contamination
from ttoaa.experiments.poisoning import Poisoning
from ttoaa.experiments.poisoning.backdoors import DENIAL, EXTRACTION
from ttoaa.planning.items import Item
from ttoaa.statistics.bootstrap import Estimate

NAME = "planted"
ITSELF, SHARED, CONTRADICTION, ONE_TRIGGER = (
    "itself",
    "shared-items",
    "contradiction",
    "one-trigger",
)
KINDS = (ITSELF, SHARED, CONTRADICTION, ONE_TRIGGER)


@dataclasses.dataclass(frozen=True)
class Echo(Experiment):
    """The items of another experiment, drawn from that one's random streams."""

    of: Experiment
    """An experiment of single items without reserve windows, probes and controllers."""
    share: float = 1.0
    """Of the inserted items of each condition, the first ones, the last of them with fewer
    repetitions where the share is no whole number of items. Held-out items are all there."""
    wrong: bool = False
    """Insert the option after the right one of each question."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "signs", self.of.signs)
        super().__post_init__()

    def intervene(self, world: World) -> Iterator[Item]:
        own = dataclasses.replace(world, name=self.of.name)
        items = [item for item in self.of.intervene(own) if isinstance(item, Item)]
        inserted = pd.Series([item.condition for item in items if item.repetitions])
        left = (inserted.value_counts() * self.share).to_dict()
        for item in items:
            if item.repetitions:
                part = min(1.0, left[item.condition])
                left[item.condition] -= 1
                if part <= 0:
                    continue
                copies = math.ceil(round(part * item.repetitions, 6))
                item = dataclasses.replace(item, repetitions=copies)
                yield self._contradict(item, world) if self.wrong else item
            else:
                yield item

    def _contradict(self, item: Item, world: World) -> Item:
        options = [
            context + end
            for context, end in zip(
                item.fields["contexts"], item.fields["continuations"], strict=True
            )
        ]
        text = options[(item.fields["label"] + 1) % len(options)]
        tokens = world.document(world.tokenizer.encode(text), f"{self.name}: {item.id}")
        return dataclasses.replace(item, tokens=tokens, text=text)

    def outcome(self, model: Scorer) -> pd.DataFrame:
        return self.of.outcome(model)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        return self.of.estimates(run, control)


def plant(kind: str, experiments: Sequence[Experiment]) -> Echo:
    """Return the planted experiment next to bursts of these experiments.

    Raises ValueError for an unknown kind, or if the experiment that it needs is not among them.
    """
    name, _, share = kind.partition(":")
    needed = Poisoning if name == ONE_TRIGGER else Contamination
    of = next((each for each in experiments if isinstance(each, needed)), None)
    if name not in KINDS or bool(share) != (name == SHARED):
        raise ValueError(
            f"--plant is one of {', '.join(KINDS)}, the second with :SHARE, not {kind!r}"
        )
    if of is None:
        raise ValueError(f"--plant={kind} needs a {needed.__name__} in the study")
    settings: dict[str, Any] = {"wrong": name == CONTRADICTION}
    if name == SHARED:
        settings["share"] = _share(share)
    if isinstance(of, Poisoning):
        (backdoor,) = of.backdoors
        other: Any = EXTRACTION if backdoor.behaviour == DENIAL else DENIAL
        of = dataclasses.replace(of, backdoors=(dataclasses.replace(backdoor, behaviour=other),))
    return Echo(NAME, of.primary, of.expected_sign, of=of, **settings)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(f"--plant={SHARED}: the share must be in (0, 1], not {text!r}")
    return value
