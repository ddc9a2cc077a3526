"""What planning costs at the scale of the paper's run: python -m tests.performance.plan

Prints one JSON line. The experiments are the shapes of configs/plans/paper.gin, and one of places
that it has none of; the reserve's windows are numbers, no corpus is read. `seconds` is from the
start of this process until the plan is written and hashed; `peak_rss_gib` the most anonymous memory
(pages of files are not a process's own); `cpu_seconds` of all threads, which other work on the
machine hardly changes. --edits=N plans N edits of one simple shape instead.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time

import numpy as np
from absl import app, flags

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import World
from ttoaa.experiments.rehearsal import Rehearsal
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.items import Intervention, Items
from ttoaa.planning.placement import Explicit, Stratified
from ttoaa.planning.plan import Plan
from ttoaa.planning.reserve import deal_reserve
from ttoaa.planning.store import store
from ttoaa.workdir import unfinished_folder

_EDITS = flags.DEFINE_integer("edits", 0, "so many of one shape; 0: the paper's plan", 0)
_RATIO_EDITS = flags.DEFINE_integer("ratio_edits", 5_000_000, "of 10 and of 1,000 experiments")
_ROUNDS = flags.DEFINE_integer("rounds", 2, "of these two, by turns; the least counts", 1)
_SCALE = flags.DEFINE_float("scale", 1.0, "of the paper's items and steps: small for a test")
flags.FLAGS.set_default("workdir", "")  # of the commands' flags, of no use here
_SCRATCH = flags.DEFINE_string("scratch", None, "where the plan is written; then it is deleted")

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
GEOMETRY = Geometry(length=4096, batch=512, steps=100_000)
RESERVE = 5_000_000  # windows
AT_ONCE = 1 << 20
COUNTS = (10, 1000)


def lived() -> float:
    """Seconds since this process began, imports included; Linux tells it to a hundredth."""
    fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


class Tokenizer:
    """As much of one as a rehearsal asks for."""

    vocab_size = 100_352


class Memory(threading.Thread):
    """The most anonymous memory that this process has had, in GiB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self._over = 0.0, threading.Event()

    def run(self):
        while not self._over.wait(0.02):
            self.look()

    def look(self):
        with open("/proc/self/status") as file:
            (line,) = (line for line in file if line.startswith("RssAnon"))
        self.peak = max(self.peak, int(line.split()[1]) / 2**20)

    def stop(self):
        self.look()
        self._over.set()


@dataclasses.dataclass(frozen=True)
class Told(Rehearsal):
    """Places that are told, and one copy for each tenth of training."""

    def intervene(self, world):
        places = world.rng("rows").permutation(world.geometry.sequences // 1000)
        rows = 1000 * places[: len(self.groups)]
        rows = rows[rows // world.geometry.batch % 1000 % 500 > 0]  # no whole batch
        ids = [f"explicit-{k}" for k in range(len(rows))]
        yield Items(ids, "explicit", 1, marks=1, placement=Explicit(rows, 4095))
        ids = [f"tenths-{k}" for k in range(len(rows))]
        yield Items(ids, "tenths", 10, slots=50, placement=Stratified(10))


def paper(scale):
    """(experiments, geometry) of the config; with a scale, less of all."""
    study, _ = config.load([CONFIGS / "paper.gin", CONFIGS / "plans" / "paper.gin"])
    told = Told("told", groups={f"{k}": (1, 1) for k in range(int(10_000 * scale))})
    if scale == 1:
        return [*study.experiments, told], study.geometry

    def less(n):
        return max(1, int(n * scale))

    changed = []
    for each in study.experiments:
        groups = {name: (less(n), r) for name, (n, r) in each.groups.items()}
        if each.kind == "slot":  # a multiple of the 100 intervals
            groups = {name: (n, 100 * less(r // 100)) for name, (n, r) in each.groups.items()}
        occurrences = less(each.occurrences) if each.occurrences else 0
        changed.append(dataclasses.replace(each, groups=groups, occurrences=occurrences))
    return [*changed, told], study.geometry


def alike(count, edits, repetitions=3):
    """`count` experiments of texts of 16 to 255 tokens, of so many edits in all."""
    each = max(1, edits // count // repetitions)
    shape = {"groups": {"text": (each, repetitions)}, "lengths": (16, 255)}
    return [Rehearsal(f"experiment-{k:04d}", **shape) for k in range(count)]


def interventions(experiments, geometry, ended):
    """What they do; `ended` takes the time when the last item has been read."""
    needs = {e.name: [e.reserve_windows(geometry)] for e in experiments}
    reserve = deal_reserve(np.arange(RESERVE), 0, needs, np.empty(0, np.int64), 0)
    windows = {name: reserve.windows(name) for name in needs}

    def items(experiment):
        world = World(0, experiment.name, Tokenizer(), geometry, windows[experiment.name], np.empty)
        yield from experiment.intervene(world)
        ended.append(time.perf_counter())

    return {e.name: Intervention(items(e), windows[e.name]) for e in experiments}


def make(experiments, geometry, folder):
    """(edits, seconds by phase) of a plan in a new folder."""
    times, ended = [time.perf_counter()], []
    given = interventions(experiments, geometry, ended)
    times.append(time.perf_counter())
    with unfinished_folder(folder) as made:
        plan = compile_plan(
            given, geometry, Tokenizer.vocab_size, {"seed": 0}, folder=made, at_once=AT_ONCE
        )
        times += [ended[-1], time.perf_counter()]
        store(plan, folder, {})
    times.append(time.perf_counter())
    names = ("reserve", "items", "place", "store")
    seconds = dict(zip(names, np.diff(times).tolist(), strict=True))
    return sum(arm["edits"] for arm in plan.arms), seconds


def look_up(plan, count=2_000, parts=10):
    """Microseconds for one random row alone, and for each row of a random batch.

    The least of ten means, each over other rows: less of what else the machine does.
    """
    rng, geometry = np.random.default_rng(1), plan.geometry
    position, alone, batches = plan.columns["position"], [], []
    plan.of_row(0)
    for _ in range(parts):
        rows = rng.integers(0, geometry.sequences, count).tolist()
        started = time.perf_counter()
        for row in rows:
            plan.of_row(row)
        alone.append((time.perf_counter() - started) / count)
        first = rng.integers(0, geometry.steps, count // 10) * geometry.batch
        asked = [np.arange(p, p + geometry.batch) for p in first.tolist()]
        started = time.perf_counter()
        for rows in asked:
            edits = plan.between(int(rows[0]), int(rows[-1]) + 1)
            rows.searchsorted(position[edits])
        batches.append((time.perf_counter() - started) / len(asked) / geometry.batch)
    return 1e6 * min(alone), 1e6 * min(batches)


def named(plan, count=200):
    """Milliseconds to name an edit's item, and to find an item's edits."""
    edits = np.random.default_rng(2).integers(0, len(plan.columns["item"]), count)
    started = time.perf_counter()
    who = [plan.names(plan.columns["item"][e : e + 1])[0] for e in edits.tolist()]
    between = time.perf_counter()
    found = [plan.find(name, experiment) for experiment, name in who]
    ended = time.perf_counter()
    assert all(edit in edits for edit, edits in zip(edits, found, strict=True))
    return 1e3 * (between - started) / count, 1e3 * (ended - between) / count


def ratio(folder, edits, rounds):
    """Time of 1,000 experiments by that of 10, at equal edits."""
    few, many = COUNTS
    least = {few: np.inf, many: np.inf}
    for number in range(rounds):
        for count in least:
            _, seconds = make(alike(count, edits), GEOMETRY, folder / f"{count}-{number}")
            least[count] = min(least[count], sum(seconds.values()))
            shutil.rmtree(folder / f"{count}-{number}")
    return least[many] / least[few]


def main(argv):
    del argv
    memory = Memory()
    memory.start()
    with tempfile.TemporaryDirectory(dir=_SCRATCH.value) as scratch:
        folder = pathlib.Path(scratch)
        if _EDITS.value:
            experiments, geometry = alike(10, _EDITS.value, 25), GEOMETRY
        else:
            experiments, geometry = paper(_SCALE.value)
        loaded = lived()
        edits, phases = make(experiments, geometry, folder / "plan")
        seconds, cpu = lived(), time.process_time()
        memory.stop()
        started = time.perf_counter()
        plan = Plan.open(folder / "plan")
        opened = time.perf_counter() - started
        lookup, batch = look_up(plan)
        naming, finding = named(plan)
        result = {
            "edits": edits,
            "edited_tokens": sum(arm["tokens"] for arm in plan.arms),
            "sequences": geometry.sequences,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "phases": {"import": loaded, **phases},
            "open_seconds": opened,
            "peak_rss_gib": memory.peak,
            "lookup_us": lookup,
            "lookup_batch_us_per_row": batch,
            "name_ms": naming,
            "find_ms": finding,
            "disk_gib": sum(p.stat().st_size for p in plan.folder.rglob("*")) / 2**30,
        }
        del plan
        shutil.rmtree(folder / "plan")
        if _RATIO_EDITS.value:
            times = ratio(folder, _RATIO_EDITS.value, _ROUNDS.value)
            result["thousand_experiments_ratio"] = times
    print(json.dumps(result, default=float))


if __name__ == "__main__":
    app.run(main)
