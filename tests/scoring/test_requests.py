import hashlib

import numpy as np
import pytest

from ttoaa.scoring.requests import Sampling, item_key


def test_a_key_is_of_seed_key_and_tokens():
    given = hashlib.sha256(b"7\x1f'a'\x1f" + bytes([2, 0, 0, 0, 1, 1, 0, 0])).digest()
    key = item_key(7, "a", np.array([2, 257]))
    assert key.dtype == np.uint32
    assert key.tolist() == [int.from_bytes(given[i : i + 4], "little") for i in (0, 4)]
    others = [(8, "a", [2, 257]), (7, "b", [2, 257]), (7, "a", [2, 256]), (7, "a", [2])]
    assert len({item_key(*other).tobytes() for other in others} | {key.tobytes()}) == 5


def test_a_number_is_another_key_than_its_digits_whatever_its_type():
    number, text = (item_key(0, key, np.array([5])).tolist() for key in (1, "1"))
    assert number != text
    assert item_key(np.int32(0), np.int64(1), np.array([5])).tolist() == number
    assert item_key(0, np.str_("1"), np.array([5])).tolist() == text


def test_a_temperature_near_zero_is_refused():
    with pytest.raises(
        ValueError, match=r"temperature must be 0 \(greedy\) or at least 1e-06, not"
    ):
        Sampling(4, temperature=1e-9)


def test_stop_sequences_may_be_lists():
    assert Sampling(4, stop=[[1, 2], np.array([3])]) == Sampling(4, stop=((1, 2), (3,)))
