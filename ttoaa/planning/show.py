"""What batch K holds, for a person at a terminal: each edited span in its experiment's colour."""

import os
import sys

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning.overlay import Overlay
from ttoaa.planning.plan import Plan

_COLOURS = (32, 33, 34, 35, 36, 31, 92, 93, 94, 95, 96, 91)


def show_step(corpus: Corpus, order: Order, plan: Plan, step: int, context: int = 8) -> str:
    """The rows of step `step` that hold edits, with `context` corpus tokens around each."""
    geometry = plan.geometry
    overlay = [Overlay(plan, corpus)]
    batch = next(batches(corpus, order, geometry, overlay, start=step, stop=step + 1, threads=0))
    chosen = plan.between(step * geometry.batch, (step + 1) * geometry.batch)
    edits = {name: column[chosen] for name, column in plan.columns.items()}
    ids = plan.item_ids()
    arms = {arm["id"]: arm for arm in plan.arms}
    colour = {
        name: _COLOURS[number % len(_COLOURS)]
        for number, name in enumerate(plan.contents["experiments"])
    }
    share = float(np.mean(batch["arms"] > 0))
    lines = [f"step {step}: {len(edits['arm'])} edits, {share:.1%} of {batch['arms'].size} tokens"]
    for i in range(len(edits["arm"])):
        arm = arms[int(edits["arm"][i])]
        row = int(edits["position"][i] % geometry.batch)
        first, size = int(edits["offset"][i]), int(edits["length"][i])
        tokens = batch["tokens"][row]
        before = corpus.tokenizer.decode(tokens[max(0, first - context) : first])
        text = corpus.tokenizer.decode(tokens[first : first + size])
        after = corpus.tokenizer.decode(tokens[first + size : first + size + context])
        who = f"{arm['name']}  item {ids['id'][int(edits['item'][i])]}"
        lines.append(
            f"row {row} tokens {first}-{first + size - 1}  {_clean(who)}  "
            f"copy {int(edits['repetition'][i]) + 1}"
        )
        lines.append(
            f"    {_clean(before)}{_paint(_clean(text), colour[arm['experiment']])}{_clean(after)}"
        )
    return "\n".join(lines)


def _clean(text: str) -> str:
    """Text of the corpus may hold anything: control characters must not reach the terminal."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in text)


def _paint(text: str, colour: int) -> str:
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{colour}m{text}\x1b[0m"
    return f"[[{text}]]"
