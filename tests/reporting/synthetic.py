"""A study's folder as the other commands would leave it, with effects that are known."""

import dataclasses
import json
from typing import ClassVar

import numpy as np
import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.gin_files import with_header
from ttoaa.workdir import Workdir, write_json, write_text

STEPS, BATCH, LENGTH = 60, 8, 64
ITEMS = 30


@dataclasses.dataclass(frozen=True)
class Fake(Experiment):
    """Effects that grow with repetitions.

    A second paragraph with a caveat.
    """

    placebo: str = ""

    signs: ClassVar = {"accuracy": 1, "loss": -1}

    def figure(self, estimates, axes):
        final = estimates[estimates["step"] == estimates["step"].max()]
        for seed, rows in final[final["outcome"] == "loss"].groupby("seed"):
            axes.errorbar(
                rows["condition"],
                rows["difference"],
                yerr=[
                    rows["difference"] - rows["difference_ci_low"],
                    rows["difference_ci_high"] - rows["difference"],
                ],
                marker="o",
                label=f"seed {seed}",
            )
        axes.set(xlabel="condition", ylabel="gain")
        axes.legend()


def outcomes(conditions, effect, seed):
    """Tables of (run, control); in condition c the run gains c * effect."""
    rng = np.random.default_rng(seed)
    tables = []
    for kind in ("run", "control"):
        parts = []
        for number, condition in enumerate(conditions):
            gain = number * effect * (kind == "run")
            noise = rng.normal(0, 0.05, ITEMS)
            values = {
                "loss": 3 + np.linspace(-0.5, 0.5, ITEMS) - gain + noise,
                "accuracy": (rng.random(ITEMS) < 0.3 + gain).astype(float),
            }
            for outcome, value in values.items():
                parts.append(
                    pd.DataFrame(
                        {
                            "item": [f"{condition}-{k}" for k in range(ITEMS)],
                            "condition": condition,
                            "outcome": outcome,
                            "value": value,
                        }
                    )
                )
        tables.append(pd.concat(parts, ignore_index=True))
    return tables


def make_study(root, experiments, seeds=(0,), steps=(30, STEPS), text="an item", effect=0.2):
    """`experiments`: {name: conditions}. Writes the whole study, returns its experiments."""
    write_text(root / "config.gin", with_header(f"# {text}\nStudy.name = 'x'\n", ()))
    write_json(root / "corpus" / "ledger.json", {"seconds": {"tokenise": 4.0}})
    arms = []
    for name, conditions in experiments.items():
        for number, condition in enumerate(conditions):
            arms.append(
                {
                    "id": len(arms) + 1,
                    "name": f"{name}/{condition}",
                    "experiment": name,
                    "condition": condition,
                    "edits": 10 * number,
                    "tokens": 100 * number,
                }
            )
    for folder in (Workdir(root, seed) for seed in seeds):
        _write_plan(folder, experiments, arms, text)
        for kind in ("control", "run"):
            _write_training(folder.run(kind), kind, folder.seed, arms, experiments)
        for number, (name, conditions) in enumerate(experiments.items()):
            for step in steps:
                pair = outcomes(conditions, effect * step / STEPS, [folder.seed, number, step])
                for kind, table in zip(("run", "control"), pair, strict=True):
                    path = folder.table(kind, step, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    table.to_parquet(path)
        scoring = {f"score/{name}": 2.0 for name in experiments}
        write_json(folder.tables / "ledger.json", {"seconds": scoring})
    return tuple(Fake(n, f"loss/{c[-1]}", -1) for n, c in experiments.items())


def _write_plan(folder, experiments, arms, text):
    contents = {
        "seed": folder.seed,
        "geometry": {"length": LENGTH, "batch": BATCH, "steps": STEPS},
        "arms": arms,
        "experiments": list(experiments),
    }
    write_json(folder.plan / "plan.json", {"hash": "ab" * 32, "contents": contents})
    write_json(folder.plan / "ledger.json", {"seconds": {"plan": 1.0}})
    for name, conditions in experiments.items():
        path = folder.plan / "items" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        items = {"id": conditions, "condition": conditions, "repetitions": 4, "text": text}
        pd.DataFrame(items).assign(tokens=None, window=-1, fields="{}").to_parquet(path)


def _write_training(folder, kind, seed, arms, experiments):
    rng = np.random.default_rng([seed, kind == "run"])
    lines, arm_lines = [], []
    for step in range(1, STEPS + 1):
        loss = 3 + 4 / step**0.5 + rng.normal(0, 0.05)
        lines.append({"step": step, "loss": loss, "tokens_per_second": 1000.0})
        if step % 20 == 0:
            lines.append({"step": step, "validation_loss": loss + 0.1})
        seen = {"0": [loss * 400, 400]}
        for arm in arms:
            if rng.random() < 0.4:
                seen[str(arm["id"])] = [(loss - 0.2 * arm["id"] % 1) * 10, 10]
        arm_lines.append({"step": step, "arms": seen})
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    if kind == "run":
        write_text(folder / "arms.jsonl", "".join(json.dumps(line) + "\n" for line in arm_lines))
    seconds = {"compile": 3.0, "step": 100.0 if kind == "control" else 110.0}
    seconds |= {"validate": 1.0, "checkpoint": 1.0}
    seconds |= {f"probe/{name}": 5.0 for name in experiments}
    ledger = {"seconds": seconds, "flops": 1e12, "devices": 1, "device_kind": "cpu"}
    write_json(folder / "ledger.json", ledger)
    provenance = {"versions": {"jax": "0.10"}, "git": "abc", "plan": kind, "source": {}}
    write_json(folder / "provenance.json", provenance)
    write_json(folder / "finished.json", {"step": STEPS, "identity": {}})
