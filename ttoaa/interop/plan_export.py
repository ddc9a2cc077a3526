"""A plan as columns that another trainer, such as OLMo's, can write over its own batches.

`plan.parquet` has a row for each edit in training order (`COLUMNS`), with the token ids that it
inserts. `plan.json` has what all rows share, and the sha256 of some edited batches, by which the
other trainer can check its own (docs/export.md).
"""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttoaa.planning.audit.compare import load_shares, slot_overlay
from ttoaa.planning.audit.reference_reader import read_decisions
from ttoaa.planning.controller_log import SLOT_TEXTS_FOLDER
from ttoaa.planning.items import MARK, NOISE, RESERVE, SLOT, TOKENS
from ttoaa.planning.noise import noisy_arms
from ttoaa.runs import RUN
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import write_json

COLUMNS = pa.schema(
    {
        "sequence": pa.int64(),
        "step": pa.int64(),
        "row": pa.int32(),
        "window": pa.int64(),
        "offset": pa.int32(),
        "length": pa.int32(),
        "token_position": pa.int64(),
        "tokens": pa.list_(pa.int32()),
        "kind": pa.string(),
        "group": pa.string(),
        "experiment": pa.string(),
        "condition": pa.string(),
        "item": pa.string(),
        "repetition": pa.int32(),
        "noise_sigma": pa.float32(),
        "noise_relative": pa.bool_(),
    }
)
_KINDS = {TOKENS: "text", RESERVE: "window", SLOT: "slot", MARK: "mark", NOISE: "noise"}
_BLOCK = 1 << 16  # edits
_HASHED = 16  # batches


def export_plan(
    handle: StudyHandle, folder: pathlib.Path, chosen: Mapping[str, str], *, whole: bool
) -> int:
    """Write plan.parquet and plan.json of `chosen` experiments (with their groups) to a folder.

    Unless `whole`, nothing in the files names the other experiments, and only the plan's hash
    depends on them: there is no hash of a batch. Returns the number of rows.
    """
    count = 0
    with pq.ParquetWriter(folder / "plan.parquet", COLUMNS) as writer:
        for block in _blocks(handle, chosen):
            writer.write_table(block)
            count += len(block)
    plan, order = handle.plan, handle.order
    shared: dict[str, Any] = {
        "plan": plan.hash,
        "seed": handle.workdir.seed,
        "corpus": handle.corpus.fingerprint,
        "vocabulary_size": handle.corpus.vocab_size,
        "geometry": plan.contents["geometry"],
        "order": order.identity(),
        "experiments": sorted(chosen),
        "rows": count,
    }
    if whole:
        shared["batches_sha256"] = _hash_batches(handle)
    write_json(folder / "plan.json", shared)
    return count


def _blocks(handle: StudyHandle, chosen: Mapping[str, str]) -> Iterator[pa.Table]:
    plan, order, length = handle.plan, handle.order, handle.plan.geometry.length
    arms = {arm["id"]: arm for arm in plan.arms if arm["experiment"] in chosen}
    text_of, noises = _texts(handle), noisy_arms(plan)
    for first in range(0, len(plan.columns["arm"]), _BLOCK):
        part = {name: column[first : first + _BLOCK] for name, column in plan.columns.items()}
        ours = np.isin(part["arm"], list(arms))
        part = {name: np.asarray(column[ours]) for name, column in part.items()}
        own = [arms[arm] for arm in part["arm"].tolist()]
        noise = [noises.get(arm) for arm in part["arm"].tolist()]
        step, row = np.divmod(part["position"], plan.geometry.batch)
        columns = {
            "sequence": part["position"],
            "step": step,
            "row": row,
            "window": order.windows(part["position"]),
            "offset": part["offset"],
            "length": part["length"],
            "token_position": part["position"] * length + part["offset"],
            "tokens": pa.array(text_of(part), COLUMNS.field("tokens").type),
            "kind": [_KINDS[kind] for kind in part["kind"].tolist()],
            "group": [chosen[arm["experiment"]] for arm in own],
            "experiment": [arm["experiment"] for arm in own],
            "condition": [arm["condition"] for arm in own],
            "item": [item for _, item in plan.names(part["item"])],
            "repetition": part["repetition"],
            "noise_sigma": [each and each.sigma for each in noise],
            "noise_relative": [each and each.relative for each in noise],
        }
        yield pa.table({n: pa.array(v, COLUMNS.field(n).type) for n, v in columns.items()})


def _texts(handle: StudyHandle) -> Callable[[Mapping[str, np.ndarray]], list[Any]]:
    """Return a function from columns of edits to what each inserts, or None for no text.

    Slots hold what the controllers of the run decided, and nothing before they have.
    """
    plan, corpus, length = handle.plan, handle.corpus, handle.plan.geometry.length
    run = handle.workdir.run(RUN)
    filled = read_decisions(plan.folder, run)[0] if _decides(run) else {}

    def texts(part: Mapping[str, np.ndarray]) -> list[Any]:
        reserve = np.flatnonzero(part["kind"] == RESERVE)
        windows = corpus.windows("reserve", part["source"][reserve], length)
        rows = dict(zip(reserve.tolist(), windows, strict=True))
        found: list[Any] = []
        each = zip(*(part[name].tolist() for name in _OF_TEXT), strict=True)
        for number, (kind, source, size, item, repetition) in enumerate(each):
            if kind == TOKENS:
                found.append(plan.tokens[source : source + size])
            elif kind == RESERVE:
                found.append(rows[number][:size])
            else:
                found.append(filled.get((item, repetition)) if kind == SLOT else None)
        return found

    return texts


_OF_TEXT = ("kind", "source", "length", "item", "repetition")


def _decides(run: pathlib.Path) -> bool:
    """Whether controllers of the run have texts to fill slots with."""
    return (run / SLOT_TEXTS_FOLDER / "index.json").exists()


def _hash_batches(handle: StudyHandle) -> dict[str, str]:
    """Return the sha256 of the little-endian int32 tokens [B, L] of some batches with edits."""
    plan, run = handle.plan, handle.workdir.run(RUN)
    steps, filled = np.unique(plan.columns["position"] // plan.geometry.batch), None
    if _decides(run):
        filled = slot_overlay(plan, run)
        steps = steps[steps < read_decisions(plan.folder, run)[1]]
    spread = np.linspace(0, max(0, len(steps) - 1), _HASHED).astype(int)
    chosen = np.unique(steps[spread]).tolist() if len(steps) else []
    shares = load_shares(handle.corpus, plan, chosen, filled=filled)
    return {
        str(share.step): hashlib.sha256(share.tokens.astype("<i4").tobytes()).hexdigest()
        for share in shares
    }
