"""Forecast the dependence matrix before any burst is trained, from a checkpoint and plans.

| forecast of row r, column j | |
|---|---|
| `containment` | mean share of the n-grams of j's scored items that r inserts; it has no sign |
| `gradient` | <g_r, h_j>, the first-order effect of plain gradient descent |
| `preconditioned` | the same with Adam's scale of each parameter, see `adam_scaled` |

g_r is what r's edits add to the gradient of the burst's mean loss: that of the rows which they
change, less that of the same rows without them. h_j is the gradient of the mean loss of j's scored
items, less that of its held-out items. Both are taken at the checkpoint, so <g_r, h_j> is positive
where training on r lowers j's loss. Scored are the items of the primary outcome's condition if it
names one, otherwise all inserted items.

A row that changes no token (a watermark) is 0. A column without scored tokens is nan, and so is
`preconditioned` with another optimizer than AdamW.
"""

import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.interactions.burst_study import BurstHandle, BurstStudy
from ttoaa.interactions.comparison import FORECASTS, forecast_shares
from ttoaa.interactions.rows import BurstJob
from ttoaa.interactions.weighted_gradients import (
    Text,
    adam_scaled,
    inner_product,
    second_moments,
    weighted_gradient,
)
from ttoaa.parquet_io import read_table, write_table
from ttoaa.planning.checks.duplicates import same_ngrams
from ttoaa.planning.checks.item_texts import ItemTexts
from ttoaa.runs import CONTROL
from ttoaa.scoring.likelihood import log_likelihoods
from ttoaa.scoring.requests import Request
from ttoaa.training.controller_loop import ControllerLoop
from ttoaa.training.optimizer import AdamW
from ttoaa.training.throughput import Ledger
from ttoaa.training_job import check_run, identity_of, make_controls, make_job
from ttoaa.workdir import write_json

MOST = 32
"""Rows of an experiment, its scored and its held-out items, of each at most this many per seed:
evenly spaced ones stand for all."""
COLUMNS = ("checkpoint", "seed", "row", "column", *FORECASTS)


def read_forecast(path: pathlib.Path) -> pd.DataFrame | None:
    """Return a stored forecast; None if there is none."""
    return read_table(path, "remove it and forecast again")[0] if path.exists() else None


def make_forecast(
    studies: Sequence[BurstStudy], seeds: Sequence[int], path: pathlib.Path, summary: pathlib.Path
) -> pd.DataFrame:
    """Return the forecast of these bursts, one row for each cell and seed (`COLUMNS`).

    It is stored at `path` with what it was made of, and made only once. The means over seeds, as
    shares of own effects, and the seconds go to `summary`, which is JSON.
    """
    source = {
        "checkpoints": [bursts.source.sha256 for bursts in studies],
        "plans": [[BurstJob(bursts).plan(seed).plan.hash for seed in seeds] for bursts in studies],
        "seeds": list(seeds),
        "most": MOST,
    }
    if path.exists() and summary.exists():
        found, made_of, _ = read_table(path, "remove it and forecast again")
        if made_of == source:
            return found
    ledger, cells = Ledger(), []
    for bursts in studies:
        job = BurstJob(bursts)
        with ledger.phase(str(bursts.source.step)):
            cells += [cell for seed in seeds for cell in forecast_cells(job, seed)]
    found = pd.DataFrame(cells, columns=list(COLUMNS))
    write_table(found, path, source)
    write_json(summary, [_summarize(found, int(step), s) for step, s in ledger.seconds.items()])
    return found


def _summarize(forecast: pd.DataFrame, step: int, seconds: float) -> dict[str, Any]:
    tables = {kind: forecast_shares(forecast, step, kind) for kind in FORECASTS}
    experiments = list(tables[FORECASTS[0]].index)
    return {
        "checkpoint": step,
        "seconds": seconds,
        "experiments": experiments,
        **{
            kind: [
                [None if np.isnan(x) else x for x in row]
                for row in table.loc[experiments, experiments].to_numpy(float).tolist()
            ]
            for kind, table in tables.items()
        },
    }


def forecast_cells(
    job: BurstJob, seed: int, rows: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the forecasts of one seed (`COLUMNS`), of these experiments' rows or of all.

    In memory are one gradient for each column, and a row's.
    """
    handle, program = job.plan(seed), job.program
    experiments = handle.config.experiments
    contained = ngram_containment(handle)
    control = handle.run_spec(CONTROL)
    made_of = identity_of(handle, control, make_controls(handle, control))
    state, _ = job.initial(made_of)
    params, optimizer = state["params"], program.training.optimizer
    columns = {
        experiment.name: weighted_gradient(program, params, texts)
        for experiment in experiments
        if (texts := _scored_texts(handle, experiment))
    }
    for row in [each.name for each in experiments] if rows is None else rows:
        g = weighted_gradient(program, params, _edits(job, handle, row, params))
        steps = {"gradient": g}
        if isinstance(optimizer, AdamW):
            nu_hat = second_moments(state["opt"], optimizer.beta2)
            steps["preconditioned"] = adam_scaled(g, nu_hat, optimizer.eps)
        for column in experiments:
            h = columns.get(column.name)
            products = {
                kind: float(inner_product(step, h)) if h is not None else np.nan
                for kind, step in steps.items()
            }
            yield {
                "checkpoint": job.bursts.source.step,
                "seed": seed,
                "row": row,
                "column": column.name,
                "containment": contained.loc[row, column.name],
                **products,
            }


def _edits(job: BurstJob, handle: BurstHandle, name: str, params: Any) -> list[Text]:
    """Return the rows of a burst that an experiment changes, and with negative weights the same
    rows without its edits.

    Batches are composed as for training, but controllers decide by the checkpoint.
    """
    spec, null = handle.run_spec(f"alone/{name}"), handle.run_spec(CONTROL)
    check_run(handle, spec)
    geometry, every = handle.config.geometry, np.arange(handle.config.geometry.batch)
    controls = make_controls(handle, spec)
    own, plain = (
        make_job(handle, each, control, {}, lambda: True, job.program, "").batches(0, every)
        for each, control in ((spec, controls), (null, make_controls(handle, null)))
    )

    def measure(requests: Sequence[Request]) -> list[np.ndarray]:
        with jax.set_mesh(job.program.mesh):
            return log_likelihoods(job.program.model, params, requests)

    pairs: list[tuple[Text, Text]] = []
    with tempfile.TemporaryDirectory() as folder:
        loop = ControllerLoop(controls, pathlib.Path(folder), 0, None)
        for step in range(geometry.steps):
            for _, numbers in loop.due(step) if controls.overlay else ():
                loop.decide(step, numbers, measure)
            pairs += _changed(next(own), next(plain))
        loop.close()
    used = _evenly(pairs)
    share = len(pairs) / max(1, len(used)) / (geometry.sequences * (geometry.length - 1))
    return [text._replace(weight=text.weight * share) for pair in used for text in pair]


def _changed(own: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[tuple[Text, Text]]:
    """Yield the rows that differ between two batches, with weights 1 and -1; 0 if masked."""
    rows = np.flatnonzero((own["tokens"] != plain["tokens"]).any(1))
    weights = [batch.get("trained", np.ones(len(batch["tokens"]))) for batch in (own, plain)]
    for row in rows:
        one, other = (batch["tokens"][row].copy() for batch in (own, plain))
        yield Text(one, float(weights[0][row])), Text(other, -float(weights[1][row]))


def _scored_texts(handle: BurstHandle, experiment: Experiment) -> list[Text]:
    """Return the scored items with positive weights and the held-out ones with negative weights.

    Each set is a mean over an item's tokens and over items. Empty without scored tokens.
    """
    items, length = handle.plan.items(experiment.name), handle.config.geometry.length
    items["tokens"] = [
        handle.corpus.windows("reserve", np.array([window]), length)[0] if window >= 0 else tokens
        for tokens, window in zip(items["tokens"], items["window"], strict=True)
    ]
    items = items[[tokens is not None and len(tokens) > 1 for tokens in items["tokens"]]]
    inserted = items["repetitions"] > 0
    named = items["condition"] == experiment.primary.partition("/")[2]
    scored = named if named.any() else inserted
    if not scored.any():
        return []
    return [
        Text(np.asarray(tokens, np.int32), sign / (len(used) * (len(tokens) - 1)))
        for chosen, sign in ((scored, 1.0), (~scored & ~inserted, -1.0))
        for used in (_evenly(items["tokens"][chosen].tolist()),)
        for tokens in used
    ]


def _evenly(values: Sequence[Any]) -> list[Any]:
    """Return at most `MOST` of them, evenly spaced."""
    places = np.linspace(0, len(values) - 1, min(MOST, len(values))).round().astype(int)
    return [values[place] for place in places]


def ngram_containment(handle: BurstHandle) -> pd.DataFrame:
    """Return the mean share of n-grams of the column's scored items that the row inserts.

    Those n-grams are counted which the plan's checks find (`Checks.shingle` tokens). nan for a
    column without a scored item of that length.
    """
    config, plan, eos = handle.config, handle.plan, handle.corpus.eos_id
    texts = ItemTexts.of_plan(plan, eos).with_slot_texts(handle.slots, eos)
    matches, total = same_ngrams(texts, config.checks.shingle)
    names, shares = list(texts.experiments), np.zeros((len(texts.experiments), len(texts)))
    shares[matches.other, matches.item] = matches.common / total[matches.item]
    inserted = np.flatnonzero(~texts.held_out)
    shares[texts.experiment[inserted], inserted] = 1
    conditions = np.array(texts.conditions.to_pylist(), object)
    found = pd.DataFrame(np.nan, names, names)
    for experiment in config.experiments:
        own = (texts.experiment == names.index(experiment.name)) & (total > 0)
        primary = own & (conditions == experiment.primary.partition("/")[2])
        scored = primary if primary.any() else own & ~texts.held_out
        if scored.any():
            found[experiment.name] = shares[:, scored].mean(1)
    return found
