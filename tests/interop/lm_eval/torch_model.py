"""A tiny checkpoint for the adapter to lm-evaluation-harness, and what it is to answer."""

import types

import jax
import numpy as np
from model import reference

from ttoaa.data.geometry import Geometry
from ttoaa.identity import identity
from ttoaa.model.decoder import DecoderConfig, abstract_params
from ttoaa.training.checkpoints import CheckpointWriter

CONFIG = DecoderConfig(vocab_size=330, layers=1, width=16, heads=2, hidden=24)
LENGTH = 16
TEXT = "the river runs down to a quiet sea and every boat upon it carries grain or salt"


def loud_params():
    """Loud weights, so that no two tokens are nearly as likely."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(leaf.ndim == 1, leaf.shape[0] ** -0.5, leaf.shape).astype("f4"),
        abstract_params(CONFIG),
    )


def write_checkpoints(workdir, params):
    """Steps 3 and 7 of a run; the older one's weights are others."""
    made_of = identity(model=CONFIG, geometry=Geometry(LENGTH, 8, 7))
    writer = CheckpointWriter(workdir.run("run") / "checkpoints")
    for step, scale in ((3, 0.5), (7, 1.0)):
        tree = jax.tree.map(lambda leaf, scale=scale: leaf * scale, params)
        writer.save(step, tree, None, {"step": step, "identity": made_of})
    writer.finish()


def asked(*arguments):
    return [types.SimpleNamespace(args=each) for each in arguments]


def expected(params, tokens, start):
    """(log-likelihood of tokens[start:], whether each is the likeliest)."""
    log_probs = reference.log_probs(CONFIG, params, [tokens])[0, start - 1 :]
    likeliest = reference.logits(CONFIG, params, [tokens])[0, start - 1 : -1].argmax(-1)
    return log_probs.sum(), (likeliest == tokens[start:]).all()


def greedy(params, tokens, count):
    """The next tokens by forward passes of the reference."""
    grown = list(tokens)
    for _ in range(count):
        grown.append(int(reference.logits(CONFIG, params, [grown])[0, -1].argmax()))
    return grown[len(tokens) :]
