import io
import pickle

import numpy as np
import pytest
import sentencepiece

from ttoaa.data.corpus import Corpus
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer

TEXTS = ["the cat sat on the mat, the cat sat on the hat\n", "def f(x):\n    return x\n"] * 40
ODD = ["", " ", "\n\n \t", "naïve ☃ 𝔘", "a\x00b", "  two  spaces ", "x <s></s> y <unk>", "<0x41>"]
EXACT = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
}


def train(path, **options):
    """A model file, and the plain library's own processor of it to compare with."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=file,
        model_type="bpe",
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path.write_bytes(file.getvalue())
    return path, sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sp") / "exact.model", vocab_size=320, **EXACT)


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sp") / "default.model", vocab_size=60)


def test_ids_are_those_of_the_library(exact, default):
    for path, library in (exact, default):
        tokenizer = Tokenizer(path)
        for text, ids in zip(ODD + TEXTS, tokenizer.encode_batch(ODD + TEXTS), strict=True):
            assert ids.dtype == np.int32
            assert ids.tolist() == library.encode(text)


def test_a_model_with_bytes_and_no_normalisation_keeps_every_byte(exact):
    tokenizer = Tokenizer(exact[0])
    for text in ODD + TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_default_model_loses_what_its_documentation_says(default):
    tokenizer = Tokenizer(default[0])
    assert tokenizer.decode(tokenizer.encode("the  cat\n")) == "the cat"
    assert tokenizer.decode(tokenizer.encode("☃")) == " ⁇ "


def test_special_tokens_in_text_are_text(exact):
    tokenizer = Tokenizer(exact[0])
    assert exact[1].piece_to_id("</s>") == tokenizer.eos_id == 2
    for text in ODD:
        assert not {0, 1, 2} & set(tokenizer.encode(text).tolist())


def test_it_is_padded_and_pickled_as_a_json_file_is(exact):
    path, library = exact
    tokenizer = ExistingTokenizer(str(path)).load(path)
    assert tokenizer.vocab_size % 128 == 0
    assert tokenizer.reserved_ids == range(library.vocab_size(), tokenizer.vocab_size)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.vocab_size, again.eos_id, again.fingerprint) == (
        tokenizer.vocab_size,
        tokenizer.eos_id,
        tokenizer.fingerprint,
    )
    cat = tokenizer.encode("the cat").tolist()
    ids = [*cat, tokenizer.eos_id, tokenizer.reserved_ids.start, *cat]
    assert again.decode(ids) == "the cat⟨eos⟩⟨r0⟩the cat"


def test_a_pair_is_encoded_as_one_string(exact):
    tokenizer = Tokenizer(exact[0])
    tokens, start = tokenizer.encode_pair("the cat", " sat on")
    assert tokens.tolist() == exact[1].encode("the cat sat on")
    assert tokenizer.decode(tokens[start:]) == " sat on"


def test_eos_may_be_another_piece(exact, tmp_path):
    path, library = exact
    assert ExistingTokenizer(str(path), eos="<s>").load(path).eos_id == library.bos_id()
    with pytest.raises(ValueError, match="no token '<eot>'"):
        ExistingTokenizer(str(path), eos="<eot>").check()
    without, _ = train(tmp_path / "without.model", vocab_size=60, eos_id=-1)
    with pytest.raises(ValueError, match=r"without\.model has no token '<\|endoftext\|>'"):
        Tokenizer(without)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_model_is_named(exact, tmp_path, damage):
    whole = exact[0].read_bytes()
    content = {"cut": whole[:-100], "empty": b"", "other": b"\x89PNG\r\n\x1a\n"}[damage]
    (tmp_path / "bad.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.model is not a readable tokenizer JSON or Sent"):
        Tokenizer(tmp_path / "bad.model")


def test_a_corpus_is_made_and_opened_with_it(exact, tmp_path):
    path, library = exact
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["the", "cat", "☃", "sat"], 20)) for _ in range(60)]
    (tmp_path / "all.txt").write_text("\n%\n".join(texts))
    source = TextFiles([str(tmp_path / "all.txt")], separator="\n%\n")
    config = Prepare(source, ExistingTokenizer(str(path)), reserve_fraction=0.3)
    made = prepare(config, tmp_path / "corpus", progress=False)
    corpus = Corpus.open(made.folder)
    assert corpus.eos_id == library.eos_id()
    found = []
    for file in sorted(made.folder.glob("*.bin")):
        tokens = np.fromfile(file, corpus.manifest.dtype)
        pieces = np.split(tokens, np.flatnonzero(tokens == 2) + 1)[:-1]
        found += [library.decode(piece[:-1].tolist()) for piece in pieces]
    assert sorted(found) == sorted(texts)
    assert corpus.tokenizer.decode(corpus.tokenizer.encode(texts[0])) == texts[0]
