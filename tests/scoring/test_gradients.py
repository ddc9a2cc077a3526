import numpy as np
import pytest
from scoring import tiny
from scoring.tiny import MODEL, same

from ttoaa.scoring.gradients import embedding_gradients, stream_gradients
from ttoaa.scoring.length_buckets import Passes


@pytest.fixture(scope="module")
def params():
    return tiny.params()


@pytest.fixture(scope="module")
def requests():
    return tiny.requests()


@pytest.fixture(scope="module")
def gradients(params, requests):
    return embedding_gradients(MODEL, params, requests)


def slope(params, request, direction_nxD, step=1e-5):
    """Of the float64 sum of log-probabilities, along a direction."""
    ends = [tiny.expected(params, request, sign * step * direction_nxD)[0] for sign in (1, -1)]
    return (ends[0].sum() - ends[1].sum()) / (2 * step)


@pytest.mark.parametrize("number", range(len(tiny.LENGTHS)))
def test_gradients_are_the_slopes_of_a_plain_olmo2(params, requests, gradients, number):
    """Along three random directions: together they miss no error but one in 1e-5."""
    request, gradient = requests[number], gradients[number]
    assert gradient.dtype == np.float32 and gradient.shape == (len(request[0]), MODEL.width)
    rng = np.random.default_rng(number)
    for direction in rng.normal(size=(3, *gradient.shape)):
        size = np.linalg.norm(direction) * np.linalg.norm(gradient)
        assert abs((gradient * direction).sum() - slope(params, request, direction)) < 1e-5 * size


def test_single_embeddings_by_finite_differences(params, requests, gradients):
    request, gradient = requests[7], gradients[7]
    largest = float(np.abs(gradient).max())
    for position, axis in [(0, 0), (3, 5), (18, 15)]:
        direction = np.zeros(gradient.shape)
        direction[position, axis] = 1
        found = slope(params, request, direction)
        assert gradient[position, axis] == pytest.approx(found, abs=1e-5 * largest)


def test_the_last_token_has_no_influence(requests, gradients):
    for (tokens, _), gradient in zip(requests, gradients, strict=True):
        assert not gradient[-1].any() and np.abs(gradient[: len(tokens) - 1]).sum(axis=1).all()


def test_neighbours_order_and_number_change_no_bit(params, requests, gradients):
    alone = [embedding_gradients(MODEL, params, [request])[0] for request in requests[:8]]
    assert all(same(alone, gradients[:8]))
    order = np.random.default_rng(2).permutation(len(requests))
    shuffled = embedding_gradients(MODEL, params, [requests[i] for i in order])
    assert all(same(shuffled, [gradients[i] for i in order]))


def test_a_stream_reads_a_window_at_a_time(params, requests, gradients):
    source = iter(requests)
    found = stream_gradients(MODEL, params, source, Passes(window=5))
    first = next(found)
    assert len(list(source)) == len(requests) - 5
    assert all(same([first, *found], gradients[:5]))


def test_bad_requests_are_named(params, requests):
    with pytest.raises(ValueError, match="request 1: start 3 must leave"):
        embedding_gradients(MODEL, params, [requests[0], (np.ones(3, int), 3)])
    with pytest.raises(ValueError, match="request 0: token 42 is outside"):
        next(stream_gradients(MODEL, params, [(np.array([1, 42]), 1)]))
