"""A fuzzer of configs: python -m tests.config_mutations 3000 prints what became of each kind.

One binding of the quickstart is changed at random. The config must be loaded, or refused in one
line that names the field. Where training uses the field, a tiny model takes a few steps with it:
loss and weights must stay finite, and the weights must move.
"""

import argparse
import ast
import collections
import json
import pathlib
import random
import re

import jax
import numpy as np

from ttoaa import config
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.training.step import CompiledStep

QUICKSTART = pathlib.Path(__file__).parents[1] / "configs/quickstart.gin"
TINY = (
    "Geometry.length = 16", "Geometry.batch = 4", "Geometry.steps = 100", "Forgetting.at = (0.3,)",
    "DecoderConfig.vocab_size = 64", "DecoderConfig.layers = 1", "DecoderConfig.width = 16",
    "DecoderConfig.hidden = 32",
)  # fmt: skip
TRAINED = ("AdamW", "ConstantLinear", "DecoderConfig", "Training", "Guard", "Execution", "Geometry")
LARGEST = {"Geometry.length": 256, "Geometry.batch": 64, "DecoderConfig.layers": 4}
LARGEST |= dict.fromkeys(("DecoderConfig.width", "DecoderConfig.hidden"), 512)
STEPS = 12
VALUES = (
    0, 1, -1, 2, 3, 7, 100, 128, 10**6, 2**31, 2**63, 10**400, 0.0, 0.5, 1.0, 1.5, -0.5, -1e-9,
    1e-9, 1e-30, 1e-40, 1e30, 1e300, "", "60", "0.1", "x", "full", None, True, False, [], (), {},
    [0], [1], [1, 1], (0, 1), ["a"], [[1]], [None], (-1, 2), ((0, 1), (2, 3)), {"a": 1}, [0.5, 2.5],
)  # fmt: skip
REFERENCES = ("@Geometry()", "@Geometry", "@Nothing()", "%nothing", "@Cosine()", "@AdamW()", "nan")
REFERENCES += ("inf", "1e", "'", "1e999", "-1e999", "@Uniform()", "[@LossAttack]", "[@Never()]")


def bindings():
    """{name: value as gin writes it} of the resolved quickstart."""
    _, text = config.load([QUICKSTART])
    found = re.findall(r"^([A-Z]\w+\.\w+) = (.*(?:\n +.*)*)", text, re.MULTILINE)
    return {name: value.lstrip("\\\n ") for name, value in found}


def mutated(value, rng):
    """Return another value for a binding, as gin writes it."""
    try:
        before = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        before = None
    near = []
    if isinstance(before, int | float) and not isinstance(before, bool):
        near = [-before, before * 2, before / 2, before + 1, before - 1, str(before), [before]]
        near += [before * 1000, float(before)]
    elif isinstance(before, list | tuple) and before:
        k = rng.randrange(len(before))
        near = [before[:k], before + before, before[0], [*before[:k], rng.choice(VALUES)]]
    elif isinstance(before, str):
        near = [before + "x", before.upper(), [before], before[:1]]
    options = [near, VALUES, REFERENCES]
    chosen = rng.choice([each for each in options if each])
    picked = rng.choice(chosen)
    return picked if chosen is REFERENCES else repr(picked)


def load(name, value):
    """Return (study, None), or (None, the message of the refusal)."""
    try:
        return config.load([QUICKSTART], [f"{name} = {value}"])[0], None
    except ValueError as error:
        return None, str(error)
    except Exception as error:
        return None, f"traceback of {error!r}"


def fault_of(message, name, value):
    """Return what is wrong with the message of a refusal, '' if nothing is.

    It must name the field or its class; what gin cannot parse or find may be named instead, or its
    line.
    """
    if "\n" in message or not message.startswith("bad config: "):
        return "not one line"
    if re.match(r"bad config: \w+Error: ", message):
        return "internal error"
    kind, field = name.split(".")
    names = [f"{kind}.{field}", field, f"{kind.lower()}: ", "line 1)", *re.findall(r"\w+", value)]
    return "" if any(each in message for each in names) else "unnamed"


def fault_of_training(name, value):
    """Train a tiny model with the value; return what is wrong, '' if nothing is, None if unfit."""
    if name in LARGEST and ast.literal_eval(value) > LARGEST[name]:
        return None
    others = [line for line in TINY if not line.startswith(f"{name} ")]
    try:
        study = config.load([QUICKSTART], [*others, f"{name} = {value}"])[0]
        mesh = make_mesh(Layout())
        program = CompiledStep(study.model, study.training, study.geometry, study.execution, mesh)
        state, step = program.init(0), program.compile()
    except ValueError:
        return None  # does not fit the tiny model, or this machine
    before = jax.tree.map(np.array, state["params"])
    rng, losses = np.random.default_rng(0), []
    rows = rng.integers(0, study.model.vocab_size, (study.geometry.batch, study.geometry.length))
    trained = np.ones(len(rows), bool)
    for _ in range(STEPS):
        tokens = rows.astype(np.int32)
        state, found = step(
            state, {"tokens": tokens, "arms": np.zeros_like(tokens), "trained": trained}
        )
        losses.append(float(found["loss"]))
    if not np.isfinite(losses).all():
        return f"losses {losses}"
    after = jax.tree.map(np.array, state["params"])
    pairs = list(zip(*(jax.tree.leaves(each) for each in (before, after)), strict=True))
    if not all(np.isfinite(new).all() for _, new in pairs):
        return "weights not finite"
    if not any((old != new).any() for old, new in pairs):
        return "no weight moved"
    return ""


def run(tries, seed=0, train_share=1.0):
    """Return ({outcome: count}, [faults])."""
    rng, known = random.Random(seed), bindings()
    counts, faults = collections.Counter(), []
    for _ in range(tries):
        name = rng.choice(sorted(known))
        value = mutated(known[name], rng)
        study, message = load(name, value)
        counts["tries"] += 1
        if study is None:
            fault = fault_of(message, name, value)
            counts["refused" if not fault else f"refused, {fault}"] += 1
            if fault:
                faults.append(f"{name} = {value}: {message}")
            continue
        counts["accepted"] += 1
        if name.split(".")[0] in TRAINED and rng.random() < train_share:
            wrong = fault_of_training(name, value)
            counts["trained" if wrong is not None else "not trained: does not fit"] += 1
            if wrong:
                counts["accepted and wrong"] += 1
                faults.append(f"{name} = {value}: {wrong}")
    return counts, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tries", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts, faults = run(given.tries, given.seed)
    print(*faults, sep="\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
