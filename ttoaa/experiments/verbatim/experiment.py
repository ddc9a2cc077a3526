"""Texts removed from training, and how well the model still completes them (E.5)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import (
    AtLeast,
    Count,
    Distinct,
    Increasing,
    Name,
    PositiveInt,
    Share,
    config_class,
)
from ttoaa.data.geometry import Geometry
from ttoaa.data.sources.families import Families
from ttoaa.experiments.base import Experiment, Model, Scorer, World
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.verbatim import contrasts
from ttoaa.experiments.verbatim.candidates import Candidate, read_list, repeated_texts
from ttoaa.experiments.verbatim.contrasts import COMPLETED, FAMILY, FOUND, LIKELIHOOD, UNSEEN
from ttoaa.experiments.verbatim.figure import draw
from ttoaa.experiments.verbatim.near_duplicates import (
    Near,
    count_near,
    find_edited_rows,
    find_rows,
)
from ttoaa.planning.items import Item
from ttoaa.planning.removal import Removal
from ttoaa.statistics.bootstrap import Estimate, paired_estimates
from ttoaa.statistics.power import Precision


@gin.configurable
@config_class
class Verbatim(Experiment):
    """Remove every exact copy of texts from the run, and test whether the model completes them.

    A text is a prompt and a continuation; it is completed if greedy decoding from the prompt gives
    the continuation token by token. Three kinds are measured, on the run and on the control run:

    - 'family-<k>': the passages of `families` with k near-duplicates in the corpus. All of them are
      removed. Which passage has how many is random, so they can be compared.
    - 'found-<k>+': texts that the corpus repeats, or those of `listed`, if the reference model
      completes them; <k> is the lower bound of the near-duplicates left in the run.
    - 'unseen': passages of the same generator that neither run contains; without `families`, texts
      of the reserve.

    Outcomes are the mean log-likelihood of the continuation ('log_likelihood', nats a token) and
    whether it is completed ('completed'); both relative to 'unseen' ('…_above_unseen'), and within
    the run by the number of near-duplicates ('log_likelihood_by_near_duplicates/<k>-vs-<least>': a
    model that has learnt the form of the passages, or that completes everything, is at zero). The
    placebo is one half of 'unseen' above the other half.
    """

    prompt: PositiveInt = 25
    continuation: PositiveInt = 25
    families: Families | None = None
    """The families that `WithFamilies` puts into the corpus."""
    listed: Name | None = None
    """File of texts to remove, JSON lines with "token_ids" or "text"; None: scan the corpus."""
    most: Count = 1000
    """Found texts to remove, at most; 0: none, and no reference model is needed."""
    fewest: Count = 20
    """Found texts, at least."""
    least_copies: Annotated[int, AtLeast(2)] = 3
    """Exact copies of a text in the scanned rows, at least."""
    scanned_rows: PositiveInt = 20_000
    """Rows of the run that are scanned for repeated texts; more are sampled."""
    other_lengths: Sequence[tuple[PositiveInt, PositiveInt]] = ((25, 25), (16, 16), (10, 10))
    """Further lengths of prompt and continuation whose yield `ttoaa choose` prints."""
    edits: Share = 0.3
    """Tokens of a near-duplicate that may be inserted, deleted or substituted, per token."""
    bins: Annotated[Sequence[Count], Increasing(), Distinct()] = (0, 1, 8)
    """Lower bounds of near-duplicates, one for each condition of found texts."""
    unseen: Annotated[int, AtLeast(2)] = 40

    prior = PriorFinding(
        work="Liu et al. 2025",
        finding="A model completes texts verbatim whose every exact copy was removed.",
        effect="74% of 1,000 texts still completed (about 40% in Liu et al.)",
        source="arXiv 2509.23383, figure 14, E.5",
    )
    labels = contrasts.LABELS
    signs: ClassVar[Mapping[str, int]] = contrasts.SIGNS
    no_burst: ClassVar[str] = (
        "the checkpoint was trained on the texts, and continued training cannot remove them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.most and self.families is None:
            raise ValueError(f"{self.name}: with most = 0 it needs families to remove")
        outcome, _, condition = self.primary.partition("/")
        sizes = sorted(self.families.sizes) if self.families else []
        known = [f"{size}-vs-{sizes[0]}" for size in sizes[1:]]
        if outcome.endswith(contrasts.BY_NEAR) and condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")
        if self.bins[0] != 0:
            raise ValueError(f"{self.name}: bins must begin with 0, not {self.bins[0]}")

    @property
    def needs_reference(self) -> bool:
        return self.most > 0

    @property
    def placebo(self) -> str:
        return f"{contrasts.HALVES}/{UNSEEN}"

    @property
    def length(self) -> int:
        return self.prompt + self.continuation

    def choose(self, world: World, model: Model) -> pd.DataFrame:
        """Return the texts that the reference model completes: tokens (list of int) and copies."""
        lengths = dict.fromkeys([(self.prompt, self.continuation), *self.other_lengths])
        completed = {pair: self._completed(world, model, *pair) for pair in lengths}
        yields = {
            f"{prompt}+{continuation}": f"{len(kept)} of {total}"
            for (prompt, continuation), (kept, total) in completed.items()
        }
        shown = ", ".join(f"{count} texts of {pair} tokens" for pair, count in yields.items())
        print(f"{self.name}: the reference model completes {shown}")
        kept, _ = completed[self.prompt, self.continuation]
        if len(kept) < self.fewest:
            would = [f"{p}+{c}" for (p, c), (k, _) in completed.items() if len(k) >= self.fewest]
            advice = f"set prompt and continuation to {' or '.join(would)}" if would else "train it"
            raise ValueError(
                f"{self.name}: the reference model completes {shown}: fewer than {self.fewest} of "
                f"{self.prompt}+{self.continuation}: {advice}, or lower fewest"
            )
        if len(kept) > self.most:
            drawn = world.rng("chosen").choice(len(kept), self.most, replace=False)
            kept = [kept[i] for i in np.sort(drawn).tolist()]
        tokens = [candidate.tokens.tolist() for candidate in kept]
        return pd.DataFrame({"tokens": tokens, "copies": [c.copies for c in kept]})

    def _completed(
        self, world: World, model: Model, prompt: int, continuation: int
    ) -> tuple[list[Candidate], int]:
        """Return the candidates that the model completes, and the number of all."""
        found = self._candidates(world, prompt + continuation)
        matches = model.greedy_matches([(each.tokens, prompt) for each in found])
        kept = [each for each, match in zip(found, matches, strict=True) if match.all()]
        return kept, len(found)

    def _candidates(self, world: World, length: int) -> list[Candidate]:
        if length > world.geometry.length:
            return []
        if self.listed:
            return [Candidate(t, 0) for t in read_list(self.listed, world.tokenizer, length)]
        assert world.corpus is not None
        order = world.order
        positions = np.arange(min(world.geometry.sequences, order.num_windows))
        if len(positions) > self.scanned_rows:
            drawn = world.rng("scanned").choice(len(positions), self.scanned_rows, replace=False)
            positions = np.sort(drawn)
        rows = world.corpus.windows("train", order.windows(positions), world.geometry.length)
        own = [each.astype(np.int32) for each in self._passages(world).values()]
        eos, most = world.tokenizer.eos_id, 4 * self.most
        return repeated_texts(rows, length, self.least_copies, eos, most, own)

    def _passages(self, world: World) -> dict[str, np.ndarray]:
        """Return the tokens of the passages of families, int64[prompt + continuation], by text."""
        texts = [passage.text for passage in self.families.passages()] if self.families else []
        return {text: self._cut(world, text) for text in texts}

    def _cut(self, world: World, text: str) -> np.ndarray:
        tokens = np.array(world.tokenizer.encode(text), np.int64)
        if len(tokens) <= self.length:  # what follows a passage may change its last token
            raise ValueError(
                f"{self.name}: a passage of Families has {len(tokens)} tokens, and prompt and "
                f"continuation are {self.length}: raise Families.characters"
            )
        return tokens[: self.length]

    def _check_differ(self, world: World, families: Families, cut: set[tuple[int, ...]]) -> None:
        """Raise ValueError if a near-duplicate begins as a passage does, and would go with it."""
        texts = {passage.text for passage in families.passages()}
        for name, text in families.copies():
            if text not in texts and tuple(world.tokenizer.encode(text)[: self.length]) in cut:
                raise ValueError(
                    f"{self.name}: the near-duplicate {name} of Families differs from its passage "
                    f"only after the first {self.length} tokens: lower Families.characters"
                )

    def removes(self, world: World) -> Iterator[Removal]:
        texts: list[tuple[str, str, np.ndarray]] = []
        if self.families:
            cut = self._passages(world)
            self._check_differ(world, self.families, {tuple(each) for each in cut.values()})
            for size, number, text in self.families.passages():
                condition = f"{FAMILY}{size}"
                texts.append((f"{condition}-{number}", condition, cut[text]))
        for number, tokens in enumerate(world.choices.get("tokens", ())):
            texts.append((f"found-{number}", FOUND, np.array(tokens, np.int64)))
        assert world.corpus is not None
        order = world.order
        tokens_N = [tokens for *_, tokens in texts]
        near = find_rows(tokens_N, world.corpus, order, world.geometry)
        groups = group_texts(near, [condition == FOUND for _, condition, _ in texts])
        for (name, condition, tokens), rows, group in zip(texts, near, groups, strict=True):
            fields = {"near_rows": rows.tolist(), "group": f"text-{group}"}
            yield Removal(name, condition, tokens, world.tokenizer.decode(tokens), fields)

    def reserve_windows(self, geometry: Geometry) -> int:
        return 0 if self.families else -(-self.unseen // (geometry.length // self.length))

    def intervene(self, world: World) -> Iterator[Item]:
        if self.families:
            texts = [self._cut(world, text) for text in self.families.unseen(self.unseen)]
            groups = np.arange(self.unseen)
        else:
            pieces = world.geometry.length // self.length
            rows = world.reserve_NxL[:, : pieces * self.length]
            texts = list(rows.reshape(-1, self.length)[: self.unseen])
            groups = world.documents.repeat(pieces)[: self.unseen]
        for number, (tokens, group) in enumerate(zip(texts, groups.tolist(), strict=True)):
            yield Item(
                id=f"{UNSEEN}-{number}",
                condition=UNSEEN,
                repetitions=0,
                tokens=tokens.astype(np.int32),
                text=world.tokenizer.decode(tokens),
                fields={"group": f"{UNSEEN}-{group}"},
            )

    def precision(self, geometry: Geometry) -> Precision | None:
        outcome, _, condition = self.primary.partition("/")
        if self.families is None or condition.startswith(FOUND):
            return None  # how many texts are found depends on the reference model
        passages = self.families.families
        other = passages if outcome.endswith(contrasts.BY_NEAR) else self.unseen
        contrast = outcome.endswith((contrasts.BY_NEAR, contrasts.ABOVE))
        return Precision((passages, other)[: 1 + contrast], "passages")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Measure both outcomes of every text, and count its near-duplicates in the full run.

        Columns `near_edits` and `near_normalised` are those counts (see `near_duplicates.Near`).
        """
        items = model.items[model.items["window"] < 0]
        texts = [np.asarray(tokens, np.int32) for tokens in items["tokens"]]
        requests = [(tokens, self.prompt) for tokens in texts]
        likelihoods = [float(scores.mean()) for scores in model.log_likelihood(requests)]
        matches = [float(match.all()) for match in model.greedy_matches(requests)]
        near = self._near(model, texts, items)
        condition = items["condition"].to_numpy().astype(object)
        is_found = condition == FOUND
        least = np.array(self.bins)
        number = np.searchsorted(least, [each.edits for each in near], side="right") - 1
        condition[is_found] = [f"{FOUND}-{k}+" for k in least[number[is_found]]]
        columns = {
            "item": items["id"].to_numpy(),
            "condition": condition,
            "group": items["group"].to_numpy(),
            "near_edits": [each.edits for each in near],
            "near_normalised": [each.normalised for each in near],
        }
        tables = [
            pd.DataFrame({**columns, "outcome": outcome, "value": values})
            for outcome, values in ((LIKELIHOOD, likelihoods), (COMPLETED, matches))
        ]
        return pd.concat(tables, ignore_index=True)

    def _near(self, model: Scorer, texts: Sequence[np.ndarray], items: pd.DataFrame) -> list[Near]:
        near = items.get("near_rows", [None] * len(items))  # missing for unseen texts
        places = [
            np.union1d(np.array(own if np.iterable(own) else [], np.int64), edited)
            for own, edited in zip(near, find_edited_rows(texts, model), strict=True)
        ]
        positions = np.unique(np.concatenate(places))
        rows_NxL = model.rows(positions) if len(positions) else np.empty((0, 1), np.int32)
        return [
            count_near(text, rows_NxL[np.searchsorted(positions, own)], model.tokenizer, self.edits)
            for text, own in zip(texts, places, strict=True)
        ]

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        found = paired_estimates(run, control, self.sign)
        found += contrasts.above_unseen(run, control, self.sign)
        if self.families:
            found += contrasts.by_near_duplicates(run, self.families.sizes, self.sign)
        return [*found, *contrasts.unseen_halves(run, control)]

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the share completed over training, of the run and of the control run (Figure 14)."""
        draw(estimates, axes)


def group_texts(rows: Sequence[np.ndarray], joined: Sequence[bool]) -> list[int]:
    """Number the groups of texts: `joined` ones that have a row in common are in one."""
    group = list(range(len(rows)))
    owner: dict[int, int] = {}

    def root(text: int) -> int:
        while group[text] != text:
            text = group[text]
        return text

    for text, positions in enumerate(rows):
        for position in positions.tolist() if joined[text] else ():
            first = owner.setdefault(position, text)
            low, high = sorted((root(first), root(text)))
            group[high] = low
    return [root(text) for text in range(len(rows))]
