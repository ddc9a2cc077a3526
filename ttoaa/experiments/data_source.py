"""A candidate data source mixed into training: what it does for the loss on a target text set.

Bursts of several candidates from one checkpoint, at equal tokens, rank the sources (elsewhere
called micro-annealing): `ttoaa dependence --rank_by=NAME`, `interactions.source_ranking`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import PositiveInt, PositiveShare, config_class
from ttoaa.data.geometry import Geometry
from ttoaa.data.sources.base import Source, all_documents, keyed_fraction
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.report_labels import Label, ReportLabels
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions
from ttoaa.planning.items import Items
from ttoaa.statistics.bootstrap import Estimate, difference_in_differences, paired_estimates
from ttoaa.statistics.power import Precision

CROSS_ENTROPY = "cross_entropy"
ABOVE = "cross_entropy_above_corpus"
TARGET, CORPUS, MIXED = "target", "corpus", "mixed"


@gin.configurable
@config_class
class DataSource(Experiment):
    """Replace a share of all rows by rows of a candidate source, each once.

    Rows are documents between EOS, cut at the length of a row; every seed draws other documents.
    Outcomes are the loss (nats a token) on held-out rows of the target ('cross_entropy/target') and
    of the corpus ('cross_entropy/corpus': what mixing costs elsewhere), and the gain on the target
    beyond that on the corpus ('cross_entropy_above_corpus/target').

    The held-out documents are the same for every candidate with the same `target` and `held_out`,
    and no candidate trains on a document of their name or text. A candidate that overlaps the
    corpus may hold its scored rows. Sources are read whole: give a sample of a large one.
    """

    source: Source
    target: Source
    share: PositiveShare = 0.05
    """Of the rows of training; a burst has that of its `--share`."""
    held_out: PositiveInt = 32
    """Rows of the target, and as many of the corpus, that are scored."""

    labels = ReportLabels(
        question="How much does mixing in this source lower the loss on the target?",
        method="A share of all rows is replaced by rows of the source, each once. Held-out rows of "
        "the target and of the corpus are scored; a model that is better at all text gains on "
        "both.",
        caption="Gain on held-out rows over training, relative to the control run.",
        outcomes={
            CROSS_ENTROPY: Label("loss on held-out rows", "nats per token"),
            ABOVE: Label("loss on the target above that on the corpus", "nats per token"),
        },
        conditions={},
    )
    signs: ClassVar[Mapping[str, int]] = {CROSS_ENTROPY: -1, ABOVE: -1}

    def __post_init__(self) -> None:
        super().__post_init__()
        known = [f"{CROSS_ENTROPY}/{TARGET}", f"{CROSS_ENTROPY}/{CORPUS}", f"{ABOVE}/{TARGET}"]
        if self.primary not in known:
            raise ValueError(f"{self.name}: primary must be among {known}, not {self.primary!r}")

    def reserve_windows(self, geometry: Geometry) -> int:
        return self.held_out

    def intervene(self, world: World) -> Iterator[Items]:
        """Yield the rows of the source, then the held-out rows of target and corpus."""
        documents = sorted(all_documents(self.target), key=lambda d: keyed_fraction(TARGET, d[1]))
        scored_NxL, used = self._rows(world, documents, self.held_out, "target")
        held_out = {part for document in used for part in document}
        offered = [d for d in all_documents(self.source) if held_out.isdisjoint(d)]
        order = world.rng("documents").permutation(len(offered))
        count = max(1, round(self.share * world.geometry.sequences))
        rows_NxL, _ = self._rows(world, (offered[k] for k in order), count, "source")
        yield _items(MIXED, 1, tokens=rows_NxL)
        yield _items(TARGET, 0, tokens=scored_NxL)
        yield _items(CORPUS, 0, windows=world.windows)

    def _rows(
        self, world: World, documents: Iterable["_Document"], count: int, field: str
    ) -> tuple[np.ndarray, list["_Document"]]:
        """Return `count` rows of these documents, int32[count, L], and the documents in them."""
        length, eos = world.geometry.length, np.array([world.tokenizer.eos_id], np.int32)
        parts, used, left = [eos], [], count * length - 1
        for document in documents:
            if left <= 0:
                break
            (tokens,) = world.tokenizer.encode_batch([document[1]])
            parts += [tokens, eos]
            used.append(document)
            left -= len(tokens) + 1
        if left > 0:
            rows = sum(map(len, parts)) // length
            raise ValueError(
                f"{self.name}: DataSource.{field} has {rows:,} rows of {length} tokens, and "
                f"{count:,} are needed: give more text, or lower share, --share or held_out"
            )
        return np.concatenate(parts)[: count * length].reshape(count, length), used

    def burst(self, size: BurstSize) -> "DataSource":
        """Return the experiment with the burst's share of rows, the same for every candidate."""
        return dataclasses.replace(self, share=min(1.0, size.tokens / size.geometry.tokens))

    def expected_insertions(self, world: World) -> Insertions:
        """Count the rows of the share."""
        rows = max(1, round(self.share * world.geometry.sequences))
        return Insertions(rows, rows * world.geometry.length)

    def precision(self, geometry: Geometry) -> Precision:
        contrast = self.primary.startswith(ABOVE)
        return Precision((self.held_out,) * (1 + contrast), "rows")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Return the loss of every held-out row (nats a token)."""
        items = model.items[model.items["condition"] != MIXED]
        corpus = items["condition"] == CORPUS
        rows = [np.asarray(tokens, np.int32) for tokens in items["tokens"][~corpus]]
        rows += list(model.reserve(items["window"][corpus].to_numpy()))
        scores = model.log_likelihood([(tokens, 1) for tokens in rows])
        return pd.DataFrame(
            {
                "item": [*items["id"][~corpus], *items["id"][corpus]],
                "condition": [TARGET] * int((~corpus).sum()) + [CORPUS] * int(corpus.sum()),
                "outcome": CROSS_ENTROPY,
                "value": [-float(np.mean(each, dtype=float)) for each in scores],
            }
        )

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        """Compare the losses, and the gain on the target with that on the corpus.

        A model that is better at all text gains on the target, but not beyond the corpus.
        """
        target, target_control, corpus, corpus_control = (
            table[table["condition"] == condition].sort_values("item")["value"].to_numpy(float)
            for condition in (TARGET, CORPUS)
            for table in (run, control)
        )
        beyond = difference_in_differences(
            ABOVE, TARGET, target, target_control, corpus, corpus_control, sign=-1
        )
        return [*paired_estimates(run, control, self.sign), beyond]

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the gain on target and corpus over training."""
        losses = estimates[estimates["outcome"] == CROSS_ENTROPY]
        for number, (condition, rows) in enumerate(losses.groupby("condition", sort=False)):
            for seed, own in rows.groupby("seed"):
                label = str(condition) if seed == rows["seed"].min() else None
                axes.plot(own["step"], own["difference"], color=f"C{number}", label=label)
        axes.axhline(0, color="gray", linestyle="--")
        axes.set_xlabel("step")
        axes.set_ylabel("gain over the control run (nats per token)")
        axes.legend()


_Document = tuple[str, str]
"""Name and text."""


def _items(condition: str, repetitions: int, **content: Any) -> Items:
    """Return items of whole rows."""
    given = next(iter(content.values()))
    if "tokens" in content:
        lengths = np.full(len(given), given.shape[1])
        content = {"tokens": given.ravel(), "lengths": lengths}
    ids = [f"{condition}-{number}" for number in range(len(given))]
    return Items(ids=ids, condition=condition, repetitions=repetitions, **content)
