"""Knowledge acquisition: facts are inserted as a controller says that watches them (paper, E.1).

Value against target over training, and n below it: the paper's figures 2a and 9.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.experiments.acquisition import estimates as contrasts
from ttoaa.experiments.acquisition import outcomes
from ttoaa.experiments.acquisition.fictional_texts import FictionalTexts
from ttoaa.experiments.acquisition.generated_facts import GeneratedKnowledge
from ttoaa.experiments.acquisition.outcomes import NEVER, TARGET, TEXTS, VALUE
from ttoaa.experiments.acquisition.policies import (
    Criterion,
    Doubling,
    FixedRate,
    Never,
    Proportional,
    UntilAcquired,
)
from ttoaa.experiments.acquisition.policy import Policy, Target
from ttoaa.experiments.acquisition.topics import Arm, Knowledge
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.controllers import Controller
from ttoaa.planning.items import Item
from ttoaa.planning.placement import PerInterval
from ttoaa.statistics.bootstrap import Estimate

__all__ = [
    "Acquisition",
    "Criterion",
    "Doubling",
    "FictionalTexts",
    "FixedRate",
    "GeneratedKnowledge",
    "Proportional",
    "Target",
    "UntilAcquired",
]

_BARRED = "/@"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Acquisition(Experiment):
    """Facts that nobody knows, told in many wordings as often as it takes to keep the model's
    knowledge of them on a line that rises to a target.

    Every arm has entities of its own and a policy that decides, from what the model knows as an
    interval of training begins, which texts are inserted in it. Facts are asked for in phrasings
    that no text has. Entities that are never inserted, and all of them in the control run, say
    where knowledge is without.

    A topic is what a text tells, one fact or several; knowledge of it is the mean log-probability
    of its targets. The course of an arm is judged by the root mean square of log(value / target)
    over all intervals that begin with a target above 0, and over the second half of them; how often
    the rate of a topic is at its lowest or highest is told too, as control is lost there.
    """

    knowledge: Knowledge = dataclasses.field(default_factory=GeneratedKnowledge)
    policies: Sequence[Policy] = dataclasses.field(default_factory=lambda: (Proportional(),))
    """One for each arm, which has its name."""
    entities: int = 4
    """Of each arm."""
    held_out: int = 4
    """Entities of the arm 'never'."""
    every: int = 1000
    """Steps of an interval."""
    target: Target = dataclasses.field(default_factory=Target)
    criterion: Criterion = dataclasses.field(default_factory=Criterion)
    """When a topic counts as acquired, in arms whose policy has no criterion of its own."""
    new_tokens: int = 25
    """Of a greedy continuation, which is right if it contains the target, in any case."""

    signs: ClassVar[Mapping[str, int]] = outcomes.SIGNS
    drawn: ClassVar[Sequence[str]] = outcomes.CURVES
    """Outcomes with an estimate for each interval: the figure shows them."""
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"entities": 1, "held_out": 0, "every": 1, "new_tokens": 1}
        for field, low in least.items():
            value = getattr(self, field)
            if not isinstance(value, int) or value < low:
                raise ValueError(
                    f"{self.name}: {field} must be an integer of at least {low}, not {value!r}"
                )
        object.__setattr__(self, "policies", tuple(self.policies))
        names = [policy.name for policy in self.policies]
        bad = [name for name in names if not name or set(name) & set(_BARRED) or name == NEVER]
        if not names or len(set(names)) < len(names) or bad:
            raise ValueError(
                f"{self.name}: policies must have different names, none of them {NEVER!r} or with "
                f"'/' or '@', not {names}"
            )
        outcome, _, condition = self.primary.partition("/")
        barred = [*self.drawn, *outcomes.UNCOMPARED]
        if outcome in barred or condition not in names:
            raise ValueError(
                f"{self.name}: the primary's condition must be among {names}, and its outcome none "
                f"of {barred}, not {self.primary!r}"
            )

    def intervene(self, world: World) -> Iterator[Item]:
        for arm in self._arms(world):
            setting = arm.setting
            yield Item(
                id=arm.name,
                condition=arm.name,
                repetitions=arm.slots * setting.intervals,
                slot=max(arm.setting.text_tokens),
                placement=PerInterval(self.every),
                text=arm.wordings[0],
                fields={
                    "every": setting.every,
                    "steps": setting.steps,
                    "text_topic": list(setting.text_topic),
                    "text_tokens": list(setting.text_tokens),
                    "topics": list(arm.topics),
                },
            )
            for probe in arm.probes:
                yield Item(
                    id=probe.id,
                    condition=arm.name,
                    repetitions=0,
                    tokens=probe.tokens,
                    text=f"{probe.cloze.context} {probe.cloze.target}",
                    fields={
                        "context": probe.cloze.context,
                        "target": probe.cloze.target,
                        "topic": probe.topic,
                        "start": probe.start,
                    },
                )

    def controllers(self, world: World) -> Sequence[Controller]:
        return [arm.controller() for arm in self._arms(world)]

    def _arms(self, world: World) -> list[Arm]:
        policies = [*self.policies, *([Never(NEVER)] if self.held_out else [])]
        try:
            count = self.entities * len(self.policies) + self.held_out
            every = iter(self.knowledge.entities(count, world.rng("entities")))
            arms = []
            for policy in policies:
                size = self.held_out if policy.name == NEVER else self.entities
                mine = [next(every) for _ in range(size)]
                where = world.tokenizer, world.geometry
                arms.append(Arm.make(policy, mine, *where, self.every, self.target))
            return arms
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """What the probes of every arm say now, and what came of it so far (see `outcomes`)."""
        policies = {p.name: p for p in (*self.policies, Never(NEVER))}
        criteria = {n: getattr(p, "criterion", self.criterion) for n, p in policies.items()}
        told = outcomes.probed(model, self.new_tokens)
        course = outcomes.trajectories(model, policies, criteria, self.target)
        return pd.concat([told, course], ignore_index=True)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        measures = {p.name: getattr(p, "measure", "log_probability") for p in self.policies}
        return contrasts.estimates(run, control, measures, self.sign)

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Value against target over training, and n below it: the paper's figures 2a and 9."""
        draw_trajectories([p.name for p in self.policies], estimates, axes)


def draw_trajectories(arms: Sequence[str], estimates: pd.DataFrame, axes: Any) -> None:
    """An arm has a colour, a seed a line; dotted, the same facts in the control run."""
    final = estimates[estimates["step"] == estimates["step"].max()]
    split = final["condition"].str.partition("@")
    final = final.assign(arm=split[0])[split[1] == "@"]
    final = final.assign(at=split[2][split[1] == "@"].astype(int)).sort_values("at")
    axes.set_axis_off()
    above, below = axes.inset_axes((0, 0.42, 1, 0.58)), axes.inset_axes((0, 0, 1, 0.34))
    goal = final[final["outcome"] == TARGET].drop_duplicates("at")
    goal = goal[goal["value"] > 0]
    above.plot(goal["at"], goal["value"], "--", color="gray", label="target")
    shown = [*arms, *([NEVER] if (final["arm"] == NEVER).any() else [])]
    for number, arm in enumerate(shown):
        color = f"C{number}"
        mine = final[final["arm"] == arm]
        for k, (_, rows) in enumerate(mine.groupby("seed", sort=False)):
            value, texts = (rows[rows["outcome"] == name] for name in (VALUE, TEXTS))
            told = dict(color=color, lw=1.2, alpha=1 if k == 0 else 0.5)
            above.plot(value["at"], value["value"], label=arm if k == 0 else None, **told)
            above.fill_between(value["at"], value["ci_low"], value["ci_high"], color=color,
                               alpha=0.12, linewidth=0)  # fmt: skip
            if arm != NEVER:
                first = number == k == 0
                label = "its facts in the control run" if first else None
                above.plot(value["at"], value["control_value"], ":", label=label, **told)
                below.step(texts["at"], texts["value"], where="post", **told)
    above.set_yscale("log")
    above.set_xticklabels([])
    above.set_ylabel("probability of the target")
    above.legend(fontsize="small", ncols=2)
    most = final.loc[final["outcome"] == TEXTS, "value"].max()
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(0, 1.5 * max(1, np.nan_to_num(most)))
    below.set_ylabel("texts an interval")
    below.set_xlabel("step")
