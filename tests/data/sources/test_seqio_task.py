"""Tasks and Mixtures of seqio's registry, with its vocabularies and with ours."""

import functools
import io
import pickle

import numpy as np
import pytest
import sentencepiece

from ttoaa.data.corpus import Corpus
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.mixture import Pool
from ttoaa.data.sources.seqio_task import SeqioTask
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer, SeqioTokenizer, TrainBPE

TEXTS = [f"the cat no {k} sat ☃ on the mat, <|endoftext|> the hat\n" for k in range(90)]
OTHERS = [f"def f{k}(x):\n    return x" for k in range(30)]


def ours(path, **options):
    """Our vocabulary, imported late: seqio and TensorFlow take seconds."""
    from ttoaa.interop.seqio_vocabulary import TokenizerVocabulary

    return TokenizerVocabulary(path, **options)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_bytes(TrainBPE(400, reserved=20).make(TEXTS + OTHERS))
    return path


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=file, vocab_size=40, minloglevel=2
    )
    path = tmp_path_factory.mktemp("sp") / "small.model"
    path.write_bytes(file.getvalue())
    return path


def add(name, texts, vocabulary, *more):
    """A Task whose every example is a text, its tokens and an EOS; `more` steps after that."""
    import seqio
    import tensorflow as tf

    def source(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices({"text": texts})

    rekey = functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"})
    steps = [rekey, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, *more]
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(source, splits=["train"]),
        preprocessors=steps,
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)},
        metric_fns=[],
    )


def cut_in_two(dataset):
    """Every example as two, at token 7: tokens that no encoding of a text would give."""
    import tensorflow as tf

    return dataset.flat_map(
        lambda example: tf.data.Dataset.from_tensor_slices(
            {"targets": tf.ragged.stack([example["targets"][:7], example["targets"][7:]])}
        )
    ).map(lambda example: {"targets": example["targets"]})


@pytest.fixture(scope="module", autouse=True)
def tasks(path, pieces):
    import seqio

    add("cats", TEXTS, ours(path))
    add("code", OTHERS, ours(str(path)))
    add("halves", TEXTS, ours(path), cut_in_two)
    add("pieces", TEXTS, seqio.SentencePieceVocabulary(str(pieces)))
    add("bytes", TEXTS, seqio.ByteVocabulary())
    seqio.MixtureRegistry.add("both", [("cats", 3.0), ("code", 1.0)])


def tokens_of(corpus):
    """Every document of the corpus as a tuple of ids, read with NumPy alone."""
    found = []
    for file in sorted(corpus.folder.glob("*.bin")):
        ids = np.fromfile(file, corpus.manifest.dtype)
        found += [
            tuple(p[:-1].tolist())
            for p in np.split(ids, np.flatnonzero(ids == corpus.eos_id) + 1)[:-1]
        ]
    return sorted(found)


def test_the_vocabulary_is_the_tokenizer(path):
    import tensorflow as tf

    vocabulary, tokenizer = ours(path), ExistingTokenizer(str(path)).load(path)
    assert vocabulary.vocab_size == tokenizer.vocab_size
    assert vocabulary.eos_id == tokenizer.eos_id
    for text in TEXTS[:3]:
        ids = tokenizer.encode(text).tolist()
        assert vocabulary.encode(text) == vocabulary.encode_tf(text).numpy().tolist() == ids
        assert vocabulary.decode([*ids, vocabulary.eos_id, 5, 6]) == text
        assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text


def test_rows_are_decoded_up_to_their_first_eos(path):
    import tensorflow as tf

    vocabulary = ours(path)
    rows = [vocabulary.encode(text) for text in ("the cat", "the ☃ mat")]
    longest = max(map(len, rows))
    batch = [[*row, vocabulary.eos_id, *[7] * (longest - len(row))] for row in rows]
    texts = vocabulary.decode_tf(tf.constant(batch)).numpy()
    assert [text.decode() for text in texts] == ["the cat", "the ☃ mat"]


def test_vocabularies_are_equal_by_content_and_pickle_small(path, tmp_path):
    import seqio

    (tmp_path / "copy.json").write_bytes(path.read_bytes())
    vocabulary = ours(path)
    assert vocabulary == ours(tmp_path / "copy.json")
    assert hash(vocabulary) == hash(ours(tmp_path / "copy.json"))
    assert vocabulary != ours(path, vocab_size=500)
    assert vocabulary != seqio.ByteVocabulary()
    (tmp_path / "other.json").write_bytes(TrainBPE(300, reserved=20).make(TEXTS))
    assert vocabulary != ours(tmp_path / "other.json")
    vocabulary.encode("used")
    pickled = pickle.dumps(vocabulary)
    assert len(pickled) < 1000 and pickle.loads(pickled) == vocabulary


def test_a_task_gives_its_own_tokens(path, tmp_path):
    config = Prepare(SeqioTask("cats"), SeqioTokenizer("cats"), reserve_fraction=0.3)
    corpus = prepare(config, tmp_path / "corpus", progress=False)
    tokenizer = Tokenizer(path)
    assert tokens_of(corpus) == sorted(tuple(tokenizer.encode(text).tolist()) for text in TEXTS)
    assert corpus.tokenizer.fingerprint == tokenizer.fingerprint
    assert Corpus.open(corpus.folder).eos_id == tokenizer.eos_id


def test_tokens_of_a_tasks_own_preprocessing_are_kept(path, tmp_path):
    config = Prepare(SeqioTask("halves"), SeqioTokenizer("halves"), reserve_fraction=0.3)
    corpus = prepare(config, tmp_path / "corpus", progress=False)
    expected = []
    for ids in Tokenizer(path).encode_batch(TEXTS):
        expected += [tuple(ids[:7].tolist()), tuple(ids[7:].tolist())]
    assert tokens_of(corpus) == sorted(expected)


def test_seqios_sentencepiece_vocabulary_is_the_corpus_tokenizer(pieces, tmp_path):
    config = Prepare(SeqioTask("pieces"), SeqioTokenizer("pieces"), reserve_fraction=0.3)
    corpus = prepare(config, tmp_path / "corpus", progress=False)
    library = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    assert tokens_of(corpus) == sorted(tuple(library.encode(text)) for text in TEXTS)
    assert corpus.eos_id == library.eos_id()


def test_text_of_a_task_goes_to_any_tokenizer():
    for name in ("cats", "bytes"):
        assert [text for _, text in all_documents(SeqioTask(name, use="text"))] == TEXTS


def test_a_task_whose_function_takes_no_seed():
    import seqio
    import tensorflow as tf

    def source(split, shuffle_files):
        del split, shuffle_files
        return tf.data.Dataset.from_tensor_slices({"targets": [*TEXTS[:3], b"caf\xe9"]})

    seqio.TaskRegistry.add(
        "seedless",
        source=seqio.FunctionDataSource(source, splits=["train"]),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
        metric_fns=[],
    )
    documents = all_documents(SeqioTask("seedless", use="text"))
    assert [next(documents)[1] for _ in range(3)] == TEXTS[:3]
    with pytest.raises(ValueError, match=r"seedless:train\[0/1\]\[3\] is not UTF-8 at byte 3"):
        next(documents)


def test_shards_are_all_of_it():
    texts = [text for _, text in all_documents(SeqioTask("cats", use="text", shards=3))]
    assert sorted(texts) == sorted(TEXTS) and texts[:2] == [TEXTS[0], TEXTS[3]]


def test_a_mixture_is_the_same_at_every_reading_until_a_task_ends(path):
    def texts(seed):
        return [text for _, text in all_documents(SeqioTask("both", use="text", seed=seed))]

    first = texts(1)
    assert first == texts(1) != texts(2)
    assert texts(None) == texts(42)
    cats, code = ([t for t in first if t in known] for known in (TEXTS, OTHERS))
    assert cats == TEXTS[: len(cats)] and code == OTHERS[: len(code)]
    assert len(cats) == len(TEXTS) or len(code) == len(OTHERS)
    assert 1.5 < len(cats) / len(code) < 6
    ids = [document.ids.tolist() for _, document in all_documents(SeqioTask("both", seed=1))]
    assert ids == [list(Tokenizer(path).encode(text)) for text in first]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SeqioTask("dogs"), "knows no Task or Mixture 'dogs': set SeqioTask.module"),
        (SeqioTask("cats", "no.such.module"), "'no.such.module' cannot be imported"),
        (SeqioTask("cats", split="test"), r"no split 'test': there are \['train'\]"),
        (SeqioTask("cats", features=("inputs",)), "no feature 'inputs'"),
        (SeqioTask("bytes"), "ByteVocabulary, which has no tokenizer file: set SeqioTask.use"),
    ],
)
def test_bad_tasks_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        list(all_documents(source))


def test_tokens_of_another_vocabulary_are_refused(path, pieces, tmp_path):
    with pytest.raises(ValueError, match=r"Prepare\.tokenizer = @SeqioTokenizer\(\)"):
        prepare(Prepare(SeqioTask("cats"), ExistingTokenizer(str(pieces))), tmp_path / "x", False)


def test_no_bpe_is_trained_on_tokens(tmp_path):
    with pytest.raises(ValueError, match="Prepare: a BPE cannot be trained on the token ids"):
        Prepare(SeqioTask("cats"), TrainBPE(400, 20))
    mixed = Prepare(Pool((SeqioTask("cats"),), (1.0,)), TrainBPE(400, 20))
    with pytest.raises(ValueError, match="a BPE cannot be trained on the token ids"):
        prepare(mixed, tmp_path / "x", progress=False)
