"""Canaries: texts with and without a suffix, seen r times, and attacked by their loss (E.4)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.membership import AUC, TPR, chance_tpr, membership_estimates
from ttoaa.statistics.bootstrap import Estimate, difference_in_differences, paired_estimates

LIKELIHOOD = "log_likelihood"
ABOVE = LIKELIHOOD + "_above_nonmembers"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Canaries(Experiment):
    """How well members of the training data are told from matched non-members.

    A canary is a host, a piece of the reserve, and a suffix of its kind: none ('plain'), n times
    one reserved token that the kind has for itself ('rare-<n>'), or n uniformly random ordinary
    tokens ('random-<n>'). Non-members come from the same generator, with the same rare token, so
    that a score can only measure membership. Conditions are '<kind>-<repetitions>x', the
    non-members' '<kind>-0x'.

    Non-members grow likelier too, as the form of the canaries is learnt. What membership adds is
    above them: 'log_likelihood_above_nonmembers' is a difference in differences. An AUC of exactly
    0 or 1 has no spread that a bootstrap could see.
    """

    kinds: Sequence[str] = ("plain", "rare-8")
    repetitions: Sequence[int] = (1, 4, 16)
    members: int = 200
    """Members of each condition, that is of each kind and number of repetitions."""
    nonmembers: int = 500
    """Non-members of each kind."""
    host_tokens: int = 32
    spare: float = 1.25
    """Hosts cut per host needed; the spare ones replace hosts with an EOS, and repeated ones."""
    placement: Placement = dataclasses.field(default_factory=Uniform)

    signs: ClassVar[Mapping[str, int]] = {LIKELIHOOD: 1, ABOVE: 1, AUC: 1, TPR: 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.kinds:
            if kind != "plain" and not _is_suffixed(kind):
                raise ValueError(
                    f"{self.name}: a kind is 'plain', 'rare-<n>' or 'random-<n>', not {kind!r}"
                )
        for field in ("kinds", "repetitions"):
            values = getattr(self, field)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{self.name}: {field} must be distinct, and at least one")
        if not all(isinstance(r, int) and r >= 1 for r in self.repetitions):
            raise ValueError(
                f"{self.name}: repetitions must be integers >= 1, not {self.repetitions!r}: "
                "non-members are added for every kind"
            )
        for field in ("members", "nonmembers", "host_tokens"):
            if getattr(self, field) < 1:
                raise ValueError(f"{self.name}: {field} must be at least 1")
        if self.spare < 1:
            raise ValueError(f"{self.name}: spare must be at least 1, not {self.spare}")
        outcome, _, condition = self.primary.partition("/")
        known = [f"{kind}-{r}x" for kind in self.kinds for r in (0, *self.repetitions)]
        known = [c for c in known if outcome == LIKELIHOOD or not c.endswith("-0x")]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    @property
    def _per_kind(self) -> list[tuple[int, int]]:
        """(repetitions, number of canaries) of every condition of a kind."""
        return [(0, self.nonmembers), *((r, self.members) for r in self.repetitions)]

    @property
    def _total(self) -> int:
        return len(self.kinds) * sum(n for _, n in self._per_kind)

    def reserve_windows(self, geometry: Geometry) -> int:
        longest = self.host_tokens + max(map(_suffix_length, self.kinds)) + 2
        if longest > geometry.length:
            raise ValueError(
                f"{self.name}: a host, a suffix and two EOS are {longest} tokens, which does not "
                f"fit a row of {geometry.length}: lower host_tokens or the suffix"
            )
        return math.ceil(self._total * self.spare / (geometry.length // self.host_tokens))

    def intervene(self, world: World) -> Iterator[Item]:
        hosts = iter(self._hosts(world))
        eos = [world.tokenizer.eos_id]
        for kind in self.kinds:
            count = sum(n for _, n in self._per_kind)
            suffixes = iter(self._suffixes(kind, count, world))
            for repetitions, number in self._per_kind:
                condition = f"{kind}-{repetitions}x"
                for i in range(number):
                    text = np.concatenate([next(hosts), next(suffixes)])
                    yield Item(
                        id=f"{condition}-{i}",
                        condition=condition,
                        repetitions=repetitions,
                        tokens=np.concatenate([eos, text, eos]).astype(np.int32),
                        placement=self.placement,
                        text=world.tokenizer.decode(text),
                    )

    def _hosts(self, world: World) -> np.ndarray:
        """int32[total, host_tokens]: disjoint, distinct, and without EOS while there are such.

        A host that is not good enough is replaced where it stands, so that another window in the
        reserve (because another experiment was added) changes only the canaries cut from it.
        Which ones are replaced is drawn over all conditions alike: members and non-members match.
        """
        h = self.host_tokens
        cut = world.reserve_NxL.shape[1] // h * h
        pieces = world.reserve_NxL[:, :cut].reshape(-1, h)
        first = np.zeros(len(pieces), bool)
        first[np.unique(pieces, axis=0, return_index=True)[1]] = True
        order = world.rng("hosts").permutation(len(pieces))
        pieces, first = pieces[order], first[order]
        clean = first & ~(pieces == world.tokenizer.eos_id).any(1)
        rank = np.where(clean, 0, np.where(first, 1, 2))
        chosen = np.arange(self._total)
        spare = np.argsort(rank[self._total :], kind="stable") + self._total
        bad = world.rng("replace").permutation(chosen)
        bad = bad[rank[bad] > 0]
        bad = bad[np.argsort(-rank[bad], kind="stable")][: len(spare)]
        better = rank[spare[: len(bad)]] < rank[bad]
        chosen[bad[better]] = spare[: len(bad)][better]
        if (rank[chosen] == 2).any():
            raise ValueError(
                f"{self.name}: the reserve has too few distinct pieces of {h} tokens for "
                f"{self._total} canaries: raise spare or host_tokens, or lower members"
            )
        return pieces[chosen]

    def _suffixes(self, kind: str, count: int, world: World) -> np.ndarray:
        """int32[count, n] suffixes of a kind."""
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
        """Log-likelihood of host and suffix, given the leading EOS: the score of the loss attack.

        The closing EOS is not part of the text, and left out.
        """
        requests = [(np.asarray(tokens, np.int32)[:-1], 1) for tokens in model.items["tokens"]]
        scores = model.log_likelihood(requests)
        return pd.DataFrame(
            {
                "item": model.items["id"].to_numpy(),
                "condition": model.items["condition"].to_numpy(),
                "outcome": LIKELIHOOD,
                "value": [float(np.sum(score, dtype=float)) for score in scores],
            }
        )

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        found = paired_estimates(run, control, self.sign)
        both = run.merge(control, on=["item", "condition", "outcome"], suffixes=("", "_control"))
        scores = {
            condition: (rows["value"].to_numpy(float), rows["value_control"].to_numpy(float))
            for condition, rows in both.groupby("condition")
        }
        for kind in self.kinds:
            run_non, control_non = scores[f"{kind}-0x"]
            for condition in (f"{kind}-{r}x" for r in self.repetitions):
                groups = (*scores[condition], run_non, control_non)
                found.append(difference_in_differences(ABOVE, condition, *groups, self.sign(ABOVE)))
                run_in, control_in = scores[condition]
                found += membership_estimates(
                    run_in, run_non, control_in, control_non, condition, self.sign
                )
        return found

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """AUC and TPR at 1% FPR against repetitions, a line for each kind and seed."""
        final = estimates[estimates["step"] == estimates["step"].max()]
        repetitions = sorted(self.repetitions)
        seeds = list(final["seed"].unique())
        axes.set_axis_off()
        panels = (
            (AUC, "AUC of the loss attack", 0.5),
            (TPR, "TPR at 1% FPR", chance_tpr(self.nonmembers)),
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


def _is_suffixed(kind: str) -> bool:
    name, _, number = kind.partition("-")
    return name in ("rare", "random") and number.isdecimal() and int(number) >= 1


def _suffix_length(kind: str) -> int:
    return 0 if kind == "plain" else int(kind.partition("-")[2])
