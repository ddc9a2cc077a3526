"""Knowledge acquisition: a controller decides from probes which facts to insert (paper, E.1)."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import Count, PositiveInt, config_class
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.acquisition import outcomes
from ttoaa.experiments.acquisition.contrasts import versus
from ttoaa.experiments.acquisition.estimates import arm_estimates
from ttoaa.experiments.acquisition.generated_facts import GeneratedKnowledge
from ttoaa.experiments.acquisition.labels import LABELS
from ttoaa.experiments.acquisition.outcomes import NEVER, TARGET, TEXTS, VALUE
from ttoaa.experiments.acquisition.policies import Criterion, FixedRate, Never, Proportional
from ttoaa.experiments.acquisition.policy import Policy, Target
from ttoaa.experiments.acquisition.topics import Arm, Knowledge
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.controllers import Controller
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.items import Item
from ttoaa.planning.placement import PerInterval
from ttoaa.statistics.bootstrap import Estimate
from ttoaa.statistics.power import Precision

_BARRED = "/@"


@gin.configurable
@config_class
class Acquisition(Experiment):
    """Invented facts, inserted as often as needed to keep their probability on a rising target.

    Every arm has its own entities and a policy. At the start of each interval of training the
    policy chooses, from the model's log-probabilities of probes, which texts to insert in that
    interval. Probes use phrasings that no text uses. The baselines are entities that are never
    inserted, all entities in the control run, and arms at a fixed rate (`FixedRate`).

    A topic is the facts of one text; its value is the mean log-probability of its targets. Its
    error is the root mean square of log(value / target) over all intervals with a target above 0.
    `tracking_error` is that of the second half of the intervals, in nats. Insertion reduces it
    under any rule, so two contrasts within the run judge control (see `contrasts`): that with a
    fixed rate of as many tokens, and, for arms with different targets, that with the target of the
    other arm. The report also shows how often a rate was at its lower or upper limit, since the
    policy has no control there.

    Topics are the units of resampling. An arm whose topics share their decisions counts as one
    unit, so it has no intervals. The placebo compares two halves of the topics that are never
    inserted.
    """

    knowledge: Knowledge = dataclasses.field(default_factory=GeneratedKnowledge)
    policies: Sequence[Policy] = dataclasses.field(default_factory=lambda: (Proportional(),))
    """One policy for each arm, which takes the policy's name."""
    entities: PositiveInt = 12
    """Entities of each arm."""
    held_out: Count = 12
    """Entities of the arm 'never', which is not inserted."""
    every: PositiveInt = 1000
    """Steps of an interval."""
    target: Target = dataclasses.field(default_factory=Target)
    """The target of arms whose policy has none."""
    criterion: Criterion = dataclasses.field(default_factory=Criterion)
    """When a topic counts as acquired, in arms whose policy has no criterion."""
    new_tokens: PositiveInt = 25
    """New tokens of a greedy continuation; it is right if it contains the target, ignoring case."""

    prior = PriorFinding(
        work="Chang et al. 2024",
        finding="The probability of a fact follows its insertions, so it can be held on a target.",
        effect="from 1e-12 to 0.05 with a target of 0.08; accuracy 25%",
        source="arXiv 2509.23383, figure 2a, E.1",
    )
    labels = LABELS
    signs: ClassVar[Mapping[str, int]] = outcomes.SIGNS
    drawn: ClassVar[Sequence[str]] = outcomes.CURVES
    """Outcomes with an estimate for each interval, for the figure."""
    version: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "policies", tuple(self.policies))
        names = [policy.name for policy in self.policies]
        bad = [name for name in names if not name or set(name) & set(_BARRED) or name == NEVER]
        if not names or len(set(names)) < len(names) or bad:
            raise ValueError(
                f"{self.name}: policies must have different names, none of them {NEVER!r} or with "
                f"'/' or '@', not {names}"
            )
        for arm in self._counterparts.values():
            if arm not in self._steered:
                raise ValueError(
                    f"{self.name}: FixedRate.against must name an arm with a target, one of "
                    f"{self._steered}, not {arm!r}"
                )
        outcome, _, condition = self.primary.partition("/")
        barred = [*self.drawn, *outcomes.UNCOMPARED]
        known = [*names, *(versus(*pair) for pair in self._pairs)]
        if outcome in barred or condition not in known:
            raise ValueError(
                f"{self.name}: the primary's condition must be among {known}, and its outcome none "
                f"of {barred}, not {self.primary!r}"
            )

    @property
    def placebo(self) -> str:
        return f"{outcomes.HALVES}/{NEVER}" if self.held_out > 1 else ""

    @property
    def _steered(self) -> list[str]:
        """The arms that follow a target."""
        return [policy.name for policy in self.policies if hasattr(policy, "target")]

    @property
    def _pairs(self) -> list[tuple[str, str]]:
        """Each arm with a target and what it is compared with: its fixed rates, other targets."""
        fixed = [(arm, rate) for rate, arm in self._counterparts.items()]
        targets = self._targets()
        others: list[tuple[str, str]] = []
        for arm, other in itertools.permutations(self._steered, 2):
            known = [targets[arm], *(targets[b] for a, b in others if a == arm)]
            if targets[other] not in known:  # one arm for each other target
                others.append((arm, other))
        return fixed + others

    def _targets(self) -> dict[str, Target]:
        """Return the target of each arm; a fixed rate is judged by that of its counterpart."""
        arms = (*self.policies, Never(NEVER))
        own = {arm.name: getattr(arm, "target", None) or self.target for arm in arms}
        return own | {rate: own[arm] for rate, arm in self._counterparts.items()}

    @property
    def _counterparts(self) -> dict[str, str]:
        """The arm with a target that each fixed rate is compared with, if it is."""
        rates = [p for p in self.policies if isinstance(p, FixedRate)]
        return {p.name: p.against for p in rates if p.against is not None}

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
            entities = iter(self.knowledge.entities(count, world.rng("entities")))
            arms, targets = [], self._targets()
            for policy in policies:
                size = self.held_out if policy.name == NEVER else self.entities
                mine = [next(entities) for _ in range(size)]
                arms.append(Arm.make(policy, mine, world, self.every, targets[policy.name]))
            return arms
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def burst(self, size: BurstSize) -> "Acquisition":
        """Return one arm at a fixed rate: a burst is too short for control.

        The primary is the log-probability of its facts, above that of facts never inserted.
        """
        arm = FixedRate(tokens=size.tokens, against=None)
        outcome = outcomes.LIKELIHOOD + (outcomes.ABOVE if self.held_out else "")
        return dataclasses.replace(
            self,
            primary=f"{outcome}/{arm.name}",
            expected_sign=self.signs[outcome],
            policies=(arm,),
            every=size.geometry.steps,
        )

    def precision(self, geometry: Geometry) -> Precision:
        """An entity counts as one topic, which is the fewest."""
        outcome, _, condition = self.primary.partition("/")
        arm, _, other = condition.partition("-vs-")
        shared = any(policy.shared for policy in self.policies if policy.name == arm)
        own = 1 if shared else self.entities
        if other in self._counterparts:
            return Precision((own, self.entities), "topics")
        sizes = (own, self.held_out) if outcome.endswith(outcomes.ABOVE) else (own,)
        return Precision(sizes, "topics")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Measure the probes of every arm now, and its trajectory so far (see `outcomes`)."""
        policies = {p.name: p for p in (*self.policies, Never(NEVER))}
        criteria = {n: getattr(p, "criterion", self.criterion) for n, p in policies.items()}
        now = outcomes.score_probes(model, self.new_tokens)
        so_far = outcomes.trajectory_outcomes(model, policies, criteria, self._targets())
        shared = {name for name, policy in policies.items() if policy.shared}
        return outcomes.add_groups(pd.concat([now, so_far], ignore_index=True), shared)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        policies = {policy.name: policy for policy in self.policies}
        return arm_estimates(run, control, policies, self._pairs, self.sign)

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw value and target over training, and texts below (the paper's figures 2a and 9)."""
        draw_trajectories([p.name for p in self.policies], estimates, axes)


def draw_trajectories(arms: Sequence[str], estimates: pd.DataFrame, axes: Any) -> None:
    """Draw one colour for each arm and one line for each seed; the control run is dotted."""
    final = estimates[estimates["step"] == estimates["step"].max()]
    split = final["condition"].str.partition("@")
    final = final.assign(arm=split[0])[split[1] == "@"]
    final = final.assign(at=split[2][split[1] == "@"].astype(int)).sort_values("at")
    axes.set_axis_off()
    above, below = axes.inset_axes((0, 0.42, 1, 0.58)), axes.inset_axes((0, 0, 1, 0.34))
    _draw_targets(arms, final, above)
    shown = [*arms, *([NEVER] if (final["arm"] == NEVER).any() else [])]
    for number, arm in enumerate(shown):
        color = f"C{number}"
        mine = final[final["arm"] == arm]
        for k, (_, rows) in enumerate(mine.groupby("seed", sort=False)):
            value, texts = (rows[rows["outcome"] == name] for name in (VALUE, TEXTS))
            style = dict(color=color, lw=1.2, alpha=1 if k == 0 else 0.5)
            above.plot(value["at"], value["value"], label=arm if k == 0 else None, **style)
            above.fill_between(value["at"], value["ci_low"], value["ci_high"], color=color,
                               alpha=0.12, linewidth=0)  # fmt: skip
            if arm != NEVER:
                first = number == k == 0
                label = "its facts in the control run" if first else None
                above.plot(value["at"], value["control_value"], ":", label=label, **style)
                below.step(texts["at"], texts["value"], where="post", **style)
    above.set_yscale("log")
    above.set_xticklabels([])
    above.set_ylabel("probability")
    above.legend(fontsize="small", ncols=2)
    most = final.loc[final["outcome"] == TEXTS, "value"].max()
    below.set_yscale("symlog", linthresh=1)
    below.yaxis.set_major_formatter("{x:g}")
    below.set_ylim(0, 1.5 * max(1, np.nan_to_num(most)))
    below.set_ylabel("texts")
    below.set_xlabel("step")


def _draw_targets(arms: Sequence[str], final: pd.DataFrame, axes: Any) -> None:
    """Draw the targets of the arms, each once."""
    goals = final[(final["outcome"] == TARGET) & (final["value"] > 0)]
    drawn: set[bytes] = set()
    for arm in arms:
        goal = goals[goals["arm"] == arm].drop_duplicates("at")
        curve = goal["value"].to_numpy().tobytes()
        if curve not in drawn:
            label = None if drawn else "target"
            axes.plot(goal["at"], goal["value"], "--", color="gray", label=label)
        drawn.add(curve)
