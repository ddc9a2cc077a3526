"""What a person reads of a plan before a run, and the same for a program."""

from typing import Any

import numpy as np

from ttoaa.planning.compiler import CompiledPlan

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
