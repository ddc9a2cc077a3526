"""MUSE-News: articles repeated whole, as the same paragraphs, or split again per copy (E.9)."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import (
    AtLeast,
    Count,
    Distinct,
    NotEmpty,
    PositiveInt,
    PositiveShare,
    config_class,
)
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, World, members_by_repetitions
from ttoaa.experiments.muse.articles import (
    FORGET,
    RETAIN1,
    RETAIN2,
    SETS,
    Article,
    ArticleSource,
    deduplicate,
    shuffle_words,
    split_article,
)
from ttoaa.experiments.muse.contrasts import (
    ABOVE,
    CONTRAST,
    FORMS,
    HALVES,
    HELD_OUT,
    LABELS,
    OUTCOMES,
    PAIRS,
    RESPLIT,
    SCORES,
    WHOLE,
    article_estimates,
)
from ttoaa.experiments.muse.figure import draw_gaps
from ttoaa.experiments.muse.generated_news import GeneratedNews
from ttoaa.experiments.muse.outcomes import (
    GENERATED,
    LOG_LIKELIHOOD,
    generate_outcomes,
    score_articles,
)
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions, count_insertions
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.membership import AUC
from ttoaa.statistics.bootstrap import Estimate
from ttoaa.statistics.power import Precision

_FIELDS = ("whole", "pieces", "shuffled", "context", "questions", "answers")

_FEW = 4
"""Articles of a condition from which the length of all is estimated."""


@gin.configurable
@config_class
class MuseNews(Experiment):
    """How well a model remembers news articles, by how they were repeated and cut.

    The articles of forget and retain1 are randomised to nine conditions, '<form>-<r>x': r copies of
    the whole article ('whole'), r copies of each of its paragraphs, cut once at random ('split'),
    or r copies, each split differently ('resplit'; at one copy the same as 'split'). Those of
    retain2 are held out. Articles that repeat another one are dropped before.

    Each score has two outcomes: its mean, and '<score>_above_held_out', a difference in
    differences. Scores are 'log_likelihood' (a token of the whole article), 'log_likelihood_pieces'
    (the same, of paragraphs cut as in no copy), 'word_order' (log-likelihood less that of the same
    words in random order), 'verbmem_log_likelihood' (a token of the continuation of a prompt), and
    'knowmem_log_likelihood' (the right answers). With `generate` also the ROUGE-L of greedy
    continuations and answers, 'verbmem_rouge_l' and 'knowmem_rouge_l'. Membership has 'auc',
    'auc_min_k' (Min-40%) and 'privleak', with the control run as MUSE's retrained model.
    'log_likelihood_contrast' and 'log_likelihood_pieces_contrast' compare forms at equal numbers of
    copies, two-sided: 'split-vs-whole-<r>x', 'resplit-vs-whole-<r>x', 'split-vs-resplit-<r>x'. The
    placebo compares two random halves of the held-out articles.
    """

    source: ArticleSource = dataclasses.field(default_factory=GeneratedNews)
    repetitions: Annotated[Sequence[PositiveInt], NotEmpty(), Distinct()] = (1, 10, 100)
    members: PositiveInt | Annotated[Sequence[PositiveInt], NotEmpty()] = 40
    """Articles of each condition, or a list with those of each number of `repetitions`."""
    held_out: PositiveInt = 100
    paragraphs: Annotated[int, AtLeast(2)] = 7
    """The parts that an article is cut into, at sentences while it has enough of them."""
    ngram: PositiveInt = 8
    """Words of the n-grams by which near-duplicates are found."""
    near_duplicate: PositiveShare = 0.5
    """The share of an article's n-grams that makes it a near-duplicate of another one."""
    prompt_tokens: PositiveInt = 32
    """Of the article, before the continuation that VerbMem scores; at most half of it."""
    continuation_tokens: PositiveInt = 128
    shots: Count = 2
    """Solved questions about other articles that precede a question."""
    generate: bool = False
    """Also score generated continuations and answers."""
    placement: Placement = dataclasses.field(default_factory=Uniform)

    prior = PriorFinding(
        work="Shi et al. 2024",
        finding="News that a model is trained on is remembered beyond what held-out news shows.",
        effect="cross-entropy of inserted articles 0.5 nats lower",
        source="arXiv 2509.23383, section 5",
    )
    labels = LABELS
    signs: ClassVar[Mapping[str, int]] = OUTCOMES

    def __post_init__(self) -> None:
        super().__post_init__()
        members_by_repetitions(self.name, self.members, self.repetitions)
        outcome, _, condition = self.primary.partition("/")
        if outcome.startswith(GENERATED) and not self.generate:
            raise ValueError(f"{self.name}: the primary {outcome} needs generate = True")
        known = [name for name, _, _, _ in self._conditions]
        if outcome.endswith(CONTRAST):
            known = [f"{a}-vs-{b}-{r}x" for a, b in PAIRS for r in self.repetitions]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    @property
    def _members(self) -> list[int]:
        """The articles of a condition, for each number of repetitions."""
        return members_by_repetitions(self.name, self.members, self.repetitions)

    @property
    def _conditions(self) -> list[tuple[str, str, int, int]]:
        """(name, form, repetitions, articles) of each condition."""
        return [
            (f"{form}-{r}x", form, r, number)
            for form in FORMS
            for r, number in zip(self.repetitions, self._members, strict=True)
        ]

    @property
    def _main_score(self) -> str:
        """The score that the primary outcome is about."""
        outcome = self.primary.partition("/")[0].removesuffix(ABOVE)
        return outcome if outcome in SCORES else LOG_LIKELIHOOD

    @property
    def placebo(self) -> str:
        return f"{self._main_score}{HALVES}/{HELD_OUT}" if self.held_out > 1 else ""

    def intervene(self, world: World) -> Iterator[Item]:
        members, held_out, context = self._articles(world)
        for name, form, repetitions, number in self._conditions:
            for article in [next(members) for _ in range(number)]:
                yield from self._copies(world, name, form, repetitions, article, context)
        for article in held_out:
            tokens = world.document(world.tokenizer.encode(article.text), self._what(article))
            yield Item(
                id=article.id,
                condition=HELD_OUT,
                repetitions=0,
                tokens=tokens,
                text=article.text,
                fields=self._scored(world, article, context),
            )

    def _what(self, article: Article) -> str:
        return f"{self.name}: {article.id}"

    def _articles(self, world: World) -> tuple[Iterator[Article], list[Article], str]:
        """Return the members in random order, the held-out articles, and the solved questions.

        Prints how many articles were dropped. Raises ValueError if too few are left.
        """
        needed = sum(number for _, _, _, number in self._conditions)
        try:
            sets = self.source.read(needed, self.held_out, world.rng("articles"))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        kept, dropped = deduplicate(sets.articles, self.ngram, self.near_duplicate)
        fitting = {name: self._fitting(world, kept[name]) for name in SETS}
        for name in SETS:
            dropped[f"too long, {name}"] = len(kept[name]) - len(fitting[name])
        reasons = collections.Counter({what: n for what, n in sorted(dropped.items()) if n})
        counts = ", ".join(f"{name} {len(fitting[name])}" for name in SETS)
        reported = "".join(f"; {n} ({what})" for what, n in reasons.items())
        print(f"{self.name}: {counts} articles; dropped {reasons.total()} articles{reported}")
        pool = fitting[FORGET] + fitting[RETAIN1]
        for what, there, wanted, field in (
            ("forget and retain1", pool, needed, "members"),
            ("retain2", fitting[RETAIN2], self.held_out, "held_out"),
        ):
            if len(there) < wanted:
                raise ValueError(
                    f"{self.name}: {what} have {len(there)} articles of the {wanted} needed: "
                    f"lower {field}"
                )
        order = world.rng("conditions").permutation(len(pool))[:needed]
        held_out = world.rng("held out").permutation(len(fitting[RETAIN2]))[: self.held_out]
        if len(sets.examples) < self.shots:
            raise ValueError(
                f"{self.name}: the source has {len(sets.examples)} solved questions, not "
                f"{self.shots}: lower shots"
            )
        context = "".join(example.solved for example in sets.examples[: self.shots])
        return (pool[i] for i in order), [fitting[RETAIN2][i] for i in held_out], context

    def _fitting(self, world: World, articles: Sequence[Article]) -> list[Article]:
        """Return the articles that fit a row with an EOS on both sides."""
        texts = world.tokenizer.encode_batch([article.text for article in articles])
        most = world.geometry.length - 2
        return [a for a, text in zip(articles, texts, strict=True) if len(text) <= most]

    def _copies(
        self,
        world: World,
        name: str,
        form: str,
        repetitions: int,
        article: Article,
        context: str,
    ) -> Iterator[Item]:
        """Yield the items of one member; the first one holds what is scored."""
        copies = [[article.text]]
        if form != WHOLE:
            rng = world.rng("paragraphs", article.id)
            number = repetitions if form == RESPLIT else 1
            copies = [self._split(article, rng) for _ in range(number)]
        scored = self._scored(world, article, context)
        nothing = dict.fromkeys(_FIELDS, "") | {"article": article.id}
        for copy, texts in enumerate(copies):
            encoded = world.tokenizer.encode_batch(texts)
            for part, (text, tokens) in enumerate(zip(texts, encoded, strict=True)):
                yield Item(
                    id=f"{article.id}-{copy}-{part}",
                    condition=name,
                    repetitions=1 if form == RESPLIT else repetitions,
                    tokens=world.document(tokens, self._what(article)),
                    placement=self.placement,
                    text=text,
                    fields=nothing if copy or part else scored,
                )

    def _split(self, article: Article, rng: np.random.Generator) -> list[str]:
        try:
            return split_article(article.text, self.paragraphs, rng)
        except ValueError as error:
            raise ValueError(f"{self._what(article)}: {error}: lower paragraphs") from error

    def _scored(self, world: World, article: Article, context: str) -> dict[str, Any]:
        """Return the fields that `score_articles` needs."""
        rng = world.rng("scored", article.id)
        questions = article.questions
        for question in questions:
            tokens = len(world.tokenizer.encode(context + question.solved))
            if tokens > world.geometry.length:
                raise ValueError(
                    f"{self._what(article)}: a question with {self.shots} solved ones has {tokens} "
                    f"tokens, which does not fit a row of {world.geometry.length}: lower shots"
                )
        return {
            "article": article.id,
            "whole": article.text,
            "pieces": self._split(article, rng),
            "shuffled": shuffle_words(article.text, rng),
            "context": context,
            "questions": [question.prompt for question in questions],
            "answers": [question.answer for question in questions],
        }

    def burst(self, size: BurstSize) -> "MuseNews":
        """Return fewer articles of each form, with the primary's number of copies."""
        outcome, _, condition = self.primary.partition("/")
        repetitions = int(condition.rpartition("-")[2].removesuffix("x"))
        number = self._members[self.repetitions.index(repetitions)]
        names = [f"{form}-{repetitions}x" for form in FORMS]
        return dataclasses.replace(
            self,
            repetitions=(repetitions,),
            members=(size.items(names, number),),
            generate=outcome.startswith(GENERATED),
        )

    def precision(self, geometry: Geometry) -> Precision:
        outcome, _, condition = self.primary.partition("/")
        numbers = dict(zip(self.repetitions, self._members, strict=True))
        own = numbers[int(condition.rpartition("-")[2].removesuffix("x"))]
        if outcome.startswith(AUC):
            return Precision.of_auc(own, self.held_out, "articles")
        if outcome.endswith(CONTRAST):
            return Precision((own, own), "articles")
        sizes = (own, self.held_out) if outcome.endswith(ABOVE) else (own,)
        return Precision(sizes, "articles")

    def expected_insertions(self, world: World) -> Insertions:
        """Count few articles of each condition, which are as long as all of them on average."""
        few = [min(number, _FEW) for number in self._members]
        smaller = dataclasses.replace(self, members=few, held_out=1)
        factors = {name: number / min(number, _FEW) for name, _, _, number in self._conditions}
        items, vocab = smaller.intervene(world), world.tokenizer.vocab_size
        return count_insertions(self.name, items, world.geometry, vocab, factors)

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Score every article once, however many items it was inserted as."""
        articles = model.items[model.items["whole"] != ""]
        cut = self.prompt_tokens, self.continuation_tokens
        tables = [score_articles(model, articles, cut)]
        if self.generate:
            tables.append(generate_outcomes(model, articles, cut))
        return pd.concat(tables, ignore_index=True)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        return article_estimates(run, control, self.repetitions, self._main_score, self.sign)

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the primary's score above held-out articles against repetitions."""
        label = f"{self._main_score.replace('_', ' ')}\nabove held-out, less the control's"
        draw_gaps(estimates, axes, self._main_score + ABOVE, self.repetitions, label)
