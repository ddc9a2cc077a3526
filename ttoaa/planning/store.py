"""Finish a compiled plan: provenance of every edit, a summary, plan.json, and its name on disk."""

import concurrent.futures
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ttoaa.checksums import write_record
from ttoaa.planning.column_files import TableWriter, hexadecimal, join_text, map_npy
from ttoaa.planning.compiler import CompiledPlan
from ttoaa.planning.items import MARK, NOISE, RESERVE, SLOT, TOKENS
from ttoaa.planning.plan import Plan
from ttoaa.workdir import (
    commit_folder,
    file_sha256,
    unfinished_folder,
    write_json,
    write_text,
)

TENTHS = 10
_BLOCK = 1 << 22  # edits
_KINDS = {"tokens": TOKENS, "reserve": RESERVE, "slots": SLOT, "marks": MARK, "noise": NOISE}


def summary_values(plan: CompiledPlan | Plan) -> dict[str, Any]:
    """Return the contents of summary.json: arms, edits, and tokens by experiment and tenth.

    Tokens are those that edits cover: overwritten, reserved for a controller, or marked.
    """
    geometry, experiments = plan.geometry, plan.contents["experiments"]
    # The first position of tenth t is the first p with 10 p >= t sequences.
    first_row = -(-np.arange(TENTHS + 1) * geometry.sequences // TENTHS)
    room = np.diff(first_row) * geometry.length
    covered = _covered_tokens(plan)
    total = int(covered.sum())
    return {
        "hash": plan.hash,
        "seed": plan.contents["seed"],
        "geometry": plan.contents["geometry"],
        "tokens": geometry.tokens,
        "arms": plan.arms,
        "of_kinds": _arms_by_kind(plan),
        "edits": sum(arm["edits"] for arm in plan.arms),
        "edited_tokens": total,
        "share": total / geometry.tokens,
        "experiments": {
            name: {
                "items": items,
                "tokens": int(tokens.sum()),
                "share": float(tokens.sum() / geometry.tokens),
                "tokens_of_tenths": tokens.sum(1).tolist(),
                "tokens_of_kinds": dict(zip(_KINDS, tokens.sum(0).tolist(), strict=True)),
            }
            for name, items, tokens in zip(
                experiments, plan.contents["items"], covered, strict=True
            )
        },
        "room_of_tenths": room.tolist(),
        "occupied_by_tenth": (covered.sum((0, 2)) / np.maximum(room, 1)).tolist(),
    }


def _covered_tokens(plan: CompiledPlan | Plan) -> np.ndarray:
    """Count the tokens that edits cover, int64[experiments, tenths of training, kinds]."""
    experiments = plan.contents["experiments"]
    of_arm = np.full(max([0, *(arm["id"] for arm in plan.arms)]) + 1, -1)
    for arm in plan.arms:
        of_arm[arm["id"]] = experiments.index(arm["experiment"])
    sums = np.zeros((len(experiments), TENTHS, len(_KINDS)), np.int64)
    columns = plan.columns
    for first in range(0, len(columns["arm"]), _BLOCK):
        block = slice(first, first + _BLOCK)
        experiment = of_arm[columns["arm"][block]]
        tenth = columns["position"][block] * TENTHS // plan.geometry.sequences
        cell = (experiment * TENTHS + tenth) * len(_KINDS) + columns["kind"][block]
        added = np.bincount(cell, columns["length"][block], sums.size)
        sums += added.astype(np.int64).reshape(sums.shape)
    return sums


def _arms_by_kind(plan: CompiledPlan | Plan) -> dict[str, dict[str, list[int]]]:
    """Count [edits, tokens] by arm name and kind of edit."""
    size = (1 + max([0, *(arm["id"] for arm in plan.arms)])) * len(_KINDS)
    edits, tokens = np.zeros((2, size), np.int64)
    columns = plan.columns
    for first in range(0, len(columns["arm"]), _BLOCK):
        block = slice(first, first + _BLOCK)
        cell = columns["arm"][block].astype(np.int64) * len(_KINDS) + columns["kind"][block]
        edits += np.bincount(cell, minlength=size)
        tokens += np.bincount(cell, columns["length"][block], size).astype(np.int64)
    counted = np.stack([edits, tokens], 1).reshape(-1, len(_KINDS), 2)
    return {
        arm["name"]: {
            kind: counted[arm["id"], number].tolist()
            for kind, number in _KINDS.items()
            if counted[arm["id"], number, 0]
        }
        for arm in plan.arms
    }


_PARTS = (
    ("edits", ("tokens", "reserve"), ""),
    ("slots", ("slots",), "slots, which controllers fill during the run or leave to the corpus:"),
    ("marks", ("marks",), "marks, which keep the text of the corpus:"),
    ("rows", ("noise",), "rows with noise on their embeddings, which keep their text:"),
)


def _table(values: dict[str, Any], column: str, kinds: Sequence[str], title: str) -> list[str]:
    """Format a row for each arm with edits of these kinds, and a row of sums."""
    rows = []
    for name, counted in values["of_kinds"].items():
        if own := [counted[kind] for kind in kinds if kind in counted]:
            rows.append((name, *map(sum, zip(*own, strict=True))))
    if title and not rows:
        return []
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    width = max(3, *(len(arm["name"]) for arm in values["arms"]), 0)
    return [
        *(["", title] if title else []),
        f"{'arm':{width}}  {column:>10}  {'tokens':>14}  share",
        *(
            f"{name:{width}}  {edits:>10,}  {tokens:>14,}  {tokens / values['tokens']:6.2%}"
            for name, edits, tokens in rows
        ),
    ]


def summary_text(values: dict[str, Any], meta: Mapping[str, Any]) -> str:
    """Format the values of a summary as separate tables of edits, slots, marks and noise.

    The lines of `notes` and `warnings` in `meta` follow.
    """
    geometry, total = values["geometry"], values["tokens"]
    lines = [
        f"plan {values['hash'][:12]} of seed {values['seed']}: {geometry['steps']:,} steps of "
        f"{geometry['batch']} x {geometry['length']} = {total:,} tokens",
        "occupied, by tenth of training: "
        + " ".join(f"{share:.2%}" for share in values["occupied_by_tenth"]),
        *(line for part in _PARTS for line in _table(values, *part)),
        *meta.get("notes", ()),
        *(f"warning: {line}" for line in meta.get("warnings", ())),
    ]
    return "\n".join(lines) + "\n"


_ROW_GROUP = 1 << 19  # edits
_PROVENANCE = pa.schema(
    {
        "experiment": pa.dictionary(pa.int32(), pa.string()),
        "arm": pa.dictionary(pa.int32(), pa.string()),
        "item": pa.string(),
        "repetition": pa.int32(),
        "step": pa.int64(),
        "row": pa.int64(),
        "offset": pa.int32(),
        "length": pa.int32(),
        "kind": pa.uint8(),
        "reserve_window": pa.int64(),
        "tokens_sha256": pa.string(),
    }
)


def store(plan: CompiledPlan, folder: pathlib.Path, meta: Mapping[str, Any]) -> None:
    """Finish a plan and give it the name `folder`, atomically.

    `meta` is added to plan.json outside the content hash, and its notes and warnings to the
    summary. A plan that was compiled into an `unfinished_folder` is renamed, any other is copied.
    """
    _write_provenance(plan, plan.folder / "provenance.parquet")
    values = summary_values(plan)
    write_text(plan.folder / "summary.txt", summary_text(values, meta))
    write_json(plan.folder / "summary.json", values)
    tables = [plan.folder / "provenance.parquet"]
    tables += [path for name in ("items", "index") for path in (plan.folder / name).iterdir()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hashes = dict(zip(tables, pool.map(file_sha256, tables), strict=True))
    digests = {path.relative_to(plan.folder).as_posix(): hashes[path] for path in sorted(hashes)}
    made = {"hash": plan.hash, "contents": plan.contents, "tables": digests}
    made["of_kinds"] = values["of_kinds"]
    write_record(plan.folder / "plan.json", {**made, "arrays": plan.digests, **meta})
    if plan.folder.parent == folder.parent:
        commit_folder(plan.folder, folder)
        return
    with unfinished_folder(folder) as copy:
        shutil.copytree(plan.folder, copy, dirs_exist_ok=True)
        commit_folder(copy, folder)


def _write_provenance(plan: CompiledPlan, path: pathlib.Path) -> None:
    """Write a row for each edit, in training order, with a hash of its tokens."""
    index = plan.folder / "index"
    ids = join_text(map_npy(index / "ids.npy"), map_npy(index / "id_starts.npy"))
    sha256 = map_npy(index / "sha256.npy")
    experiments = pa.array(plan.contents["experiments"], pa.string())
    last = np.cumsum(plan.contents["items"], dtype=np.int64)
    arms = pa.array(["corpus", *(arm["name"] for arm in plan.arms)], pa.string())
    with TableWriter() as tables, tables.writer(path, _PROVENANCE, ["experiment", "arm"]) as write:
        for first in range(0, len(plan.columns["item"]), _ROW_GROUP):
            group = slice(first, first + _ROW_GROUP)
            edits = {name: column[group] for name, column in plan.columns.items()}
            own = np.searchsorted(last, edits["item"], "right").astype(np.int32)
            step, row = np.divmod(edits["position"], plan.geometry.batch)
            text = edits["kind"] == TOKENS
            columns = {
                "experiment": pa.DictionaryArray.from_arrays(own, experiments),
                "arm": pa.DictionaryArray.from_arrays(edits["arm"].astype(np.int32), arms),
                "item": ids.take(pa.array(edits["item"])).cast(pa.string()),
                "repetition": edits["repetition"],
                "step": step,
                "row": row,
                "offset": edits["offset"],
                "length": edits["length"],
                "kind": edits["kind"],
                "reserve_window": np.where(edits["kind"] == RESERVE, edits["source"], -1),
                "tokens_sha256": hexadecimal(sha256[edits["item"]], text),
            }
            write(pa.table(columns, _PROVENANCE))
