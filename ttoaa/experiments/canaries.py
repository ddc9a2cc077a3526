"""Canaries: texts repeated r times in training, and membership attacks on them (E.4)."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

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
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.attacks import LOSS_ATTACK, Attack, AttackedTexts, LossAttack, check_attacks
from ttoaa.scoring.membership import AUC, TPR, chance_tpr, exposure, membership_estimates
from ttoaa.statistics.bootstrap import (
    Estimate,
    difference_in_differences,
    paired_estimate,
    paired_estimates,
)

ABOVE = "_above_nonmembers"
CALIBRATED = "_calibrated"
EXPOSURE = "exposure"

_Host = tuple[np.ndarray, int]
"""Tokens, int32[host_tokens], and the number of their document."""


@gin.configurable
@config_class
class Canaries(Experiment):
    """How well attacks separate members of the training data from matched non-members.

    A canary is a host, a piece of the reserve, followed by a suffix of its kind: none ('plain'), n
    copies of a reserved token that no other kind uses ('rare-<n>'), or n uniformly random ordinary
    tokens ('random-<n>'). Non-members come from the same generator, with the same rare token, so a
    score can only measure membership. The hosts of members and of non-members never come from one
    document, and intervals resample documents. Conditions are '<kind>-<repetitions>x'; non-members
    are '<kind>-0x'. The placebo is the AUC of half of the non-members against the other half.

    Every attack has four outcomes: its score, the score above that of non-members (a difference in
    differences: non-members grow likelier too, as the model learns the form of canaries), AUC and
    the true-positive rate at 1% false positives. Those of the loss attack are 'log_likelihood',
    'log_likelihood_above_nonmembers', 'auc' and 'tpr_at_1pct_fpr'; those of another attack are
    'min_k', 'min_k_above_nonmembers', 'auc_min_k' and 'tpr_at_1pct_fpr_min_k', by its name. An AUC
    of exactly 0 or 1 has no spread that a bootstrap could see.
    """

    kinds: Names = ("plain", "rare-8")
    repetitions: Annotated[Sequence[PositiveInt], NotEmpty(), Distinct()] = (1, 4, 16)
    """Repetitions of members; non-members are added for every kind."""
    members: PositiveInt = 200
    """Members of each condition: of each kind and number of repetitions."""
    nonmembers: PositiveInt = 500
    """Non-members of each kind."""
    host_tokens: PositiveInt = 32
    spare: Annotated[float, AtLeast(1), AtMost(100)] = 1.25
    """Hosts cut per host needed; the spare ones replace hosts with an EOS, and repeated ones."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    attacks: Sequence[Attack] = dataclasses.field(default_factory=lambda: (LossAttack(),))
    calibrate: bool = False
    """Attack also with every score minus the control run's score of the same text (Watson et al.
    2022): outcomes 'auc_calibrated', 'auc_min_k_calibrated', …"""
    exposure: bool = False
    """Estimate also each member's exposure in bits (Carlini et al. 2019): outcome 'exposure'. The
    non-members of its kind are the sample of candidates, so it is at most log2(nonmembers + 1)."""

    def __post_init__(self) -> None:
        check_attacks(self.attacks, f"{self.name}: attacks")
        names = [attack.name for attack in self.attacks]
        if self.exposure and LOSS_ATTACK not in names:
            raise ValueError(f"{self.name}: exposure needs the loss attack: add @LossAttack()")
        ends = [_suffix(name) + end for name in names for end in ("", CALIBRATED)]
        outcomes = [*names, *(name + ABOVE for name in names), EXPOSURE]
        outcomes += [statistic + end for statistic in (AUC, TPR) for end in ends]
        object.__setattr__(self, "signs", dict.fromkeys(outcomes, 1))
        super().__post_init__()
        for kind in self.kinds:
            if kind != "plain" and not _is_suffixed(kind):
                raise ValueError(
                    f"{self.name}: a kind is 'plain', 'rare-<n>' or 'random-<n>', not {kind!r}"
                )
        outcome, _, condition = self.primary.partition("/")
        known = [f"{kind}-{r}x" for kind in self.kinds for r in (0, *self.repetitions)]
        known = [c for c in known if outcome in names or not c.endswith("-0x")]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    @property
    def placebo(self) -> str:
        if self.nonmembers < 2:
            return ""
        return f"{AUC}{_suffix(self.attacks[0].name)}/{self.kinds[0]}-0x"

    @property
    def _per_kind(self) -> list[tuple[int, int]]:
        """(repetitions, number of canaries) of every condition of a kind."""
        return [(0, self.nonmembers), *((r, self.members) for r in self.repetitions)]

    @property
    def _totals(self) -> tuple[int, int]:
        """Numbers of members and of non-members of all kinds."""
        kinds = len(self.kinds)
        return kinds * len(self.repetitions) * self.members, kinds * self.nonmembers

    def reserve_windows(self, geometry: Geometry) -> list[int]:
        longest = self.host_tokens + max(map(_suffix_length, self.kinds)) + 2
        if longest > geometry.length:
            raise ValueError(
                f"{self.name}: a host, a suffix and two EOS are {longest} tokens, which does not "
                f"fit a row of {geometry.length}: lower host_tokens or the suffix"
            )
        pieces = geometry.length // self.host_tokens
        return [math.ceil(total * self.spare / pieces) for total in self._totals]

    def intervene(self, world: World) -> Iterator[Item]:
        members, nonmembers = map(iter, self._hosts(world))
        eos = [world.tokenizer.eos_id]
        for kind in self.kinds:
            count = sum(n for _, n in self._per_kind)
            suffixes = iter(self._suffixes(kind, count, world))
            for repetitions, number in self._per_kind:
                condition = f"{kind}-{repetitions}x"
                for i in range(number):
                    host, document = next(members if repetitions else nonmembers)
                    text = np.concatenate([host, next(suffixes)])
                    yield Item(
                        id=f"{condition}-{i}",
                        condition=condition,
                        repetitions=repetitions,
                        tokens=np.concatenate([eos, text, eos]).astype(np.int32),
                        placement=self.placement,
                        text=world.tokenizer.decode(text),
                        fields={"document": document},
                    )

    def _hosts(self, world: World) -> tuple[list[_Host], list[_Host]]:
        """Return the hosts of members and of non-members, each with the number of its document.

        They are disjoint, distinct, and without EOS as far as possible. An unsuitable host is
        replaced in place, so a different window of the reserve (because another experiment was
        added) changes only the canaries cut from it. Members and non-members are chosen alike.
        """
        h, eos = self.host_tokens, world.tokenizer.eos_id
        cut = world.reserve_NxL.shape[1] // h
        pieces = world.reserve_NxL[:, : cut * h].reshape(-1, h)
        documents = world.documents.repeat(cut)
        order = world.rng("hosts").permutation(len(pieces))
        first = np.zeros(len(pieces), bool)  # of equal pieces one counts, a random one
        first[order[np.unique(pieces[order], axis=0, return_index=True)[1]]] = True
        rank = np.where(first & ~(pieces == eos).any(1), 0, np.where(first, 1, 2))
        split = self.reserve_windows(world.geometry)[0] * cut
        members, nonmembers = order[order < split], order[order >= split]
        found: list[list[_Host]] = []
        for side, total in zip((members, nonmembers), self._totals, strict=True):
            chosen = self._choose(side, total, rank, world.rng("replace", len(found)))
            found.append([(pieces[k], int(documents[k])) for k in chosen.tolist()])
        return found[0], found[1]

    def _choose(
        self, pieces: np.ndarray, total: int, rank: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the first `total` of int64[n] `pieces`, with better ones in place of bad ones."""
        chosen, spare = pieces[:total].copy(), pieces[total:]
        spare = spare[np.argsort(rank[spare], kind="stable")]
        bad = rng.permutation(total)
        bad = bad[rank[chosen[bad]] > 0]
        bad = bad[np.argsort(-rank[chosen[bad]], kind="stable")][: len(spare)]
        better = rank[spare[: len(bad)]] < rank[chosen[bad]]
        chosen[bad[better]] = spare[: len(bad)][better]
        if (rank[chosen] == 2).any():
            raise ValueError(
                f"{self.name}: the reserve has too few distinct pieces of {self.host_tokens} "
                f"tokens for {total} canaries: raise spare or host_tokens, or lower members"
            )
        return chosen

    def _suffixes(self, kind: str, count: int, world: World) -> np.ndarray:
        """Return int32[count, n]: suffixes of a kind."""
        n = _suffix_length(kind)
        reserved = world.tokenizer.reserved_ids
        if kind.startswith("random"):
            ordinary = np.delete(np.arange(reserved.start), world.tokenizer.eos_id)
            return world.rng("suffix", kind).choice(ordinary, (count, n)).astype(np.int32)
        rare = [other for other in self.kinds if other.startswith("rare")]
        if len(rare) > len(reserved):
            raise ValueError(
                f"{self.name}: {len(rare)} rare kinds need a reserved token each, but the "
                f"tokenizer has {len(reserved)}: raise the tokenizer's reserved ids"
            )
        tokens = world.rng("rare").permutation(np.array(reserved))
        token = tokens[rare.index(kind)] if kind in rare else 0
        return np.full((count, n), token, np.int32)

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Score every canary by every attack: host and suffix, given the leading EOS.

        The closing EOS is not part of the text.
        """
        requests = [(np.asarray(tokens, np.int32)[:-1], 1) for tokens in model.items["tokens"]]
        attacked = AttackedTexts(model, list(model.items["text"]), requests)
        names = ("id", "condition", "document")
        columns = {name: model.items[name].to_numpy() for name in names}
        tables = [
            pd.DataFrame({**columns, "outcome": attack.name, "value": attack.scores(attacked)})
            for attack in self.attacks
        ]
        return pd.concat(tables, ignore_index=True).rename(
            columns={"id": "item", "document": "group"}
        )

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        found = paired_estimates(run, control, self.sign)
        keys = ["item", "condition", "outcome"]
        both = run.merge(control[[*keys, "value"]], on=keys, suffixes=("", "_control"))
        scores = {key: rows for key, rows in both.groupby(keys[1:])}
        for attack, kind in itertools.product(self.attacks, self.kinds):
            nonmembers = scores[kind + "-0x", attack.name]
            for condition in (f"{kind}-{r}x" for r in self.repetitions):
                members = scores[condition, attack.name]
                found += self._attack_estimates(attack.name, condition, members, nonmembers)
        if self.placebo:
            first, condition = self.attacks[0].name, f"{self.kinds[0]}-0x"
            nonmembers = scores[condition, first]
            _, document = np.unique(nonmembers["group"], return_inverse=True)
            half = (document if document.any() else np.arange(len(document))) % 2 == 0
            halves = nonmembers[half], nonmembers[~half]
            found += self._membership(*halves, condition, _suffix(first))
        return found

    def _attack_estimates(
        self, attack: str, condition: str, members: pd.DataFrame, nonmembers: pd.DataFrame
    ) -> list[Estimate]:
        above, end, sides = attack + ABOVE, _suffix(attack), (members, nonmembers)
        (run_in, control_in), (run_non, control_non) = (
            (side["value"].to_numpy(float), side["value_control"].to_numpy(float)) for side in sides
        )
        groups = members["group"].to_numpy(), nonmembers["group"].to_numpy()
        both = run_in, control_in, run_non, control_non
        found = [difference_in_differences(above, condition, *both, self.sign(above), groups)]
        found += self._membership(members, nonmembers, condition, end)
        if self.calibrate:  # calibrated by itself, the control run scores every text 0
            own = [s.assign(value=s["value"] - s["value_control"], value_control=0) for s in sides]
            found += self._membership(own[0], own[1], condition, end + CALIBRATED)
        if self.exposure and attack == LOSS_ATTACK:
            bits = exposure(run_in, run_non), exposure(control_in, control_non)
            sign = self.sign(EXPOSURE)
            found.append(paired_estimate(EXPOSURE, condition, *bits, sign, groups[0]))
        return found

    def _membership(
        self, members: pd.DataFrame, nonmembers: pd.DataFrame, condition: str, end: str
    ) -> list[Estimate]:
        sides = (members, nonmembers)
        run_in, run_non = (side["value"].to_numpy(float) for side in sides)
        control_in, control_non = (side["value_control"].to_numpy(float) for side in sides)
        groups = members["group"].to_numpy(), nonmembers["group"].to_numpy()
        return membership_estimates(
            run_in, run_non, control_in, control_non, condition, self.sign, end, groups
        )

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """AUC and TPR at 1% FPR against repetitions, of the first attack; a line per kind, seed."""
        final = estimates[estimates["step"] == estimates["step"].max()]
        repetitions = sorted(self.repetitions)
        seeds = list(final["seed"].unique())
        axes.set_axis_off()
        attack = self.attacks[0].name
        title = "the loss attack" if attack == LOSS_ATTACK else attack
        panels = (
            (AUC + _suffix(attack), f"AUC of {title}", 0.5),
            (TPR + _suffix(attack), "TPR at 1% FPR", chance_tpr(self.nonmembers)),
        )
        for column, (outcome, label, chance) in enumerate(panels):
            panel = axes.inset_axes((0.54 * column, 0, 0.46, 1))
            for number, kind in enumerate(self.kinds):
                for k, seed in enumerate(seeds):
                    rows = final[(final["seed"] == seed) & (final["outcome"] == outcome)]
                    rows = rows.set_index("condition").loc[[f"{kind}-{r}x" for r in repetitions]]
                    x = np.arange(len(rows)) + 0.06 * number + 0.02 * k
                    name = kind if k == 0 else None
                    panel.plot(x, rows["value"], "o-", color=f"C{number}", label=name)
                    panel.vlines(x, rows["ci_low"], rows["ci_high"], color=f"C{number}")
            panel.axhline(chance, color="gray", linestyle="--", label="chance")
            panel.set_xticks(range(len(repetitions)), [f"{r}×" for r in repetitions])
            panel.set_xlabel("repetitions in training")
            panel.set_title(label)
        panel.legend()


def _suffix(attack: str) -> str:
    """Return how the names of an attack's AUC and TPR end."""
    return "" if attack == LOSS_ATTACK else f"_{attack}"


def _is_suffixed(kind: str) -> bool:
    name, _, number = kind.partition("-")
    return name in ("rare", "random") and number.isdecimal() and int(number) >= 1


def _suffix_length(kind: str) -> int:
    return 0 if kind == "plain" else int(kind.partition("-")[2])
