"""Canaries: texts repeated r times in training, and membership attacks on them (E.4)."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import (
    AtLeast,
    AtMost,
    Distinct,
    Names,
    NotEmpty,
    PositiveInt,
    config_class,
)
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Model, Scorer, World, members_by_repetitions
from ttoaa.experiments.canaries.conditions import (
    PLAIN,
    RANDOM,
    UNLIKELY,
    Condition,
    Kind,
    list_conditions,
)
from ttoaa.experiments.canaries.contrasts import (
    ABOVE,
    above_nonmembers,
    against_nonmembers,
    exposure_estimate,
    halves,
    less,
    less_control,
    membership,
    pair_scores,
    per_token,
)
from ttoaa.experiments.canaries.figure import draw_membership
from ttoaa.experiments.canaries.hosts import Host, choose_hosts
from ttoaa.experiments.canaries.labels import LABELS
from ttoaa.experiments.canaries.places import in_place_requests
from ttoaa.experiments.canaries.suffixes import choose_unlikely, make_suffixes
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.attacks import LOSS_ATTACK, Attack, AttackedTexts, LossAttack, check_attacks
from ttoaa.scoring.membership import AUC, FEWEST_FOR_TPR, TPR, statistics_for
from ttoaa.scoring.requests import sum_log_probs
from ttoaa.statistics.bootstrap import Estimate, paired_estimates
from ttoaa.statistics.power import Precision

BY_CONTROL, BY_REFERENCE = "_by_control", "_by_reference"
HOST, SUFFIX, IN_PLACE, UNMATCHED = "_host", "_suffix", "_in_place", "_unmatched"
GAIN, EXPOSURE = "in_place_gain", "exposure"


@gin.configurable
@config_class
class Canaries(Experiment):
    """How well attacks separate members of the training data from matched non-members.

    A canary is a host, a piece of the reserve, followed by a suffix of its kind: none ('plain'), n
    copies of a reserved token ('rare-<n>'), the n ordinary tokens that the study's reference model
    finds least likely after the host ('unlikely-<n>'), or n uniformly random ordinary tokens
    ('random-<n>'). Non-members come from the same generator, with the same rare token, so a score
    can only measure membership. The hosts of members and of non-members never come from one
    document, and intervals resample documents. Conditions are '<kind>-<repetitions>x', and
    '<kind>-0x' for non-members, or '<kind>-0x-of-<repetitions>x' where each number of repetitions
    has its own rare token. The placebo is the AUC of half of the non-members against the other
    half.

    Every attack has four outcomes: its score, the score above that of non-members (a difference in
    differences: non-members grow likelier too, as the model learns the form of canaries), AUC and
    the true-positive rate at 1% false positives, which needs 500 non-members. Those of the loss
    attack are 'log_likelihood', 'log_likelihood_above_nonmembers', 'auc' and 'tpr_at_1pct_fpr';
    those of another attack are 'min_k', 'min_k_above_nonmembers', 'auc_min_k' and
    'tpr_at_1pct_fpr_min_k', by its name. The options add outcomes whose names end as they say. An
    AUC of exactly 0 or 1 has no spread that a bootstrap could see.
    """

    kinds: Names = ("plain", "rare-8")
    repetitions: Annotated[Sequence[PositiveInt], NotEmpty(), Distinct()] = (1, 4, 16)
    """Repetitions of members; non-members are added for every kind."""
    members: PositiveInt | Annotated[Sequence[PositiveInt], NotEmpty()] = 200
    """Members of each condition, or a list with those of each number of `repetitions`."""
    nonmembers: PositiveInt = 500
    """Non-members of each kind; of each condition of a rare kind with its own token."""
    rare_tokens: Literal["own", "shared"] = "own"
    """'own': each condition of a rare kind has a token of its own, as in the paper. 'shared': all
    repetitions of a kind have the same, so that copies of one condition teach the form of another.
    """
    host_tokens: PositiveInt = 32
    spare: Annotated[float, AtLeast(1), AtMost(100)] = 1.25
    """Hosts cut per host needed; the spare ones replace hosts with an EOS, and repeated ones."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    attacks: Sequence[Attack] = dataclasses.field(default_factory=lambda: (LossAttack(),))
    calibrate: Annotated[Sequence[Literal["control", "reference"]], Distinct()] = ()
    """Also the loss minus that of the same text under the control run or the reference model
    (Watson et al. 2022): 'auc_by_control', 'auc_by_reference'."""
    parts: bool = False
    """Also the loss of the host alone, 'auc_host', and of the suffix given the host: 'auc_suffix'
    and 'log_likelihood_suffix'."""
    in_place: bool = False
    """Also the loss given the tokens that precede the text in its row: 'auc_in_place'. Members are
    scored where their first copy stood, non-members where a member of their kind stood.
    'in_place_gain' is the log-likelihood in place less that at the start of a context, of members
    above non-members: what the offset is worth."""
    unmatched: bool = False
    """Also the loss per token of canaries against plain non-members, as in the paper:
    'auc_unmatched'. It is far from 0.5 without any member, since kinds differ in difficulty."""
    exposure: bool = False
    """Estimate also the exposure in bits of random suffixes (Carlini et al. 2019): 'exposure'. A
    suffix, given its host, is ranked among those of the non-members of its kind, so it is at most
    log2(nonmembers + 1)."""

    prior = PriorFinding(
        work="Panda et al. 2025",
        finding="Canaries are detected by membership inference, those with rare tokens best.",
        effect="true positives at 1% false ones, 16 repetitions: 1.2% plain, 2.5% rare",
        source="arXiv 2509.23383, figure 3b",
    )
    labels = LABELS

    def __post_init__(self) -> None:
        check_attacks(self.attacks, f"{self.name}: attacks")
        for kind in self.kinds:
            if not Kind(kind).valid:
                raise ValueError(
                    f"{self.name}: a kind is 'plain', 'rare-<n>', 'unlikely-<n>' or 'random-<n>', "
                    f"not {kind!r}"
                )
        members_by_repetitions(self.name, self.members, self.repetitions)
        self._check_options()
        if self.primary.startswith(TPR) and TPR not in self._statistics:
            raise ValueError(
                f"{self.name}: the primary is a rate at 1% false positives, which needs at least "
                f"{FEWEST_FOR_TPR} nonmembers, not {self.nonmembers}"
            )
        object.__setattr__(self, "signs", dict.fromkeys(self._outcomes(), 1))
        super().__post_init__()
        outcome, _, condition = self.primary.partition("/")
        known = [c.name for c in self.conditions if c.repetitions or outcome in self._means]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    def _check_options(self) -> None:
        types = {Kind(kind).type for kind in self.kinds}
        names = [attack.name for attack in self.attacks]
        for option in ("calibrate", "parts", "in_place", "unmatched", "exposure"):
            if getattr(self, option) and LOSS_ATTACK not in names:
                raise ValueError(
                    f"{self.name}: {option} needs the loss attack: add @LossAttack(), with "
                    f"LossAttack.name = {LOSS_ATTACK!r}"
                )
        if self.unmatched and not {PLAIN} < types:
            raise ValueError(f"{self.name}: unmatched needs the kind 'plain' and another kind")
        if self.exposure and RANDOM not in types:
            raise ValueError(f"{self.name}: exposure needs a kind 'random-<n>'")
        if self.parts and types == {PLAIN}:
            raise ValueError(f"{self.name}: parts needs a kind with a suffix")

    def _outcomes(self) -> Iterator[str]:
        """Yield the names of all outcomes."""
        yield from self._means
        yield from (attack.name + ABOVE for attack in self.attacks)
        ends = [_end(attack) for attack in self.attacks]
        ends += [f"_by_{model}" for model in self.calibrate]
        ends += [HOST, SUFFIX] * self.parts + [IN_PLACE] * self.in_place
        ends += [UNMATCHED] * self.unmatched
        yield from (statistic + end for statistic in self._statistics for end in ends)
        yield from [GAIN] * self.in_place + [EXPOSURE] * self.exposure

    @property
    def _means(self) -> list[str]:
        """The scores whose mean is an outcome."""
        return [attack.name for attack in self.attacks] + [LOSS_ATTACK + SUFFIX] * self.parts

    @property
    def _statistics(self) -> tuple[str, ...]:
        return statistics_for(self.nonmembers)

    @property
    def _members(self) -> list[int]:
        """The members of each number of repetitions."""
        return members_by_repetitions(self.name, self.members, self.repetitions)

    @property
    def conditions(self) -> list[Condition]:
        own = self.rare_tokens == "own"
        return list(
            list_conditions(self.kinds, self.repetitions, self._members, self.nonmembers, own)
        )

    @property
    def placebo(self) -> str:
        if self.nonmembers < 2:
            return ""
        return f"{AUC}{_end(self.attacks[0])}/{self.conditions[0].name}"

    @property
    def needs_reference(self) -> bool:
        unlikely = any(Kind(kind).type == UNLIKELY for kind in self.kinds)
        return unlikely or "reference" in self.calibrate

    @property
    def _totals(self) -> tuple[int, int]:
        """Numbers of members and of non-members of all kinds."""
        members = sum(c.number for c in self.conditions if c.repetitions)
        return members, sum(c.number for c in self.conditions) - members

    def reserve_windows(self, geometry: Geometry) -> list[int]:
        longest = self.host_tokens + max(Kind(kind).tokens for kind in self.kinds) + 2
        if longest > geometry.length:
            raise ValueError(
                f"{self.name}: a host, a suffix and two EOS are {longest} tokens, which does not "
                f"fit a row of {geometry.length}: lower host_tokens or the suffix"
            )
        pieces = geometry.length // self.host_tokens
        return [math.ceil(total * self.spare / pieces) for total in self._totals]

    def _with_hosts(self, world: World) -> Iterator[tuple[Condition, list[Host]]]:
        """Yield each condition with its hosts."""
        split = self.reserve_windows(world.geometry)[0]
        members, nonmembers = map(iter, choose_hosts(world, self.host_tokens, self._totals, split))
        for condition in self.conditions:
            side = members if condition.repetitions else nonmembers
            yield condition, [next(side) for _ in range(condition.number)]

    def choose(self, world: World, model: Model) -> pd.DataFrame:
        return choose_unlikely(self._with_hosts(world), world.tokenizer, model)

    def intervene(self, world: World) -> Iterator[Item]:
        eos = [world.tokenizer.eos_id]
        conditions = self.conditions
        suffixes = {k: iter(make_suffixes(Kind(k), conditions, world)) for k in self.kinds}
        for condition, hosts in self._with_hosts(world):
            for i, host in enumerate(hosts):
                text = np.concatenate([host.tokens, next(suffixes[condition.kind.name])])
                yield Item(
                    id=f"{condition.name}-{i}",
                    condition=condition.name,
                    repetitions=condition.repetitions,
                    tokens=np.concatenate([eos, text, eos]).astype(np.int32),
                    placement=self.placement,
                    text=world.tokenizer.decode(text),
                    fields={"document": host.document},
                )

    def burst(self, size: BurstSize) -> "Canaries":
        """Return fewer members of the primary's condition, with its non-members.

        Of the options only those that the primary needs are left.
        """
        outcome, _, name = self.primary.partition("/")
        own = next(c for c in self.conditions if c.name == name)
        repetitions = own.repetitions or own.of or max(self.repetitions)
        condition = f"{own.kind.name}-{repetitions}x"
        number = self._members[self.repetitions.index(repetitions)]
        kinds = (PLAIN, own.kind.name) if outcome.endswith(UNMATCHED) else (own.kind.name,)
        return dataclasses.replace(
            self,
            kinds=kinds,
            repetitions=(repetitions,),
            members=(size.items(condition, number),),
            calibrate=[model for model in self.calibrate if outcome.endswith(f"_by_{model}")],
            parts=outcome.endswith((HOST, SUFFIX)),
            in_place=outcome.endswith(IN_PLACE) or outcome == GAIN,
            unmatched=outcome.endswith(UNMATCHED),
            exposure=outcome == EXPOSURE,
        )

    def expected_insertions(self, world: World) -> Insertions:
        """Count members and the tokens of a host, its suffix and two EOS."""
        members = [c for c in self.conditions if c.repetitions]
        copies = [c.number * c.repetitions for c in members]
        lengths = [self.host_tokens + c.kind.tokens + 2 for c in members]
        tokens = sum(n * length for n, length in zip(copies, lengths, strict=True))
        return Insertions(sum(copies), tokens)

    def precision(self, geometry: Geometry) -> Precision:
        """Intervals resample documents, so several hosts of one document count for less."""
        outcome, _, name = self.primary.partition("/")
        own = next(c for c in self.conditions if c.name == name)
        if outcome.startswith(AUC):
            return Precision.of_auc(own.number, self.nonmembers, "canaries")
        if outcome.startswith(TPR):
            return Precision.of_rate(own.number, self.nonmembers, "canaries")
        contrast = outcome.endswith(ABOVE) or outcome == GAIN
        return Precision((own.number, self.nonmembers)[: 1 + contrast], "canaries")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Score every canary by every attack: host and suffix, given the leading EOS.

        The closing EOS is not part of the text.
        """
        items, h = model.items, self.host_tokens
        requests = [(np.asarray(tokens, np.int32)[:-1], 1) for tokens in items["tokens"]]
        attacked = AttackedTexts(model, list(items["text"]), requests)
        scores: dict[str, Sequence[float]] = {a.name: a.scores(attacked) for a in self.attacks}
        if "reference" in self.calibrate:
            found = model.reference.log_likelihood(requests)
            scores[LOSS_ATTACK + BY_REFERENCE] = sum_log_probs(found)
        if self.parts or self.exposure:
            scores[LOSS_ATTACK + HOST] = sum_log_probs([p[:h] for p in attacked.log_probs])
            scores[LOSS_ATTACK + SUFFIX] = sum_log_probs([p[h:] for p in attacked.log_probs])
        if self.in_place:
            found = model.log_likelihood(in_place_requests(model, self.conditions))
            scores[LOSS_ATTACK + IN_PLACE] = sum_log_probs(found)
        names = {"id": "item", "condition": "condition", "document": "group"}
        columns = items[[*names]].rename(columns=names)
        tables = [columns.assign(outcome=name, value=value) for name, value in scores.items()]
        return pd.concat(tables, ignore_index=True)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        plain = [c.name for c in self.conditions if not c.kind.tokens]

        def reported(table: pd.DataFrame) -> pd.DataFrame:
            empty = (table["outcome"] == LOSS_ATTACK + SUFFIX) & table["condition"].isin(plain)
            return table[table["outcome"].isin(self._means) & ~empty]

        found = paired_estimates(reported(run), reported(control), self.sign)
        scores = pair_scores(run, control)
        members = [c for c in self.conditions if c.repetitions]
        for attack in self.attacks:
            outcome, end = attack.name, _end(attack)
            for c in members:
                own, others = scores[outcome, c.name], scores[outcome, c.matched]
                found += against_nonmembers(own, others, outcome, c.name, end, self.sign)
        for condition in members:
            found += self._loss_estimates(condition, scores)
        if self.placebo:
            first, name = self.attacks[0], self.conditions[0].name
            pair = halves(scores[first.name, name])
            found += membership(*pair, name, _end(first), self.sign, (AUC,))
        return found

    def _loss_estimates(
        self, condition: Condition, scores: dict[tuple[str, str], pd.DataFrame]
    ) -> Iterator[Estimate]:
        name, kind, both = condition.name, condition.kind, (condition.name, condition.matched)

        def sides(end: str) -> tuple[pd.DataFrame, pd.DataFrame]:
            member, nonmember = (scores[LOSS_ATTACK + end, each] for each in both)
            return member, nonmember

        def separation(pair: tuple[pd.DataFrame, pd.DataFrame], end: str) -> list[Estimate]:
            return membership(*pair, name, end, self.sign, self._statistics)

        if "control" in self.calibrate:
            member, nonmember = map(less_control, sides(""))
            yield from separation((member, nonmember), BY_CONTROL)
        if "reference" in self.calibrate:
            member, nonmember = map(less, sides(""), sides(BY_REFERENCE))
            yield from separation((member, nonmember), BY_REFERENCE)
        if self.parts and kind.tokens:
            for end in (HOST, SUFFIX):
                yield from separation(sides(end), end)
        if self.in_place:
            yield from separation(sides(IN_PLACE), IN_PLACE)
            member, nonmember = map(less, sides(IN_PLACE), sides(""))
            yield above_nonmembers(GAIN, name, member, nonmember, self.sign(GAIN))
        if self.unmatched and kind.tokens:
            plain = scores[LOSS_ATTACK, f"{PLAIN}-0x"]
            member = per_token(sides("")[0], self.host_tokens + kind.tokens)
            yield from separation((member, per_token(plain, self.host_tokens)), UNMATCHED)
        if self.exposure and kind.type == RANDOM:
            yield exposure_estimate(EXPOSURE, name, *sides(SUFFIX), self.sign(EXPOSURE))

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """AUC and TPR at 1% FPR of the first attack, against repetitions and suffix length."""
        ends = {statistic: statistic + _end(self.attacks[0]) for statistic in self._statistics}
        draw_membership(estimates, axes, self.conditions, ends)


def _end(attack: Attack) -> str:
    """Return how the names of an attack's AUC and TPR end."""
    return "" if attack.name == LOSS_ATTACK else f"_{attack.name}"
