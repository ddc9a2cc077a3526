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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a positive integer"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a positive integer"),
        ({"temperature": None}, "temperature must be a number, not None"),
        ({"temperature": "0.7"}, "temperature must be a number, not '0.7'"),
        ({"temperature": -0.1}, r"temperature is 0 \(greedy\) or at least 1e-06, not -0.1"),
        ({"temperature": 1e-9}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is 0"),
        ({"temperature": float("inf")}, "temperature is 0"),
        ({"top_k": 0}, "top_k must be a positive integer or None, not 0"),
        ({"top_k": True}, "top_k must be a positive integer or None, not True"),
        ({"top_p": "0.9"}, "top_p must be a number, not '0.9'"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\] or None, not 0.0"),
        ({"top_p": 1.001}, r"top_p must be in \(0, 1\]"),
        ({"top_p": float("nan")}, r"top_p must be in \(0, 1\]"),
        ({"seed": 0.5}, "seed must be an integer, not 0.5"),
        ({"stop": ((),)}, "none empty, none negative"),
        ({"stop": ((3, -1),)}, "none empty, none negative"),
        ({"stop": ((1.5,),)}, "must be sequences of token ids"),
        ({"stop": ("ab",)}, "must be sequences of token ids"),
    ],
)
def test_meaningless_settings_are_named(change, message):
    with pytest.raises(ValueError, match=f"Sampling.{message}|Sampling.stop .*{message}"):
        Sampling(**{"max_new_tokens": 4} | change)


def test_stop_sequences_may_be_lists():
    assert Sampling(4, stop=[[1, 2], np.array([3])]) == Sampling(4, stop=((1, 2), (3,)))
