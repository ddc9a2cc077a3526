"""Writes a plan: columns, item tables, the provenance of every edit, a summary to read (C5)."""

import hashlib
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ttoaa.data.corpus import file_sha256
from ttoaa.planning.compiler import CompiledPlan
from ttoaa.planning.items import RESERVE, Item
from ttoaa.workdir import write_json, write_text


def store(plan: CompiledPlan, folder: pathlib.Path, meta: Mapping[str, Any]) -> None:
    """Writes `folder` whole or not at all; `meta` joins plan.json outside the content hash."""
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(leftover)
    unfinished = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    (unfinished / "columns").mkdir(parents=True)
    (unfinished / "items").mkdir()
    for name, column in plan.columns.items():
        np.save(unfinished / "columns" / f"{name}.npy", column)
    np.save(unfinished / "tokens.npy", plan.tokens)
    for name, items in plan.items.items():
        pq.write_table(item_table(items), unfinished / "items" / f"{name}.parquet")
    pq.write_table(_provenance(plan), unfinished / "provenance.parquet")
    tables = {
        path.relative_to(unfinished).as_posix(): file_sha256(path)
        for path in sorted(unfinished.rglob("*.parquet"))
    }
    write_text(unfinished / "summary.txt", summary(plan))
    write_json(
        unfinished / "plan.json",
        {"hash": plan.hash, "contents": plan.contents, "tables": tables, **meta},
    )
    for path in unfinished.rglob("*.*"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    os.replace(unfinished, folder)


def item_table(items: Sequence[Item]) -> pa.Table:
    """Items as they are stored, a row each, their fields as JSON."""
    return pa.table(
        {
            "id": pa.array([item.id for item in items], pa.string()),
            "condition": pa.array([item.condition for item in items], pa.string()),
            "repetitions": pa.array([item.repetitions for item in items], pa.int64()),
            "tokens": pa.array([item.tokens for item in items], pa.list_(pa.int32())),
            "window": pa.array(
                [-1 if item.window is None else item.window for item in items], pa.int64()
            ),
            "text": pa.array([item.text for item in items], pa.string()),
            "fields": pa.array([item.fields_json() for item in items], pa.string()),
        }
    )


def _provenance(plan: CompiledPlan) -> pa.Table:
    """A row for each edit, in order of training: who, what, where, and a hash of the tokens."""
    columns, contents = plan.columns, plan.contents
    flat = [(name, item) for name in contents["experiments"] for item in plan.items[name]]
    who = pa.array(columns["item"])
    batch = contents["geometry"]["batch"]
    arms = ["corpus", *(arm["name"] for arm in contents["arms"])]
    return pa.table(
        {
            "experiment": pa.array([name for name, _ in flat], pa.string()).take(who),
            "arm": pa.array(arms, pa.string()).take(pa.array(columns["arm"].astype(np.int64))),
            "item": pa.array([item.id for _, item in flat], pa.string()).take(who),
            "repetition": columns["repetition"],
            "step": columns["position"] // batch,
            "row": columns["position"] % batch,
            "offset": columns["offset"],
            "length": columns["length"],
            "kind": columns["kind"],
            "reserve_window": np.where(columns["kind"] == RESERVE, columns["source"], -1),
            "tokens_sha256": pa.array([_sha256(item) for _, item in flat], pa.string()).take(who),
        }
    )


def _sha256(item: Item) -> str | None:
    if item.tokens is None:
        return None
    return hashlib.sha256(np.ascontiguousarray(item.tokens, np.int32).data).hexdigest()


def summary(plan: CompiledPlan) -> str:
    """What a person reads before a run: arms, edits, tokens and their share."""
    geometry = plan.contents["geometry"]
    total = geometry["length"] * geometry["batch"] * geometry["steps"]
    arms = plan.contents["arms"]
    edited = sum(arm["tokens"] for arm in arms)
    wide = max([len(arm["name"]) for arm in arms], default=3)
    lines = [
        f"plan {plan.hash[:12]} of seed {plan.contents['seed']}: {geometry['steps']:,} steps of "
        f"{geometry['batch']} x {geometry['length']} = {total:,} tokens",
        f"{'arm':{wide}}  {'edits':>10}  {'tokens':>12}  share",
        *(
            f"{arm['name']:{wide}}  {arm['edits']:>10,}  {arm['tokens']:>12,}  "
            f"{arm['tokens'] / total:6.2%}"
            for arm in arms
        ),
        f"{'all':{wide}}  {len(plan.columns['item']):>10,}  {edited:>12,}  {edited / total:6.2%}",
    ]
    return "\n".join(lines) + "\n"
