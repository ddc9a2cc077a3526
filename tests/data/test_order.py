import dataclasses
import hashlib
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from ttoaa.data.order import Order, mix64


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1000, 4097])
def test_every_epoch_visits_every_window_once(n):
    for epoch in range(4):
        windows = Order(3, n).windows(epoch * n + np.arange(n))
        assert windows.dtype == np.int64
        np.testing.assert_array_equal(np.sort(windows), np.arange(n))


@pytest.mark.parametrize("n", [16, 17, 1000])
def test_every_epoch_and_every_seed_is_another_permutation(n):
    orders = {
        tuple(Order(seed, n).windows(epoch * n + np.arange(n)))
        for seed, epoch in itertools.product(range(10), range(20))
    }
    assert len(orders) == 200


def test_pinned_values():
    """A plan of today must mean the same batches in ten years: no change may move these."""
    positions = np.arange(8)
    assert Order(0, 16).windows(positions).tolist() == [14, 7, 1, 4, 9, 11, 5, 0]
    assert Order(0, 16).windows(16 + positions).tolist() == [4, 9, 6, 3, 0, 15, 1, 11]
    assert Order(1, 16).windows(positions).tolist() == [10, 14, 3, 6, 0, 9, 7, 2]
    three_epochs = Order(0, 1000).windows(np.arange(3000)).astype("<i8").tobytes()
    assert hashlib.sha256(three_epochs).hexdigest() == (
        "e9e742e0af6209642cce6f81e1b5b90c15b42aa304ed9a5122bdfe6356c15138"
    )


def test_the_mixer_is_splitmix64():
    """The first outputs of the published generator with seed 0 (Steele et al., 2014)."""
    golden = 0x9E3779B97F4A7C15
    state = np.array([golden * k % 2**64 for k in (1, 2, 3)], np.uint64)
    assert mix64(state).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_positions_and_windows_beyond_32_bits():
    order = Order(7, 2**31 + 12_345)
    positions = [0, 1, 2**31, 2**31 + 12_344, 2**31 + 12_345, 2**40, 2**62]
    expected = [852066200, 194865576, 1316843698, 1950104138, 1538483103, 1132763601, 1217988432]
    assert order.windows(np.array(positions)).tolist() == expected
    n = 2**33 + 1
    many = Order(7, n).windows(np.arange(n - 50_000, n))
    assert len(np.unique(many)) == 50_000
    assert 0 <= many.min() < 2**32 < many.max() < n


def test_a_look_up_depends_on_its_position_alone():
    """Any subset in any shape and order, from any instance, across an epoch's end."""
    order, n = Order(5, 100), 100
    alone = [int(Order(5, n).windows(np.array([p]))[0]) for p in range(3 * n)]
    shuffled = np.random.default_rng(0).permutation(3 * n)
    assert order.windows(shuffled).tolist() == [alone[p] for p in shuffled]
    assert order.windows(shuffled.reshape(3, n)).shape == (3, n)
    assert int(order.windows(np.int64(250))) == alone[250]
    assert order.windows(np.empty(0, np.int64)).shape == (0,)


def test_nothing_is_stored_whatever_the_size():
    order = Order(0, 10**12)
    order.windows(np.arange(1000))
    assert vars(order) == {"seed": 0, "num_windows": 10**12, "first_in_order": False, "start": 0}
    assert len(pickle.dumps(order)) < 200


@pytest.mark.parametrize("in_order", [False, True])
def test_a_later_start_gives_the_rest_of_the_stream(in_order):
    whole, rest = Order(3, 50, in_order), Order(3, 50, in_order, start=70)
    np.testing.assert_array_equal(rest.windows(np.arange(90)), whole.windows(np.arange(70, 160)))
    windows = np.array([0, 7, 49])
    positions, which = rest.positions(windows, 90)
    np.testing.assert_array_equal(rest.windows(positions), windows[which])
    later, _ = whole.positions(windows, 160)
    np.testing.assert_array_equal(np.sort(positions), later[later >= 70] - 70)
    assert Order(**rest.identity()) == rest and rest.fingerprint != whole.fingerprint


def test_another_process_gives_the_same():
    code = "import numpy as np; from ttoaa.data.order import Order\n"
    code += "print(Order(9, 777).windows(np.arange(2000)).tolist())"
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == str(Order(9, 777).windows(np.arange(2000)).tolist())


@pytest.mark.parametrize("n", [16, 17])
def test_every_position_meets_every_window_equally_often(n):
    epochs = 3000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), Order(1, n).windows(epoch * n + np.arange(n))] += 1
    expected = epochs / n
    # Rows and columns both sum to `epochs`, hence the degrees of freedom and the factor.
    statistic = ((counts - expected) ** 2 / expected).sum() * (n - 1) / n
    assert 1e-4 < stats.chi2.sf(statistic, (n - 1) ** 2) < 1 - 1e-4


def test_neighbours_are_unrelated():
    """From one position to the next, every step through the corpus is equally likely.

    Six rounds are uniform from 65 windows on; a toy corpus below that has a bias of a few percent.
    """
    n, epochs = 70, 6000
    order = Order(2, n)
    pairs = np.array([order.windows(epoch * n + np.arange(2)) for epoch in range(epochs)])
    counts = np.bincount((pairs[:, 1] - pairs[:, 0]) % n, minlength=n)
    assert counts[0] == 0
    assert 1e-4 < stats.chisquare(counts[1:]).pvalue < 1 - 1e-4


def test_identity_makes_the_same_order_and_fingerprints_differ():
    order = Order(3, 50)
    assert Order(**order.identity()) == order
    others = [
        dataclasses.replace(order, seed=4),
        dataclasses.replace(order, num_windows=51),
        dataclasses.replace(order, first_in_order=True),
    ]
    assert all(Order(**other.identity()) == other for other in others)
    assert len({o.fingerprint for o in (order, *others)}) == 4
    # As plans that are there have it: another key would make them another order's.
    assert order.identity() == {"seed": 3, "num_windows": 50}
    assert order.fingerprint == "feistel6:seed=3:windows=50"


def test_a_corpus_without_a_window_is_an_error():
    with pytest.raises(ValueError, match="shorter than one row"):
        Order(0, 0)


def test_a_position_before_the_run_is_an_error():
    with pytest.raises(ValueError, match="positions must be at least 0, not -1"):
        Order(0, 10).windows(np.array([3, -1]))


def test_in_order_is_one_epoch_as_numbered_then_the_keyed_ones():
    n = 1000
    keyed, in_order = Order(4, n), Order(4, n, first_in_order=True)
    assert in_order.windows(np.arange(n)).tolist() == list(range(n))
    later = np.random.default_rng(0).permutation(np.arange(n, 4 * n))
    np.testing.assert_array_equal(in_order.windows(later), keyed.windows(later))
    across = in_order.windows(np.array([n - 1, n, 5]))
    assert across.tolist() == [n - 1, int(keyed.windows(np.int64(n))), 5]


def test_in_order_gives_out_an_array_of_its_own():
    positions = np.arange(5)
    Order(0, 10, first_in_order=True).windows(positions)[:] = 7
    assert positions.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("first_in_order", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 17, 300])
def test_positions_are_those_that_a_search_of_the_whole_run_finds(n, first_in_order):
    order = Order(6, n, first_in_order)
    run = order.windows(np.arange(4 * n))
    wanted = np.random.default_rng(n).permutation(n)[: max(1, n // 3)]
    for stop in (0, 1, n - 1, n, n + 1, 3 * n, 3 * n + n // 2, 4 * n):
        positions, which = order.positions(wanted, stop)
        expected = [p for p in range(stop) if run[p] in set(wanted.tolist())]
        assert positions.dtype == which.dtype == np.int64
        assert positions.tolist() == expected
        assert wanted[which].tolist() == run[expected].tolist()


def test_positions_at_the_papers_scale_lead_back():
    order, windows = Order(1, 51_200_000), np.random.default_rng(2).integers(0, 51_200_000, 20_000)
    positions, which = order.positions(windows, 130_000_000)
    np.testing.assert_array_equal(order.windows(positions), windows[which])
    assert (np.diff(positions) >= 0).all()
    # Two whole epochs, and of the third the 27.6 million positions that the run has.
    assert set(np.bincount(which)) == {2, 3}
    assert (positions < 51_200_000).sum() == 20_000
    assert 10_000 < (positions >= 102_400_000).sum() < 11_600


def test_positions_of_the_same_window_twice_and_of_none():
    order = Order(0, 9)
    twice, which = order.positions(np.array([4, 4]), 9)
    assert twice[0] == twice[1] and which.tolist() == [0, 1]
    assert [len(x) for x in order.positions(np.empty(0, np.int64), 100)] == [0, 0]


@pytest.mark.parametrize("window", [-1, 9])
def test_positions_of_a_window_that_is_not_trained_on_are_an_error(window):
    with pytest.raises(ValueError, match="the order has 9"):
        Order(0, 9).positions(np.array([0, window]), 100)


def test_a_block_is_looked_up_as_its_parts(monkeypatch):
    """Many positions are looked up in blocks, which shows nowhere."""
    order, positions = Order(3, 10_007), np.arange(30_000)
    whole = order.windows(positions)
    monkeypatch.setattr("ttoaa.data.order._BLOCK", 977)
    np.testing.assert_array_equal(order.windows(positions), whole)
    np.testing.assert_array_equal(
        whole[::13], [int(order.windows(np.int64(p))) for p in positions[::13]]
    )
