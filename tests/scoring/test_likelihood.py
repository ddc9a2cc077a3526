import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import studies
from model import reference
from scoring import on_devices, tiny
from scoring.tiny import MODEL, same

from ttoaa.model.compute_config import Execution
from ttoaa.scoring import length_buckets, likelihood
from ttoaa.scoring.length_buckets import Passes
from ttoaa.scoring.likelihood import (
    log_likelihoods,
    row_losses,
    score_requests,
    stream_scores,
    token_log_probs,
)


@pytest.fixture(scope="module")
def params():
    return tiny.params()


@pytest.fixture(scope="module")
def requests():
    return tiny.requests()


@pytest.fixture(scope="module")
def scores(params, requests):
    return log_likelihoods(MODEL, params, requests)


def test_scores_are_those_of_a_plain_olmo2(params, requests):
    for request, (log_probs, greedy) in zip(
        requests, score_requests(MODEL, params, requests), strict=True
    ):
        exact, best = tiny.expected(params, request)
        assert (log_probs.dtype, greedy.dtype) == (np.float32, bool)
        np.testing.assert_allclose(log_probs, exact, atol=1e-5)
        np.testing.assert_array_equal(greedy, best)


def test_greedy_knows_the_model_s_own_choice(params, requests):
    """Every token the argmax of float64, then one that is not."""
    tokens = requests[2][0].copy()
    for i in range(1, len(tokens)):
        tokens[i] = reference.logits(MODEL, params, tokens[None, :i])[0, -1].argmax()
    spoiled = tokens.copy()
    spoiled[20] = (spoiled[20] + 1) % MODEL.vocab_size
    own, other = score_requests(MODEL, params, [(tokens, 1), (spoiled, 1)])
    assert own.greedy.all() and other.greedy[:19].all() and not other.greedy[19]


def test_of_equal_logits_the_first_is_greedy(params):
    headless = {**params, "head": np.zeros_like(params["head"])}
    ((log_probs, greedy),) = score_requests(MODEL, headless, [(np.array([3, 0, 1, 0, 40]), 1)])
    np.testing.assert_allclose(log_probs, -np.log(42), rtol=1e-6)
    assert greedy.tolist() == [True, False, True, False]


def test_a_later_start_gives_the_end_of_the_same_scores(params, requests):
    """The head is computed for 32 positions or for all: within one of the two, to the bit."""
    tokens, _ = requests[5]
    whole, half, rest, end = log_likelihoods(MODEL, params, [(tokens, n) for n in (1, 10, 40, 63)])
    np.testing.assert_array_equal(whole[9:], half)
    np.testing.assert_array_equal(rest[23:], end)
    np.testing.assert_allclose(whole[39:], rest, atol=1e-5)


def test_the_order_changes_no_bit(params, requests, scores):
    order = np.random.default_rng(2).permutation(len(requests))
    shuffled = log_likelihoods(MODEL, params, [requests[i] for i in order])
    assert all(same(shuffled, [scores[i] for i in order]))


def test_an_item_alone_has_the_same_bits(params, requests, scores):
    alone = [log_likelihoods(MODEL, params, [request])[0] for request in requests]
    assert all(same(alone, scores))


def test_other_neighbours_change_no_bit(params, requests, scores):
    """One against 64 more of mixed lengths, before and after."""
    rng = np.random.default_rng(3)
    crowd = [
        (rng.integers(0, MODEL.vocab_size, n), int(rng.integers(1, n)))
        for n in rng.integers(2, 97, 64)
    ]
    mixed = log_likelihoods(MODEL, params, [*crowd[:31], *requests, *crowd[31:]])
    assert all(same(mixed[31:-33], scores))


@pytest.mark.parametrize("filler", [1, MODEL.vocab_size - 1])
def test_what_pads_a_row_changes_no_bit(params, requests, scores, filler, monkeypatch):
    """Padding stands after the tokens, where causal attention does not look."""
    made = length_buckets._pass

    def other(*arguments):
        one = made(*arguments)
        for row, number in enumerate(one.members):
            one.tokens_RxL[row, len(requests[number][0]) :] = filler
        one.tokens_RxL[len(one.members) :] = filler
        return one

    monkeypatch.setattr(length_buckets, "_pass", other)
    assert all(same(log_likelihoods(MODEL, params, requests), scores))


@pytest.mark.parametrize("passes", [Passes(rows=3), Passes(step=48)])
def test_other_shapes_change_the_last_bits_at_most(params, requests, scores, passes):
    found = log_likelihoods(MODEL, params, requests[:4], passes)
    for one, other in zip(found, scores, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("window", [1, 5])
def test_a_stream_is_read_and_answered_bit_by_bit(params, requests, scores, window):
    read = []

    def source():
        for number, request in enumerate(requests):
            read.append(number)
            yield request

    found = stream_scores(MODEL, params, source(), Passes(window=window))
    first = next(found)
    assert len(read) == window
    assert all(same([each.log_probs for each in (first, *found)], scores))


def test_a_large_vocabulary_is_read_in_pieces(params, requests, scores, monkeypatch):
    monkeypatch.setattr(length_buckets, "_LOGITS", 2 * 8 * MODEL.vocab_size)
    assert length_buckets.head_chunks(2, 32, MODEL.vocab_size) == 4
    likelihood._score.clear_cache()
    for one, other in zip(log_likelihoods(MODEL, params, requests[:4]), scores, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, list])
def test_tokens_of_any_integer_type(params, requests, scores, dtype):
    tokens, start = requests[2]
    given = tokens.tolist() if dtype is list else tokens.astype(dtype)
    assert all(same(log_likelihoods(MODEL, params, [(given, start)]), scores[2:3]))


@pytest.mark.parametrize(("n", "start"), [(5, 0), (5, -1), (5, 5), (5, 6), (1, 1), (0, 1)])
def test_a_request_without_context_or_tokens_is_named(params, requests, n, start):
    bad = (np.ones(n, np.int32), start)
    with pytest.raises(ValueError, match=rf"request 1: start {start} must leave .*of {n} tokens"):
        log_likelihoods(MODEL, params, [requests[0], bad])
    with pytest.raises(ValueError, match=rf"request 1: start {start} must leave"):
        list(stream_scores(MODEL, params, iter([requests[0], bad]), Passes(window=1)))


@pytest.mark.parametrize("token", [-1, MODEL.vocab_size])
def test_a_token_that_the_model_lacks_is_named(params, requests, token):
    bad = (np.array([1, token, 2]), 1)
    with pytest.raises(ValueError, match=f"request 1: token {token} is outside .* of 42"):
        log_likelihoods(MODEL, params, [requests[0], bad])


def test_nothing_to_score_is_fine(params):
    assert log_likelihoods(MODEL, params, []) == []


@pytest.fixture(scope="module")
def on_meshes():
    """{mesh: what it gave}, on 1, 2 and 8 fake devices."""
    done = subprocess.run(
        [sys.executable, "-m", "scoring.on_devices"],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, "XLA_FLAGS": studies.xla_flags(8)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", on_devices.MESHES)
def test_every_mesh_gives_the_same(params, requests, on_meshes, name):
    """Against float64; and on one mesh to the bit, whatever else is scored."""
    told = on_meshes[name]
    asked = [requests[number] for number in on_devices.NUMBERS]
    for request, log_probs, greedy in zip(asked, told["log_probs"], told["greedy"], strict=True):
        exact, best = tiny.expected(params, request)
        np.testing.assert_allclose(log_probs, exact, atol=1e-5)
        assert greedy == best.tolist()
    assert told["again"] == told["log_probs"][:3][::-1]


@pytest.mark.parametrize("name", list(on_devices.MESHES)[1:])
def test_every_mesh_gives_the_same_gradients(on_meshes, name):
    told, one = on_meshes[name], on_meshes["1"]
    for ours, theirs in zip(told["gradients"], one["gradients"], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
    assert told["gradients_again"] == told["gradients"][:3][::-1]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_row_losses_are_mean_losses(params, rows):
    tokens = np.random.default_rng(4).integers(0, MODEL.vocab_size, (rows, 12))
    losses = row_losses(MODEL, params, tokens)
    expected = -reference.log_probs(MODEL, params, tokens).mean(axis=1)
    assert losses.shape == (rows,)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    chunked = row_losses(MODEL, params, tokens, Execution(attention="xla", loss_chunks=3))
    np.testing.assert_allclose(chunked, expected, rtol=1e-5)


def test_chunks_that_do_not_fit_are_an_error(params):
    execution = Execution(attention="xla", loss_chunks=5)
    with pytest.raises(ValueError, match=r"loss_chunks must divide the 12 positions .* not be 5"):
        token_log_probs(MODEL, params, np.ones((2, 12), np.int32), rows=2, execution=execution)


def test_a_row_loss_depends_on_its_row_alone(params):
    tokens = np.random.default_rng(5).integers(0, MODEL.vocab_size, (5, 12))
    losses = row_losses(MODEL, params, tokens)
    for row in range(5):
        assert row_losses(MODEL, params, tokens[row : row + 1]).tobytes() == losses[row].tobytes()
    assert row_losses(MODEL, params, tokens[::-1]).tobytes() == losses[::-1].tobytes()
