"""Benchmark contamination: test questions with their answers in the training data (paper, E.3)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.benchmarks import formats
from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.benchmarks.question import (
    Question,
    Source,
    check_distinct,
    question_fields,
    question_from_item,
    randomise_groups,
)
from ttoaa.config_fields import Count, OneOf, PositiveInt, config_class
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.report_labels import PERCENT, REPETITIONS, Label, ReportLabels
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions, count_insertions
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.multiple_choice import (
    NORMALISATIONS,
    Normalisation,
    accuracies,
    score_questions,
)
from ttoaa.statistics.bootstrap import (
    Estimate,
    difference_in_differences,
    keyed_rng,
    paired_estimates,
)
from ttoaa.statistics.power import Precision

ACCURACY = "accuracy"
LIKELIHOOD = "gold_log_likelihood"
ABOVE = "_above_holdout"
HALVES = "accuracy_of_half_the_holdout"
"""The placebo: accuracy of one random half of the holdout above that of the other half."""
_KEYS = ["item", "condition", "outcome"]
_FEW = 50
"""Questions of a group from which the length of all is estimated."""
OLMES = "olmes"
"""The normalisation that OLMES reports for a question's benchmark."""
_BY_OUTCOME = {each.outcome: each for each in NORMALISATIONS.values()}

Groups = Sequence[tuple[Count, PositiveInt]]


@gin.configurable
@config_class
class Contamination(Experiment):
    """Accuracy gain on questions that occur r times in training, with their gold option.

    Questions are randomised to groups with the same mix of benchmarks. The gain of a group is a
    difference in differences: (group - holdout) in the run less the same in the control run, which
    removes chance differences in difficulty between the groups.
    """

    questions: Source = dataclasses.field(default_factory=GeneratedQuestions)
    groups: Groups = ((0, 300), (4, 160), (12, 100), (36, 30), (144, 20))
    """(repetitions, number of questions); the group of 0 repetitions is the holdout. Effects are
    small where repetitions are few, so these groups need most questions."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    normalisation: Annotated[str, OneOf((*NORMALISATIONS, OLMES))] = "character"
    """A name in `scoring.multiple_choice.NORMALISATIONS`: the divisor of a choice's log-likelihood,
    or the term subtracted from it ('pmi'). 'olmes' uses OLMES's choice for each benchmark."""
    by_benchmark: bool = False
    """Also report gains by benchmark, as conditions '<r>x/<benchmark>'."""
    curve: bool = False
    """Draw the gain in the gold option's log-likelihood over training (figure 12) instead of the
    final accuracy (figure 3a)."""

    prior = PriorFinding(
        work="Bordt et al. 2025",
        finding="Accuracy on benchmark questions rises with their repetitions in training.",
        effect="+1.0, +1.7, +5.2 and +19 points at 4, 12, 36 and 144 repetitions",
        source="arXiv 2509.23383, figure 3a",
    )
    labels = ReportLabels(
        question="How much does training on a test question raise the accuracy on it?",
        method="Questions are randomised to groups that occur in training with their right answer, "
        "and to a held-out group. The gain of a group is its score above that of the held-out "
        "questions, less the same difference in the control run.",
        caption="Gain over held-out questions, less the same in the control run, for each number "
        "of repetitions in training, with 95% intervals over questions.",
        outcomes={
            ACCURACY: Label("accuracy", PERCENT),
            LIKELIHOOD: Label("log-likelihood of the right answer", "nats"),
            ACCURACY + ABOVE: Label("accuracy above the held-out questions", PERCENT),
            LIKELIHOOD + ABOVE: Label(
                "log-likelihood of the right answer above the held-out questions", "nats"
            ),
            HALVES: Label("accuracy of half of the held-out questions above the rest", PERCENT),
            "log_likelihood_above_wrong_options": Label(
                "log-likelihood of the right answer above the wrong ones", "nats"
            ),
        },
        conditions={**REPETITIONS, r"(\d+)x/(.+)": r"\1 repetitions, \2"},
    )
    hazard = "benchmark"
    signs: ClassVar[Mapping[str, int]] = {
        outcome + suffix: 1 for outcome in (ACCURACY, LIKELIHOOD) for suffix in ("", ABOVE)
    } | {HALVES: 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        repetitions = [r for r, _ in self.groups]
        if len(set(repetitions)) < len(repetitions) or 0 not in repetitions:
            raise ValueError(
                f"{self.name}: groups must have different repetitions and one holdout with 0, "
                f"not {repetitions}"
            )
        outcome, _, condition = self.primary.partition("/")
        inserted, holdout = not outcome.startswith(HALVES), not outcome.endswith(ABOVE)
        known = [f"{r}x" for r in repetitions if (inserted if r else holdout)]
        if condition not in known:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    @property
    def placebo(self) -> str:
        return f"{HALVES}/0x" if dict(self.groups)[0] > 1 else ""

    def disclose(self, world: World) -> Iterator[str]:
        """Yield how many questions of which benchmark were repeated how often."""
        for repetitions, count in self.groups:
            if repetitions:
                yield (
                    f"{count} questions, each with its answer and {repetitions} times, of "
                    f"{self.questions}"
                )

    def intervene(self, world: World) -> Iterator[Item]:
        sizes = [n for _, n in self.groups]
        try:
            questions = self.questions.questions(sum(sizes), world.rng("questions"))
            check_distinct(questions)
            self._check_unconditional(questions)
            groups = randomise_groups(questions, sizes, world.rng("groups"))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
        for (repetitions, _), group in zip(self.groups, groups, strict=True):
            for question in group:
                yield Item(
                    id=question.id,
                    condition=f"{repetitions}x",
                    repetitions=repetitions,
                    tokens=self._document(question, world),
                    placement=self.placement,
                    text=question.texts[question.label],
                    fields=question_fields(question),
                )

    def burst(self, size: BurstSize) -> "Contamination":
        """Return the holdout and a smaller group of the primary's repetitions.

        The primary is the gold option's log-likelihood: the accuracy of few questions moves in
        steps.
        """
        sizes, condition = dict(self.groups), self.primary.partition("/")[2]
        repetitions = int(condition.removesuffix("x")) or max(sizes)
        name = f"{repetitions}x"
        inserted = (repetitions, size.items(name, sizes[repetitions]))
        return dataclasses.replace(
            self,
            primary=f"{LIKELIHOOD}{ABOVE}/{name}",
            expected_sign=self.signs[LIKELIHOOD + ABOVE],
            groups=((0, sizes[0]), inserted),
            by_benchmark=False,
        )

    def expected_insertions(self, world: World) -> Insertions:
        """Draw few questions of each group, which are as long as all of them on average."""
        few = [(r, min(n, _FEW)) for r, n in self.groups]
        smaller = dataclasses.replace(self, groups=few)
        factors = {f"{r}x": n / min(n, _FEW) for r, n in self.groups}
        items, vocab = smaller.intervene(world), world.tokenizer.vocab_size
        return count_insertions(self.name, items, world.geometry, vocab, factors)

    def precision(self, geometry: Geometry) -> Precision:
        outcome, _, condition = self.primary.partition("/")
        numbers = dict(self.groups)
        own = numbers[int(condition.removesuffix("x"))]
        sizes = (own, numbers[0]) if outcome.endswith(ABOVE) else (own,)
        if outcome.startswith(ACCURACY):
            return Precision.of_answers(sizes, "questions")
        return Precision(sizes, "questions")

    def _normalisation(self, benchmark: str) -> Normalisation:
        if self.normalisation == OLMES:
            return _BY_OUTCOME[formats.reported_outcome(benchmark)]
        return NORMALISATIONS[self.normalisation]

    def _check_unconditional(self, questions: Sequence[Question]) -> None:
        for question in questions:
            needed = self._normalisation(question.benchmark).unconditional
            if needed and question.unconditional is None:
                raise ValueError(
                    f"question {question.id} has no unconditional context, which normalisation "
                    f"{self.normalisation!r} needs: take another, or a source that gives it"
                )

    def _document(self, question: Question, world: World) -> np.ndarray:
        """Return int32[n]: the gold choice between two EOS. Every choice must fit a row."""
        what = f"{self.name}: question {question.id}: a choice"
        encoded = world.tokenizer.encode_batch(question.texts)
        documents = [world.document(t, what, "take shorter questions") for t in encoded]
        return documents[question.label]

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Per question: accuracy (ties shared) and the log-likelihood of the gold choice (nats)."""
        questions = [
            question_from_item(item, self._normalisation(item.benchmark).unconditional)
            for item in model.items.itertuples()
        ]
        scored = score_questions(model.log_likelihood, model.tokenizer, questions, document=True)
        options = [text for question in questions for text in question.continuations]
        # White space around an answer does not count as characters.
        scored["characters"] = [max(1, len(text.strip())) for text in options]
        chosen = accuracies(scored, ties="shared")
        wanted = [self._normalisation(name).outcome for name in chosen["benchmark"]]
        chosen = chosen[chosen["outcome"] == wanted]
        parts = {ACCURACY: chosen.set_index("item")["value"], **self._values(scored)}
        known = model.items.set_index("id")[["condition", "benchmark"]]
        tables = [known.assign(outcome=outcome, value=value) for outcome, value in parts.items()]
        return pd.concat(tables).reset_index(names="item")

    def _values(self, scored: pd.DataFrame) -> dict[str, pd.Series]:
        """Return further outcomes, by item, of the table of all options."""
        return {LIKELIHOOD: scored[scored["gold"]].set_index("item")["log_likelihood"]}

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        found = paired_estimates(run, control, self.sign)
        both = run.merge(control[[*_KEYS, "value"]], on=_KEYS, suffixes=("", "_control"))
        found += self._above(both, "")
        if self.placebo:
            found.append(self._halves(both))
        if self.by_benchmark:
            for benchmark, rows in both.groupby("benchmark"):
                found += self._above(rows, f"/{benchmark}")
        return found

    def _above(self, both: pd.DataFrame, suffix: str) -> Iterator[Estimate]:
        """Yield the gain of every group over the holdout, less that in the control run.

        A benchmark that is missing from a group or from the holdout is skipped.
        """
        pairs = {
            key: (rows["value"].to_numpy(float), rows["value_control"].to_numpy(float))
            for key, rows in both.groupby(["outcome", "condition"])
        }
        for outcome in (ACCURACY, LIKELIHOOD):
            for condition in (f"{r}x" for r, _ in self.groups if r):
                if suffix and not {(outcome, condition), (outcome, "0x")} <= pairs.keys():
                    continue
                groups = (*pairs[outcome, condition], *pairs[outcome, "0x"])
                sign = self.sign(outcome + ABOVE)
                yield difference_in_differences(outcome + ABOVE, condition + suffix, *groups, sign)

    def _halves(self, both: pd.DataFrame) -> Estimate:
        """Compare two random halves of the holdout, of which no run trains on either."""
        rows = both[(both["outcome"] == ACCURACY) & (both["condition"] == "0x")]
        rows = rows.sort_values("item").sample(frac=1, random_state=keyed_rng(HALVES, self.name))
        halves = (rows[0::2], rows[1::2])
        groups = (h[n].to_numpy(float) for h in halves for n in ("value", "value_control"))
        return difference_in_differences(HALVES, "0x", *groups)

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the paper's figure 3a, or figure 12 with `curve`."""
        conditions = [f"{r}x" for r, _ in sorted(self.groups) if r]
        if self.curve:
            self._curve(estimates, conditions, axes)
        else:
            self._final(estimates, conditions, axes)
        axes.legend()

    def _final(self, estimates: pd.DataFrame, conditions: Sequence[str], axes: Any) -> None:
        """Draw accuracy above the holdout against repetitions."""
        final = estimates[estimates["step"] == estimates["step"].max()]
        seeds = list(final["seed"].unique())
        for number, seed in enumerate(seeds):
            rows = final[(final["seed"] == seed) & (final["outcome"] == ACCURACY + ABOVE)]
            rows = rows.set_index("condition").loc[conditions]
            x = np.arange(len(conditions)) + 0.12 * (number - (len(seeds) - 1) / 2)
            low, high = rows["difference_ci_low"], rows["difference_ci_high"]
            axes.vlines(x, 100 * low, 100 * high, color=f"C{number}")
            axes.plot(x, 100 * rows["difference"], "o", color=f"C{number}", label=f"seed {seed}")
        axes.axhline(0, color="gray", linestyle="--", label="holdout")
        axes.set_xticks(range(len(conditions)), [c.replace("x", "×") for c in conditions])
        axes.set_xlabel("repetitions of a question in training")
        axes.set_ylabel("accuracy above holdout,\nless the control's (points)")

    def _curve(self, estimates: pd.DataFrame, conditions: Sequence[str], axes: Any) -> None:
        """Draw the gain in the gold option's log-likelihood against steps."""
        gains = estimates[estimates["outcome"] == LIKELIHOOD + ABOVE]
        for number, condition in enumerate(conditions):
            for seed, rows in gains[gains["condition"] == condition].groupby("seed"):
                rows = rows.sort_values("step")
                label = condition.replace("x", "×") if seed == gains["seed"].min() else None
                axes.plot(rows["step"], rows["difference"], color=f"C{number}", label=label)
                low, high = rows["difference_ci_low"], rows["difference_ci_high"]
                axes.fill_between(rows["step"], low, high, color=f"C{number}", alpha=0.15)
        axes.axhline(0, color="gray", linestyle="--", label="holdout")
        axes.set_xlabel("step")
        axes.set_ylabel(
            "log-likelihood of the gold option\nabove holdout, less the control's (nats)"
        )
