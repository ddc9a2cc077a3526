"""Time to plan a run of the paper's shape: python -m tests.benchmarks.plan --edits=5000000

Prints one JSON line. 51.2 million sequences of 4,096 tokens; every text is inserted `repetitions`
times. `place` is the occupancy alone, `compile` all from items to columns (it contains another
`place`), `hash` the content hash.
"""

import json
import resource
import time

import numpy as np
from absl import app, flags

from ttoaa.data.geometry import Geometry
from ttoaa.data.order import mix64
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.items import Intervention, Item
from ttoaa.planning.occupancy import Requests, place

_EDITS = flags.DEFINE_integer("edits", 5_000_000, "edits of the plan", 1)
_REPETITIONS = flags.DEFINE_integer("repetitions", 10, "edits of an item", 1)
_COMPILE = flags.DEFINE_bool("compile", True, "time the compiler too, not the occupancy alone")

GEOMETRY = Geometry(length=4096, batch=512, steps=100_000)
VOCAB_SIZE = 100_352


def make_items(count):
    """Texts of 16 to 255 tokens, in 50 conditions."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(16, 256, count)
    texts = np.split(rng.integers(0, VOCAB_SIZE, sizes.sum(), np.int32), sizes.cumsum())
    return tuple(Item(str(i), f"c{i % 50}", _REPETITIONS.value, texts[i]) for i in range(count))


def make_requests(count):
    return Requests(
        key=mix64(np.arange(count, dtype=np.uint64)),
        length=np.random.default_rng(0).integers(16, 256, count),
        low=np.zeros(count, np.int64),
        high=np.full(count, GEOMETRY.sequences),
        fixed=np.full(count, -1),
    )


def timed(what, seconds, call):
    started = time.perf_counter()
    result = call()
    seconds[what] = round(time.perf_counter() - started, 2)
    return result


def main(argv):
    del argv
    n, seconds = _EDITS.value, {}
    requests = make_requests(n)
    timed("place", seconds, lambda: place(requests, GEOMETRY.length))
    if _COMPILE.value:
        items = make_items(n // _REPETITIONS.value)
        given = {"synthetic": Intervention(items, np.empty(0, np.int64))}
        identity = {"seed": 0}
        plan = timed(
            "compile", seconds, lambda: compile_plan(given, GEOMETRY, VOCAB_SIZE, identity)
        )
        timed("hash", seconds, lambda: plan.hash)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"edits": n, "sequences": GEOMETRY.sequences, "length": GEOMETRY.length}
    print(json.dumps({**result, "seconds": seconds, "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    app.run(main)
