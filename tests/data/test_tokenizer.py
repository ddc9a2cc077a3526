import pickle

import numpy as np
import pytest

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE

TEXTS = ["the cat sat on the mat, the cat sat on the hat\n", "def f(x):\n    return x\n"] * 9
RARE = "".join(map(chr, np.random.default_rng(0).integers(97, 123, 2000)))  # more merges than ids
ODD = ["", " ", "\n\n \t", "naïve ☃ 𝔘", "a\x00b", "<|endoftext|>", "x <|endoftext|><|endoftext|> y"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(TrainBPE(300, reserved=10).make([*TEXTS, RARE]))
    return path


@pytest.fixture(scope="module")
def tokenizer(path):
    return Tokenizer(path, 300)


def test_every_text_comes_back(tokenizer):
    for text in ODD + TEXTS:
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == text


def test_special_tokens_in_text_are_text(tokenizer):
    for text in ODD:
        assert tokenizer.eos_id not in tokenizer.encode(text)


def test_a_batch_is_its_texts_one_by_one(tokenizer):
    for ids, text in zip(tokenizer.encode_batch(ODD + TEXTS), ODD + TEXTS, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_training_made_merges_and_left_the_reserved_ids_alone(tokenizer):
    assert len(tokenizer.encode("the cat")) < len("the cat")
    assert tokenizer.reserved_ids == range(290, 300)
    assert max(tokenizer.encode(RARE)) < 290


def test_eos_and_reserved_ids_are_shown(tokenizer):
    first = tokenizer.reserved_ids.start
    cat = tokenizer.encode("the ☃").tolist()
    ids = [*cat, tokenizer.eos_id, first, first + 9, *cat]
    assert tokenizer.decode(np.array(ids)) == "the ☃⟨eos⟩⟨r0⟩⟨r9⟩the ☃"
    for outside in (-1, 300):
        with pytest.raises(ValueError, match=f"{outside} is outside the vocabulary of 300"):
            tokenizer.decode([outside])


def test_a_pair_is_encoded_as_one_string(tokenizer):
    tokens, start = tokenizer.encode_pair("the cat", " sat on")
    np.testing.assert_array_equal(tokens, tokenizer.encode("the cat sat on"))
    assert start == len(tokenizer.encode("the cat"))
    assert tokenizer.decode(tokens[start:]) == " sat on"


def test_a_token_across_the_seam_belongs_to_the_continuation(tokenizer):
    whole = tokenizer.encode("the")
    assert len(whole) == 1 and len(tokenizer.encode("x the")) == 2
    tokens, start = tokenizer.encode_pair("x th", "e")
    assert tokenizer.decode(tokens) == "x the"
    assert tokenizer.decode(tokens[start:]) == " the"


def test_a_pair_needs_a_continuation(tokenizer):
    with pytest.raises(ValueError, match="continuation of 'the cat' is empty"):
        tokenizer.encode_pair("the cat", "")


def test_pickling_keeps_everything(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.vocab_size, again.eos_id, again.fingerprint, again.reserved_ids) == (
        tokenizer.vocab_size,
        tokenizer.eos_id,
        tokenizer.fingerprint,
        tokenizer.reserved_ids,
    )
    np.testing.assert_array_equal(again.encode(ODD[-1]), tokenizer.encode(ODD[-1]))
    assert len(pickle.dumps(tokenizer)) < 1000


def test_bad_files_and_sizes_are_named(path, tmp_path):
    (tmp_path / "broken.json").write_text('{"version": "1.0"}')
    with pytest.raises(ValueError, match=r"broken\.json is not a readable tokenizer JSON"):
        Tokenizer(tmp_path / "broken.json")
    with pytest.raises(ValueError, match=r"missing\.json: No such file"):
        Tokenizer(tmp_path / "missing.json")
    with pytest.raises(ValueError, match="vocab_size 200 is too small"):
        Tokenizer(path, 200)
    with pytest.raises(ValueError, match="no token '</s>'"):
        ExistingTokenizer(str(path), eos="</s>").check()


def test_an_existing_tokenizer_is_padded(path):
    size = Tokenizer(path).vocab_size
    loaded = ExistingTokenizer(str(path)).load(path)
    assert loaded.vocab_size % 128 == 0 and loaded.vocab_size - 128 < size + 64
    assert loaded.reserved_ids == range(size, loaded.vocab_size) and len(loaded.reserved_ids) >= 64
    assert ExistingTokenizer(str(path), vocab_size=320).load(path).vocab_size == 320


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ValueError, match="must be above 256 bytes"):
        TrainBPE(300, reserved=64)
