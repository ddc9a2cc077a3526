"""What the loader gives each host of a step, in any cut of the batch, to be audited."""

from collections.abc import Iterator, Sequence

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning.audit import Share
from ttoaa.planning.filled import Filled
from ttoaa.planning.overlay import Overlay
from ttoaa.planning.plan import Plan


def cuts(batch: int, hosts: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(name, rows of every host): in one piece each, and every n-th row.

    A batch's sharding may cut it either way (see `training.feed.local_rows`).
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
    filled: Filled | None = None,
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
