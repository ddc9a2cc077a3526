"""The README's table of pods, made without any: python -m tests.performance.pods --cache=DIR

Compiles the step of each row for its pod (libtpu: pip install 'ttoaa[tpu]'; minutes a row on a few
cores, nothing where the cache has it) and prints Markdown. With --only=TEXT, the rows that have it.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from ttoaa import config
from ttoaa.compile import estimate

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
ROWS = (
    ("1.5b", "v5e:16x16"),
    ("1.5b", "v4:4x4x4"),
    ("1.5b", "v5p:4x4x4"),
    ("1.5b", "v6e:16x16"),
    ("179m", "v5p:4x4x4"),
    ("546m", "v5p:4x4x4"),
    ("2.7b", "v5p:4x4x4"),
)
HEADER = (
    "| model | pod | chips (devices) | layout | HBM, GiB | step, s | implied MFU (attention at "
    "0.4 / 0.5 / 0.6) | pessimistic | collectives, s | compile, min |"
)

# --cache and --layers are the command's own.
_ONLY = flags.DEFINE_string("only", "", "rows whose model or pod has this in its name")


def files(size: str, topology: str) -> list[pathlib.Path]:
    pod = topology.replace(":", "-")
    return [
        CONFIGS / "paper.gin",
        CONFIGS / f"sizes/olmo2-{size}.gin",
        CONFIGS / f"pods/{pod}.gin",
    ]


def row(size: str, found: dict[str, Any]) -> str:
    layout = " × ".join(f"{axis} {n}" for axis, n in found["layout"].items() if n > 1)
    memory = f"{found['hbm_gib']:.1f} of {found['capacity_gib']}"
    cells = [size, found["topology"], f"{found['chips']} ({found['devices']})", layout, memory]
    if found["implied_mfu"] is None:
        return f"| {' | '.join(cells)} | {found.get('refused', 'does not fit')} | | | | |"
    by_attention = found["by_attention_efficiency"].values()
    return " | ".join(
        [
            f"| {' | '.join(cells)}",
            f"{found['estimated_seconds']:.3f}",
            " / ".join(f"{each['mfu']:.0%}" for each in by_attention),
            f"{found['pessimistic']['mfu']:.0%}",
            f"{found['collective_seconds']['waited']:.3f}",
            f"{found['compile_seconds'] / 60:.0f} |",
        ]
    )


def main(argv: Sequence[str]) -> None:
    del argv
    print(HEADER)
    print("|" + "---|" * (HEADER.count("|") - 1))
    for size, topology in ROWS:
        if _ONLY.value in f"{size} {topology}":
            study, _ = config.load(files(size, topology))
            cache = pathlib.Path(flags.FLAGS.cache) if flags.FLAGS.cache else None
            print(row(size, estimate(study, topology, layers=flags.FLAGS.layers, cache=cache)))
            sys.stdout.flush()


if __name__ == "__main__":
    flags.FLAGS.set_default("workdir", "")
    app.run(main)
