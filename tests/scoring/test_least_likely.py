import numpy as np
import pytest
from model import reference
from scoring import tiny
from scoring.tiny import MODEL

from ttoaa.scoring.least_likely import least_likely

PROMPTS = [np.random.default_rng(n).integers(0, 42, n).astype(np.int32) for n in (1, 7, 31, 32, 50)]
AMONG = np.delete(np.arange(40), [0, 7])


@pytest.fixture(scope="module")
def params():
    return tiny.params()


def test_they_are_the_lowest_of_a_plain_olmo2(params):
    found = least_likely(MODEL, params, PROMPTS, 4, AMONG)
    assert found.shape == (len(PROMPTS), 4) and found.dtype == np.int32
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        logits = reference.logits(MODEL, params, prompt[None])[0, -1]
        assert tokens.tolist() == AMONG[np.argsort(logits[AMONG])[:4]].tolist()


def test_a_result_depends_on_its_prompt_alone(params):
    every = least_likely(MODEL, params, PROMPTS, 3, AMONG)
    for prompt, tokens in zip(PROMPTS, every, strict=True):
        assert (least_likely(MODEL, params, [prompt], 3, AMONG) == tokens).all()


@pytest.mark.parametrize(
    ("prompts", "count", "among", "message"),
    [
        ([np.array([], np.int32)], 1, AMONG, "request 0: start 0"),
        (PROMPTS, 3, np.array([1, 2, 2]), "the 3 least likely of 2 tokens"),
        (PROMPTS, 1, np.array([41, 42]), "the vocabulary of 42"),
    ],
)
def test_bad_arguments_are_one_line(params, prompts, count, among, message):
    with pytest.raises(ValueError, match=message):
        least_likely(MODEL, params, prompts, count, among)
