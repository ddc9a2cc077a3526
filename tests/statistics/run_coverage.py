"""How often intervals contain zero for runs that differ only in the seed.

    python -m tests.statistics.run_coverage --runs=24       (some five minutes of one core)

Trains tiny control runs that differ in initialisation and data order, scores the same items, on
which none of them trains, and compares the runs in pairs, one in the role of 'run', one in that of
'control'. Their expected difference is zero, so 95% of the intervals should contain it. Prints a
table with a row for each kind of estimate: the share of intervals over items, one for each pair;
the share of t intervals over runs, one for each three disjoint pairs; and how far the differences
spread in units of their standard errors over items (1 if the intervals over items have the right
width).

All pairs count, and many ways to draw disjoint ones, but they share runs: the interval of a share
is that of as many independent intervals as there are disjoint pairs, or disjoint threes of them.
Two halves of items are drawn at random for each pair.
"""

import dataclasses
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from absl import app, flags
from scipy import stats

from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.loader import batches
from ttoaa.data.order import training_order
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.vocabulary import TrainBPE
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig, Params
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.planning.reserve import document_runs
from ttoaa.scoring.likelihood import log_likelihoods, row_losses
from ttoaa.scoring.membership import membership_estimates
from ttoaa.scoring.multiple_choice import accuracies, score_questions
from ttoaa.statistics.bootstrap import (
    Estimate,
    across_seeds,
    binomial_interval,
    difference_in_differences,
    keyed_rng,
    paired_estimates,
)
from ttoaa.training.config import Training
from ttoaa.training.device_feed import place_batch
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW
from ttoaa.training.step import CompiledStep
from ttoaa.training.topology import pin_cores, split_cpu

_RUNS = flags.DEFINE_integer("runs", 24, "runs to train", lower_bound=6)

CORPUS = Prepare(EmbeddedPython(4_000_000), TrainBPE(512, 32), reserve_fraction=0.3)
GEOMETRY = Geometry(length=128, batch=16, steps=300)
MODEL = DecoderConfig(512, layers=2, width=64, heads=2, hidden=192, init_std=0.11)
TRAINING = Training(AdamW(ConstantLinear(peak=3e-3, warmup=20, decay=0.2)))
WINDOWS, HOSTS, HOST_TOKENS, QUESTIONS = 4, 2, 32, 400
"""Windows per run of whole documents, hosts of canaries per window, their tokens, questions."""
LOSS, LIKELIHOOD, ACCURACY, ATTACK = (
    *("loss of held-out text", "log-likelihood of questions"),
    *("accuracy of questions", "log-likelihood of canaries"),
)
DRAWS = 500  # of disjoint pairs

Estimates = Mapping[str, Sequence[Estimate]]
"""The estimates of one pair of runs, by kind."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the estimates of one kind have in all pairs of runs."""

    over_items: float
    """Share of the intervals over items that contain zero."""
    over_runs: float
    """Share of the intervals over runs that contain zero."""
    spread: float
    """Root mean square of the differences over that of their standard errors over items."""


class Items:
    """The scored items: windows of the reserve, pieces of them as canaries, and questions."""

    def __init__(self, corpus: Corpus) -> None:
        length = GEOMETRY.length
        documents = document_runs(corpus, length)
        whole = pd.Series(documents[documents >= 0], np.flatnonzero(documents >= 0))
        chosen = whole.groupby(whole).head(WINDOWS)
        self.document_N = chosen.to_numpy()
        self.tokens_NxL = corpus.windows("reserve", chosen.index.to_numpy(), length)
        hosts = self.tokens_NxL[:, : HOSTS * HOST_TOKENS].reshape(-1, HOST_TOKENS)
        self.canaries = [(np.insert(host, 0, corpus.eos_id), 1) for host in hosts]
        self.questions = GeneratedQuestions().questions(QUESTIONS, keyed_rng("run coverage"))
        self._tokenizer = corpus.tokenizer

    def score(self, params: Params) -> pd.DataFrame:
        """Return a table as of `Experiment.outcome`: item, outcome, condition, value, group."""

        def scored(requests):
            return log_likelihoods(MODEL, params, requests)

        options = score_questions(scored, self._tokenizer, self.questions, document=True)
        gold = options[options["gold"]].rename(columns={"log_likelihood": "value"})
        right = accuracies(options, ties="shared").query("outcome == 'acc'")
        canaries = [float(np.sum(each, dtype=float)) for each in scored(self.canaries)]
        tables = {
            LOSS: _of_documents(row_losses(MODEL, params, self.tokens_NxL), self.document_N),
            LIKELIHOOD: gold[["item", "benchmark", "value"]],
            ACCURACY: right[["item", "benchmark", "value"]],
            ATTACK: _of_documents(canaries, self.document_N.repeat(HOSTS)),
        }
        table = pd.concat([each.assign(outcome=outcome) for outcome, each in tables.items()])
        return table.rename(columns={"benchmark": "condition"}).reset_index(drop=True)


def _of_documents(values, documents) -> pd.DataFrame:
    items = [str(number) for number in range(len(values))]
    return pd.DataFrame({"item": items, "benchmark": "", "value": values, "group": documents})


def train(program: CompiledStep, step: Callable, corpus: Corpus, seed: int) -> Params:
    """Return the weights of the control run with this seed."""
    order, rows = training_order(corpus, seed, GEOMETRY.length), np.arange(GEOMETRY.batch)
    state = program.init(seed)
    for batch in batches(corpus, order, GEOMETRY):
        state, _ = step(state, place_batch(batch, rows, program.batch))
    return state["params"]


def compare(run: pd.DataFrame, control: pd.DataFrame, *key: object) -> Estimates:
    """Return the estimates of two tables of the same items, by kind; `key` seeds the halves."""
    tables = [table[table["outcome"] != ATTACK] for table in (run, control)]
    by_benchmark = paired_estimates(*tables, sign=lambda outcome: 1)
    pooled = [table.assign(condition="all") for table in tables]
    found = {f"mean: {e.outcome}": [e] for e in paired_estimates(*pooled, sign=lambda outcome: 1)}
    for outcome in (LIKELIHOOD, ACCURACY):
        found[f"mean: {outcome}, one benchmark"] = [
            each for each in by_benchmark if each.outcome == outcome
        ]
    both = run.assign(control=control["value"])
    for outcome, rows in both.groupby("outcome", sort=False):
        half_N, groups = _halves(rows, keyed_rng("halves", outcome, *key))
        sides = rows[half_N], rows[~half_N]
        values = [side[name].to_numpy(float) for side in sides for name in ("value", "control")]
        if outcome == ATTACK:
            run_a, control_a, run_b, control_b = values
            attack = membership_estimates(
                run_a, run_b, control_a, control_b, str(key), groups=groups
            )
            titles = ("AUC of two halves of canaries", "TPR at 1% FPR of the same")
            found |= {title: [each] for title, each in zip(titles, attack, strict=True)}
        else:
            one = difference_in_differences(outcome, str(key), *values, groups=groups)
            found[f"half above half: {outcome}"] = [one]
    return found


def _halves(
    rows: pd.DataFrame, rng: np.random.Generator
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Return bool[n], a random half of the items, whole groups, and the groups of both halves."""
    grouped = rows["group"].notna().all()
    names = rows["group" if grouped else "item"].to_numpy()
    drawn = rng.permutation(np.unique(names))
    half_N = np.isin(names, drawn[: len(drawn) // 2])
    return half_N, (names[half_N], names[~half_N]) if grouped else None


def summarise(pairs: Mapping[tuple[int, int], Estimates], runs: int) -> dict[str, Kind]:
    """Return the coverage of each kind, from the estimates of every pair i < j of the runs."""
    rng, kinds = keyed_rng("disjoint pairs"), next(iter(pairs.values())).keys()
    drawn = [rng.permutation(runs)[: runs // 6 * 6].reshape(-1, 3, 2) for _ in range(DRAWS)]
    threes = np.concatenate(drawn).tolist()
    found = {}
    for kind in kinds:
        each = {
            pair: [np.array([getattr(e, name) for e in of[kind]]) for name in _COLUMNS]
            for pair, of in pairs.items()
        }
        value, low, high = (np.stack(column) for column in zip(*each.values(), strict=True))
        error = (high - low) / 2 / stats.norm.isf(0.025)
        found[kind] = Kind(
            float(np.mean((low <= 0) & (high >= 0))),
            float(np.mean([_contain_zero(three, each) for three in threes])),
            float(np.sqrt(np.mean(value**2) / np.mean(error**2))),
        )
    return found


_COLUMNS = ("difference", "difference_ci_low", "difference_ci_high")


def _contain_zero(three: Sequence[Sequence[int]], pairs: Mapping) -> float:
    """Return the share of t intervals over three pairs (run, control) that contain zero."""
    differences = [pairs[i, j][0] if i < j else -pairs[j, i][0] for i, j in three]
    bounds = [across_seeds(values)[1:] for values in zip(*differences, strict=True)]
    return float(np.mean([low <= 0 <= high for low, high in bounds]))


def markdown(found: Mapping[str, Kind], runs: int) -> str:
    """Return the table, with the binomial interval of each share."""

    def share(value: float, n: int) -> str:
        low, high = binomial_interval(round(value * n), n)
        return f"{value:.0%} [{low:.0%}, {high:.0%}]"

    lines = [
        "| estimate | intervals over items that contain zero | over runs | spread |",
        "|---|---|---|---|",
    ]
    for name, kind in found.items():
        shares = share(kind.over_items, runs // 2), share(kind.over_runs, runs // 6)
        lines.append(f"| {name} | {shares[0]} | {shares[1]} | {kind.spread:.1f} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    del argv
    runs, began = _RUNS.value, time.perf_counter()
    pin_cores()
    split_cpu(GEOMETRY.batch, Layout())
    program = CompiledStep(MODEL, TRAINING, GEOMETRY, Execution(), make_mesh(Layout()))
    step = program.compile()
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(CORPUS, pathlib.Path(folder, "corpus"), progress=False)
        items = Items(corpus)
        tables = [items.score(train(program, step, corpus, seed)) for seed in range(runs)]
    pairs = {
        (i, j): compare(tables[i], tables[j], i, j)
        for i, j in itertools.combinations(range(runs), 2)
    }
    losses = [table.loc[table["outcome"] == LOSS, "value"].mean() for table in tables]
    print(
        f"{runs} runs of {MODEL.num_params():,} parameters and {GEOMETRY.tokens:,} tokens, loss "
        f"{np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f}; {len(items.document_N)} windows of "
        f"{len(np.unique(items.document_N))} documents, {len(items.canaries)} canaries, "
        f"{QUESTIONS} questions; {time.perf_counter() - began:.0f} s\n"
    )
    print(markdown(summarise(pairs, runs), runs))


if __name__ == "__main__":
    app.run(main)
