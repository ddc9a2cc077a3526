"""Tokens a second of the loader alone: python -m tests.performance.loader

A corpus of 2.1 billion uint16 tokens in shards as `ttoaa.prepare` makes them, in random order, rows
of 4,096. Tokens and arms of every row are delivered and summed. On one core (threads=0) take turns:
the loader without experiments, with ten of the paper's shape and density (1.8% of the tokens,
compiled at this geometry), and bare NumPy reads of as many windows, summed alike. Each reads
windows of its own; rates and ratios are of medians over turns, in seconds of this process's CPU
time, so that a busy machine counts less; `wall` are seconds of the clock. The corpus is read once
before: where memory holds it, windows come from the page cache, and no disk is measured. Prints
one JSON line.
"""

import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import app, flags

from ttoaa.data.corpus import MANIFEST, TOKENIZER, Corpus, Manifest, Shard
from ttoaa.data.geometry import Geometry
from ttoaa.data.loader import batches
from ttoaa.data.order import Order, training_order
from ttoaa.data.vocabulary import TrainBPE
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.injection import Overlay
from ttoaa.planning.items import Intervention, Item
from ttoaa.planning.plan import Plan
from ttoaa.planning.store import store

_FOLDER = flags.DEFINE_string("folder", "/tmp/ttoaa-loader", "where corpus and plan are made")
_TOKENS = flags.DEFINE_integer("tokens", 2_100_000_000, "training tokens", 1)
_SHARD = flags.DEFINE_integer("shard_tokens", 8_000_000, "tokens of a shard", 1)
_LENGTH = flags.DEFINE_integer("length", 4096, "tokens of a row", 8)
_BATCH = flags.DEFINE_integer("batch", 512, "rows of a step", 1)
_TURN = flags.DEFINE_integer("turn", 8, "steps of one turn", 1)
_TURNS = flags.DEFINE_integer("turns", 36, "timed turns of each kind", 1)
_KEEP = flags.DEFINE_bool("keep", False, "leave the folder behind")

VOCAB_SIZE, RESERVE_SHARE = 50_304, 16
# The paper's run of 51.2 million sequences (table 1, supplement E): edits, tokens of each, and how
# often an item is repeated. 0 tokens: a window of the reserve; -1: a row that is only marked.
PAPER = {
    "knowledge": (130_000, 200, 1),
    "reasoning": (500_000, 360, 1),
    "contamination": (904_000, 117, 26),
    "canaries": (840_000, 290, 7),
    "verbatim": (268_000, 0, 1),
    "watermark": (51_200, -1, 1),
    "poisoning": (783_000, 300, 1),
    "forgetting": (4_608, 0, 1),
    "muse": (304_000, 500, 37),
    "iid": (366_000, 0, 1),
}


def make_corpus(folder: pathlib.Path) -> Corpus:
    """Shards of pseudo-random tokens; found again if it is there."""
    if not (folder / MANIFEST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = TrainBPE(300, 8).make(["text"])
        (folder / TOKENIZER).write_bytes(content)
        noise = np.random.default_rng(0).integers(1, 1 << 15, _SHARD.value, np.uint16)
        counts = {"train": -(-_TOKENS.value // _SHARD.value)}
        counts["reserve"] = -(-counts["train"] // RESERVE_SHARE)
        shards = [(s, f"{s}-{k:05d}.bin", k) for s, count in counts.items() for k in range(count)]
        for split, name, k in shards:
            (noise + np.uint16(k + 500 * (split == "reserve"))).astype("<u2").tofile(folder / name)
        manifest = Manifest(
            version=1,
            dtype="uint16",
            vocab_size=VOCAB_SIZE,
            vocabulary=hashlib.sha256(content).hexdigest(),
            eos_id=0,
            reserved_ids=(VOCAB_SIZE, VOCAB_SIZE),
            documents={"train": 0, "reserve": 0},
            source="noise",
            text="",
            config={},
            shards=tuple(Shard(name, split, _SHARD.value, 0, "") for split, name, _ in shards),
        )
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return Corpus.open(folder, verify=False)


def make_plan(folder: pathlib.Path, corpus: Corpus, geometry: Geometry) -> Plan:
    rng = np.random.default_rng(1)
    free = rng.permutation(corpus.num_windows("reserve", geometry.length))
    given = {}
    for name, (edits, length, times) in PAPER.items():
        count = max(1, round(edits / times * geometry.sequences / 51_200_000))
        windows, items = free[:0], []
        if length == 0:
            windows, free = free[:count], free[count:]
            items = [Item(str(w), "once", 1, window=int(w)) for w in windows]
        elif length < 0:
            items = [Item(str(k), "once", 1, mark=geometry.length) for k in range(count)]
        else:
            sizes = rng.integers(length // 2, length * 3 // 2, count) * geometry.length // 4096
            texts = [rng.integers(1, VOCAB_SIZE, max(1, size), np.int32) for size in sizes]
            items = [Item(str(k), f"c{k % 5}", times, text) for k, text in enumerate(texts)]
        given[name] = Intervention(tuple(items), windows)
    compiled = compile_plan(given, geometry, VOCAB_SIZE, {"seed": 0})
    shutil.rmtree(folder, ignore_errors=True)
    store(compiled, folder, {})
    return Plan.open(folder)


def checksum(*arrays: np.ndarray) -> int:
    """Reads every byte."""
    return sum(int(np.add.reduce(a.reshape(-1).view(np.uint64))) for a in arrays)


class Bare:
    """Windows straight from NumPy's memory maps: the same in the same places."""

    def __init__(self, corpus: Corpus, order: Order, geometry: Geometry) -> None:
        names = [s.name for s in corpus.manifest.shards if s.split == "train"]
        self.inside, length = _SHARD.value // geometry.length, geometry.length
        shape = self.inside, length
        maps = [np.memmap(corpus.folder / name, "<u2", "r", shape=shape) for name in names]
        self.maps = [np.asarray(m) for m in maps]
        positions = np.arange(geometry.sequences).reshape(geometry.steps, geometry.batch)
        self.shard, self.row = (
            part.tolist() for part in np.divmod(order.windows(positions), self.inside)
        )

    def rows(self, step: int) -> list[np.ndarray]:
        pairs = zip(self.shard[step], self.row[step], strict=True)
        return [self.maps[shard][row] for shard, row in pairs]

    def step(self, step: int) -> int:
        return sum(checksum(row) for row in self.rows(step))


def turns(
    makers: dict[str, Callable[[int], Iterator[int]]], share: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(CPU, wall) seconds of every turn of each kind; each has `share` steps to itself."""
    running = {name: make(k * share) for k, (name, make) in enumerate(makers.items())}
    cpu: dict[str, list[float]] = {name: [] for name in makers}
    wall: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(min(_TURNS.value, share // _TURN.value)):
        for name in makers if turn % 2 else reversed(makers):
            began, started = time.process_time(), time.perf_counter()
            for _ in range(_TURN.value):
                next(running[name])
            cpu[name].append(time.process_time() - began)
            wall[name].append(time.perf_counter() - started)
    return cpu, wall


def main(argv: list[str]) -> None:
    del argv
    folder = pathlib.Path(_FOLDER.value)
    corpus = make_corpus(folder / "corpus")
    length, batch = _LENGTH.value, _BATCH.value
    geometry = Geometry(length, batch, corpus.num_windows("train", length) // batch)
    plan, order = make_plan(folder / "plan", corpus, geometry), training_order(corpus, 0, length)
    bare = Bare(corpus, order, geometry)
    first = next(batches(corpus, order, geometry, threads=0))
    np.testing.assert_array_equal(first["tokens"], np.stack(bare.rows(0)))

    def loader(transforms: list[Overlay], **options: int) -> Callable[[int], Iterator[int]]:
        def sums(start: int) -> Iterator[int]:
            for b in batches(corpus, order, geometry, transforms, start=start, **options):
                yield checksum(b["tokens"], b["arms"])

        return sums

    overlay = [Overlay(plan, corpus)]
    kinds = {"none": loader([], threads=0), "experiments": loader(overlay, threads=0)}
    kinds["bare"] = lambda start: (bare.step(step) for step in range(start, geometry.steps))
    for shard in corpus.manifest.shards:
        np.fromfile(corpus.folder / shard.name, np.uint64).sum()
    cpu, wall = turns(kinds, geometry.steps // len(kinds))
    tokens = _TURN.value * batch * length
    rates = {name: tokens / float(np.median(s)) for name, s in cpu.items()}
    best = {name: tokens / min(s) for name, s in cpu.items()}
    by_wall = {
        f"{n}_wall_million": round(tokens / float(np.median(s)) / 1e6, 1) for n, s in wall.items()
    }
    ahead = {
        f"{name}_{way}s1_million": round(
            elsewhere(loader(t, **{"threads": 0, f"{way}s": 1})) / 1e6, 1
        )
        for way in ("thread", "worker")
        for name, t in (("none", []), ("experiments", overlay))
    }
    result = {
        "tokens_per_second_per_core": round(rates["none"]),
        "experiments_ratio": round(rates["experiments"] / rates["none"], 3),
        "experiments_ratio_of_minima": round(best["experiments"] / best["none"], 3),
        "memmap_ratio": round(rates["none"] / rates["bare"], 3),
        "memmap_ratio_of_minima": round(best["none"] / best["bare"], 3),
        "bare_tokens_per_second": round(rates["bare"]),
        **by_wall,
        **ahead,
        "batch": batch,
        "edits": len(plan.columns["position"]),
        "edited_share": round(sum(a["tokens"] for a in plan.arms) / geometry.tokens, 4),
        "corpus_tokens": corpus.num_windows("train", length) * length,
        "turns": len(cpu["none"]),
    }
    if not _KEEP.value:
        shutil.rmtree(folder)
    print(json.dumps(result))


def elsewhere(make: Callable[[int], Iterator[int]]) -> float:
    """Tokens a second of steps that a thread or a worker loads while the main thread sums."""
    running = make(0)
    for _ in range(_TURN.value):
        next(running)  # they start, and fill their buffer
    steps, started = min(_TURNS.value, 20) * _TURN.value, time.perf_counter()
    for _ in range(steps):
        next(running)
    return steps * _BATCH.value * _LENGTH.value / (time.perf_counter() - started)


if __name__ == "__main__":
    app.run(main)
