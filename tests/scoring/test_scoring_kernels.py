"""Which kernel computes attention while scoring, and that scores stay what they are."""

import dataclasses
import functools

import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from scoring import tiny
from scoring.tiny import MODEL, same

from ttoaa.model.compute_config import PLAIN
from ttoaa.scoring import length_buckets, likelihood
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.length_buckets import Passes, execution_of
from ttoaa.scoring.likelihood import log_likelihoods, stream_scores, vocabulary_moments

PASSES = Passes(rows=2)
PRIMITIVES = {
    "likelihood": log_likelihoods,
    "gradients": embedding_gradients,
    "moments": lambda *told: [np.stack(each) for each in vocabulary_moments(*told)],
}


@pytest.mark.parametrize(
    ("platform", "dtype", "length", "heads", "kernel"),
    [
        ("cpu", "bfloat16", 4096, 16, "xla"),
        ("tpu", "bfloat16", 4096, 16, "splash"),
        ("tpu", "float32", 4096, 16, "splash"),
        ("tpu", "bfloat16", 160, 16, "xla"),
        ("tpu", "bfloat16", 4096, 8, "xla"),
        ("gpu", "bfloat16", 4096, 16, "cudnn"),
        ("gpu", "float32", 4096, 16, "xla"),
        ("gpu", "bfloat16", 4096, 8, "xla"),
    ],
)
def test_the_platform_s_kernel_where_it_can(platform, dtype, length, heads, kernel):
    model = dataclasses.replace(MODEL, width=2048, heads=heads, kv_heads=None, dtype=dtype)
    assert execution_of(model, length, platform) == dataclasses.replace(PLAIN, attention=kernel)


@pytest.fixture
def splashed(monkeypatch):
    """As on a TPU, its kernel interpreted; the lengths that it was made for."""
    make, lengths = splash.make_splash_mha, []

    def interpreted(mask, **more):
        lengths.append(mask.shape[-1])
        return make(mask, interpret=True, **more)

    monkeypatch.setattr(splash, "make_splash_mha", interpreted)
    monkeypatch.setattr(length_buckets.jax, "default_backend", lambda: "tpu")
    return lengths


@pytest.mark.parametrize("name", PRIMITIVES)
def test_splash_gives_the_same_and_no_neighbour_changes_a_bit(name, splashed, monkeypatch):
    primitive = functools.partial(PRIMITIVES[name], MODEL, tiny.params())
    rng = np.random.default_rng(5)
    lengths = ((128, 3), (100, 60), (20, 1))
    requests = [(rng.integers(0, MODEL.vocab_size, n), start) for n, start in lengths]
    found = primitive(requests, PASSES)
    assert set(splashed) == {128}
    assert all(same(primitive(requests[::-1], PASSES)[::-1], found))
    assert same(primitive(requests[1:2], PASSES), found[1:2])[0]
    monkeypatch.undo()
    for ours, theirs in zip(found, primitive(requests, PASSES), strict=True):
        # Gradients reach 20 and more: rounding grows with the largest term of a sum.
        np.testing.assert_allclose(ours, theirs, atol=3e-6 * np.abs(theirs).max())


def test_what_is_lowered_ahead_is_what_a_stream_calls(monkeypatch):
    called, score = [], likelihood._score

    class Recorded:
        def __call__(self, *told):
            called.append(told)
            return score(*told)

        def lower(self, *told):
            called.append(told)

    monkeypatch.setattr(likelihood, "_score", Recorded())
    params = tiny.params()
    list(stream_scores(MODEL, params, [(np.ones(64, np.int32), 1)]))
    assert likelihood.lower_scoring(MODEL, params, 64, "cpu").rows == 8
    one, other = ([getattr(a, "shape", a) for a in told[2:]] for told in called)
    assert one == other
