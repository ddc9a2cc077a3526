"""Batches composed by plain NumPy from files and the provenance table, and their hashes.

The edits come from the provenance and item tables, which the loader never reads.
"""

import hashlib

import numpy as np
import pandas as pd

# A host as a process of its own: corpus, plan, first and last row, options; an .npz to stdout.
HOST = """
import json, sys
import numpy as np
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning.injection import Overlay
from ttoaa.planning.plan import Plan

corpus, plan, first, last, options = sys.argv[1:]
corpus, plan = Corpus.open(corpus), Plan.open(plan)
order = Order(**plan.contents["order"])
overlay = [Overlay(plan, corpus)]
rows = range(int(first), int(last))
share = list(batches(corpus, order, plan.geometry, overlay, rows=rows, **json.loads(options)))
names = ("tokens", "arms", "position")
np.savez(sys.stdout.buffer, **{name: np.stack([batch[name] for batch in share]) for name in names})
"""


def compose(train, reserve, windows, plan):
    """(tokens, arms) int[steps, B, L] of the run.

    train, reserve: all windows of these splits; windows: that of every position.
    """
    geometry = plan.geometry
    shape = geometry.steps, geometry.batch, geometry.length
    tokens = train[windows].reshape(shape).astype(np.int32)
    arms = np.zeros(shape, np.uint16)
    arm_id = {arm["name"]: arm["id"] for arm in plan.arms}
    texts = {
        (name, item.id): item.tokens
        for name in plan.contents["experiments"]
        for item in plan.items(name).itertuples()
    }
    for edit in pd.read_parquet(plan.folder / "provenance.parquet").itertuples():
        span = slice(edit.offset, edit.offset + edit.length)
        text = texts[edit.experiment, edit.item]
        new = reserve[edit.reserve_window] if edit.reserve_window >= 0 else text
        tokens[edit.step, edit.row, span] = new
        arms[edit.step, edit.row, span] = arm_id[edit.arm]
    return tokens, arms


def digest(tokens, arms, position):
    parts = (tokens.astype("<i4"), arms.astype("<u2"), position.astype("<i8"))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def digests(tokens, arms):
    """Of every step, with the positions that its rows have."""
    steps, batch = tokens.shape[:2]
    position = np.arange(steps * batch).reshape(steps, batch)
    return [digest(*step) for step in zip(tokens, arms, position, strict=True)]


def hashes(hosts):
    """A hash for each step of the batches that the hosts' shares make, joined by rows.

    What several hosts load must be the same for each of them.
    """
    out = []
    for shares in zip(*hosts, strict=True):
        assert len({share["step"] for share in shares}) == 1
        names = ("tokens", "arms", "position")
        joined = [np.concatenate([share[name] for share in shares]) for name in names]
        first, group = np.unique(joined[2], return_index=True, return_inverse=True)[1:]
        for values in joined:
            np.testing.assert_array_equal(values, values[first][group])
        out.append(digest(*(values[first] for values in joined)))
    return out
