"""What a person reads of a plan before a run, and the same for a program.

Makes a compiled plan a finished one: provenance of every edit, a summary to read, its name.
"""

import concurrent.futures
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ttoaa.planning.column_files import TableWriter, hexadecimal, join_text, map_npy
from ttoaa.planning.compiler import CompiledPlan
from ttoaa.planning.items import RESERVE, TOKENS
from ttoaa.workdir import (
    commit_folder,
    file_sha256,
    unfinished_folder,
    write_json,
    write_text,
)

_PARTS = 10  # of training


def summary_values(plan: CompiledPlan) -> dict[str, Any]:
    """Arms, edits and tokens, and their share of all: JSON values."""
    geometry = plan.geometry
    tokens: dict[str, int] = dict.fromkeys(plan.contents["experiments"], 0)
    for arm in plan.arms:
        tokens[arm["experiment"]] += arm["tokens"]
    return {
        "hash": plan.hash,
        "seed": plan.contents["seed"],
        "geometry": plan.contents["geometry"],
        "tokens": geometry.tokens,
        "arms": plan.arms,
        "edits": sum(arm["edits"] for arm in plan.arms),
        "edited_tokens": sum(tokens.values()),
        "share": sum(tokens.values()) / geometry.tokens,
        "experiments": {
            name: {"items": items, "tokens": tokens[name], "share": tokens[name] / geometry.tokens}
            for name, items in zip(tokens, plan.contents["items"], strict=True)
        },
        "occupied_by_tenth": _occupied(plan),
    }


def _occupied(plan: CompiledPlan) -> list[float]:
    """The share of each tenth of training that is edited, kept free for a controller or marked."""
    geometry = plan.geometry
    edges = np.arange(_PARTS + 1) * geometry.sequences // _PARTS
    at = np.searchsorted(plan.columns["position"], edges)
    length = plan.columns["length"]
    return [
        float(length[a:b].sum(dtype=np.int64) / max(1, rows * geometry.length))
        for a, b, rows in zip(at[:-1], at[1:], np.diff(edges), strict=True)
    ]


def summary_text(values: dict[str, Any]) -> str:
    """The values as a table."""
    geometry, total, arms = values["geometry"], values["tokens"], values["arms"]
    wide = max([len(arm["name"]) for arm in arms], default=3)
    lines = [
        f"plan {values['hash'][:12]} of seed {values['seed']}: {geometry['steps']:,} steps of "
        f"{geometry['batch']} x {geometry['length']} = {total:,} tokens",
        "occupied, by tenth of training: "
        + " ".join(f"{share:.2%}" for share in values["occupied_by_tenth"]),
        f"{'arm':{wide}}  {'edits':>10}  {'tokens':>14}  share",
        *(
            f"{arm['name']:{wide}}  {arm['edits']:>10,}  {arm['tokens']:>14,}  "
            f"{arm['tokens'] / total:6.2%}"
            for arm in arms
        ),
        f"{'all':{wide}}  {values['edits']:>10,}  {values['edited_tokens']:>14,}  "
        f"{values['share']:6.2%}",
    ]
    return "\n".join(lines) + "\n"


_ROW_GROUP = 1 << 19
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
    """Makes the plan the folder `folder`, whole or not at all.

    `meta` joins plan.json outside the content hash, and its warnings the summary. A plan that was
    not compiled into an `unfinished_folder` is copied; one that was is moved.
    """
    _write_provenance(plan, plan.folder / "provenance.parquet")
    values = summary_values(plan)
    lines = [f"warning: {line}\n" for line in meta.get("warnings", ())]
    write_text(plan.folder / "summary.txt", "".join([summary_text(values), *lines]))
    write_json(plan.folder / "summary.json", values)
    tables = [plan.folder / "provenance.parquet"]
    tables += [path for name in ("items", "index") for path in (plan.folder / name).iterdir()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        hashes = dict(zip(tables, pool.map(file_sha256, tables), strict=True))
    told = {path.relative_to(plan.folder).as_posix(): hashes[path] for path in sorted(hashes)}
    write_json(
        plan.folder / "plan.json",
        {"hash": plan.hash, "contents": plan.contents, "tables": told, **meta},
    )
    if plan.folder.parent == folder.parent:
        commit_folder(plan.folder, folder)
        return
    with unfinished_folder(folder) as copy:
        shutil.copytree(plan.folder, copy, dirs_exist_ok=True)
        commit_folder(copy, folder)


def _write_provenance(plan: CompiledPlan, path: pathlib.Path) -> None:
    """A row for each edit, in order of training: who, what, where, and a hash of the tokens."""
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
