"""What the loader gives each host of a step, in any cut of the batch, to be audited.

The command's audit: which batches, loaded on how many hosts, and what is said of them.
"""

import itertools
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning import controller_log
from ttoaa.planning.audit.reference_reader import PlainReader, Share, differences
from ttoaa.planning.injection import Overlay, SlotOverlay
from ttoaa.planning.plan import Plan
from ttoaa.workdir import Workdir


def cuts(batch: int, hosts: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(name, rows of every host): in one piece each, and every n-th row.

    A batch's sharding may cut it either way (see `training.device_feed.local_rows`).
    """
    if not 1 <= hosts <= batch:
        raise ValueError(f"a batch of {batch} rows is cut for 1 to {batch} hosts, not {hosts}")
    rows = np.arange(batch)
    yield "", list(np.array_split(rows, hosts))
    if hosts > 1:
        yield ", strided", [rows[host::hosts] for host in range(hosts)]


def load_shares(
    corpus: Corpus,
    plan: Plan,
    steps: Sequence[int],
    hosts: Sequence[int] = (1,),
    filled: SlotOverlay | None = None,
) -> Iterator[Share]:
    """What the loader gives for these steps to each host of 1, 2, … hosts: step by step.

    With `filled`, after what a run decided for its controllers' slots.
    """
    geometry, order = plan.geometry, Order(**plan.contents["order"])
    shares = [
        (f"host {host} of {count}{how}" if count > 1 else "", rows)
        for count in hosts
        for how, parts in cuts(geometry.batch, count)
        for host, rows in enumerate(parts)
    ]
    overlay = [Overlay(plan, corpus)]
    for step in steps:
        for host, rows in shares:
            loaded = batches(corpus, order, geometry, overlay, rows=rows, start=step, threads=0)
            batch = filled(step, next(loaded)) if filled else next(loaded)
            yield Share(step, rows, batch["tokens"], batch["arms"], host)


_VERIFIED = 1 << 33  # bytes of shards up to which each is hashed: some seconds
_COUNTED = 1_000


def audit(
    workdir: Workdir,
    count: int,
    seed: int,
    steps: Sequence[int] = (),
    hosts: Sequence[int] = (1,),
) -> str:
    """Compares `steps`, or `count` random ones, with what the loader gives on so many hosts.

    Where a run has begun that has controllers, both sides fill the slots that it decided on.

    Returns what a person is told. Raises ValueError, naming the first difference, where there is
    one, and for a plan or a corpus that is damaged.
    """
    plan = Plan.open(workdir.plan)
    corpus, left_out = _opened(workdir, plan)
    geometry, run = plan.geometry, workdir.run("run")
    controlled = (run / controller_log.SLOT_TEXTS_FOLDER / "index.json").exists()
    reader = PlainReader(workdir.corpus, workdir.plan, run if controlled else None)
    filled = _filled(plan, run) if controlled else None
    stop = min(reader.decided, geometry.steps)
    if not stop:
        raise ValueError(f"{run} has decided nothing yet, so that no batch of it can be audited")
    if not steps and count < 1:
        raise ValueError(f"--audit compares at least 1 batch, not {count}")
    if any(step >= stop for step in steps):
        why = " has decided so far on" if stop < geometry.steps else " has"
        raise ValueError(f"the run{why} the steps 0 to {stop - 1}, not {max(steps)}")
    chosen = list(steps)
    if not steps:
        chosen = sorted(np.random.default_rng(seed).permutation(stop)[:count].tolist())
    shares = load_shares(corpus, plan, chosen, hosts, filled)
    found = list(itertools.islice(differences(reader, shares), _COUNTED))
    if found:
        many = f"{_COUNTED:,} or more" if len(found) == _COUNTED else f"{len(found):,}"
        raise ValueError(f"the audit found {many} differences; first: {found[0]}")
    where = "" if tuple(hosts) == (1,) else f" as each of {', '.join(map(str, hosts))} hosts"
    tokens = len(chosen) * geometry.batch * geometry.length
    return (
        f"{len(chosen)} batches ({tokens:,} tokens and arms) audited{where}, "
        f"{'with what the run decided, ' if controlled else ''}no difference{left_out}"
    )


def _filled(plan: Plan, run: pathlib.Path) -> SlotOverlay:
    """The transform that follows the loader in a run with controllers, after all it decided."""
    filled = SlotOverlay(
        plan, controller_log.load_slot_texts(run / controller_log.SLOT_TEXTS_FOLDER)
    )
    filled.begin(0)
    filled.replay(controller_log.read_log(run / controller_log.LOG_NAME))
    return filled


def _opened(workdir: Workdir, plan: Plan) -> tuple[Corpus, str]:
    """The plan's corpus, and what has to be said of it: a very large one is not hashed."""
    corpus = Corpus.open(workdir.corpus, verify=False)
    if corpus.fingerprint != plan.contents["corpus"]:
        raise ValueError(f"{plan.folder} was made for another corpus than {corpus.folder}")
    width = np.dtype(corpus.manifest.dtype).itemsize
    if sum(shard.tokens for shard in corpus.manifest.shards) * width > _VERIFIED:
        return corpus, " (the corpus is large: its shards were not hashed)"
    return Corpus.open(workdir.corpus), ""
