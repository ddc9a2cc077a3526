"""Plan the experiments of a config at their own counts, without a corpus or a reference model.

    python -m tests.performance.plan_experiments --tokenizer_file=corpora/dolma2-tokenizer.json \
        --gin_file=configs/plans/generated.gin

Prints one JSON line: seconds and peak memory, and the edits, tokens and share of training of each
experiment. Reserve windows are numbers, of which those that an experiment reads hold random tokens;
what it would choose by the reference model is random too. Rows that hold a removed text depend on a
corpus: --replaced rows at random places stand for them.
"""

import dataclasses
import functools
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from absl import app, flags

from tests.performance.plan import Memory
from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer
from ttoaa.experiments.base import Experiment, World
from ttoaa.experiments.canaries import Canaries
from ttoaa.experiments.context import intervene
from ttoaa.experiments.rehearsal import Rehearsal
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.plan import Edits
from ttoaa.planning.reserve import Reserve, deal_reserve

_TOKENIZER = flags.DEFINE_string("tokenizer_file", None, "of the planned items")
_REPLACED = flags.DEFINE_integer("replaced", 268_000, "rows that hold a removed text", 0)
RESERVE = 5_000_000  # windows


class LeastLikely:
    """A reference model that finds random tokens the least likely."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    def least_likely(self, prompts: Sequence[np.ndarray], count: int, among: np.ndarray):
        return self._rng.choice(among, (len(prompts), count))


def worlds(
    experiments: Sequence[Experiment], tokenizer: Tokenizer, geometry: Geometry, reserve: Reserve
) -> Iterator[tuple[str, World]]:
    """Yield the name and the world of each experiment, with the table of one that chooses."""
    for each in experiments:
        windows, rng = reserve.windows(each.name), np.random.default_rng(0)
        shape, ids = (len(windows), geometry.length), tokenizer.reserved_ids.start
        read = functools.partial(rng.integers, 1, ids, shape, np.int32)
        documents = reserve.run[windows]
        world = World(0, each.name, tokenizer, geometry, windows, read, documents)
        if isinstance(each, Canaries):
            tokens = world.reserve_NxL
            choices = each.choose(world, LeastLikely(rng))
            world = dataclasses.replace(world, reserve=lambda t=tokens: t, choices=choices)
        yield each.name, world


def plan(
    experiments: Sequence[Experiment],
    tokenizer: Tokenizer,
    geometry: Geometry,
    folder: pathlib.Path,
    windows: int = RESERVE,
    validation: int = 0,
) -> Edits:
    """Compile the plan of experiments that need no corpus, into an empty folder."""
    needs: dict[str, Sequence[int]] = {}
    for each in experiments:
        sizes = each.reserve_windows(geometry)
        needs[each.name] = [sizes] if isinstance(sizes, int) else [*sizes]
    reserve = deal_reserve(np.arange(windows), validation, needs, np.empty(0, np.int64), 0)
    known = dict(worlds(experiments, tokenizer, geometry, reserve))
    given = intervene(experiments, known)
    return compile_plan(given, geometry, tokenizer.vocab_size, {"seed": 0}, folder=folder)


def shares(made: Edits, geometry: Geometry) -> Mapping[str, Mapping[str, float]]:
    """Return edits, tokens and share of training of each experiment, and of all together."""
    arms = pd.DataFrame(made.arms)
    arms["experiment"] = arms["name"].str.partition("/")[0]
    found = arms.groupby("experiment")[["edits", "tokens"]].sum()
    found.loc["all"] = found.sum()
    total = geometry.sequences * geometry.length
    return found.assign(share=found["tokens"] / total).to_dict("index")


def main(argv: Sequence[str]) -> None:
    del argv
    memory = Memory()
    memory.start()
    started = time.perf_counter()
    study, _ = config.load([pathlib.Path(path) for path in flags.FLAGS.gin_file])
    path = pathlib.Path(_TOKENIZER.value)
    tokenizer = ExistingTokenizer(str(path)).load(path)
    replaced = Rehearsal(
        "replaced",
        groups={"rows": (_REPLACED.value, 1)},
        kind="window",
        occurrences=_REPLACED.value + _REPLACED.value // 20,
    )
    experiments = [*study.experiments, *([replaced] if _REPLACED.value else [])]
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        made = plan(
            experiments, tokenizer, study.geometry, folder, validation=study.validation_sequences
        )
        seconds = time.perf_counter() - started
        memory.stop()
        result = {
            "seconds": seconds,
            "cpu_seconds": time.process_time(),
            "peak_rss_gib": memory.peak,
            "disk_gib": sum(p.stat().st_size for p in folder.rglob("*")) / 2**30,
            "experiments": shares(made, study.geometry),
        }
    print(json.dumps(result, default=float))


if __name__ == "__main__":
    flags.FLAGS.set_default("workdir", "")
    app.run(main)
