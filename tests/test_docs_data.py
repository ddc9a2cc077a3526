"""docs/data.md: every snippet of config is loaded, and reads what the page says that it reads."""

import importlib.resources
import io
import json
import pathlib
import re
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from array_record.python import array_record_module

from ttoaa import config
from ttoaa.data.prepare.pipeline import prepare
from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.mixture import Mixture, Pool
from ttoaa.data.vocabulary import TrainBPE

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/data.md").read_text(encoding="utf-8")
SMALL, OWN = (
    (ROOT / "configs" / name).read_text(encoding="utf-8")
    for name in ("small.gin", "quickstart.gin")
)
QUICKSTART = SMALL + OWN.replace("include 'small.gin'", "")
SNIPPETS = re.findall(r"^```gin\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = [f"line {k} of the texts, in all {'very ' * (k % 5)}plain" for k in range(60)]
CODE = [f"def f{k}(x):\n    return x + {k}\n" for k in range(60)]


def build(folder):
    """A TFDS dataset of the lines."""
    import tensorflow_datasets as tfds

    class Lines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate({"text": line} for line in LINES)

    with pytest.MonkeyPatch.context() as patch:  # TFDS imports it to build, but does not require it
        patch.setitem(sys.modules, "importlib_resources", importlib.resources)
        Lines(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder that holds all files that the snippets name; what the bucket holds is in memory."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "texts").mkdir()
    for number, line in enumerate(LINES):
        (folder / "texts" / f"{number:02d}.txt").write_text(line)
    more = "".join(json.dumps({"text": text}) + "\n" for text in CODE).encode()
    (folder / "more.jsonl.zst").write_bytes(pa.Codec("zstd").compress(more, asbytes=True))
    pq.write_table(pa.table({"text": CODE, "id": range(60)}), folder / "code.parquet")
    writer = array_record_module.ArrayRecordWriter(str(folder / "records.array_record"))
    for line in LINES:
        writer.write(json.dumps({"body": line}).encode())
    writer.close()
    build(folder / "datasets")
    (folder / "tokenizer.json").write_bytes(TrainBPE(400, 20).make(LINES + CODE))
    (folder / "sonnets.txt").write_text("\n".join(LINES) + "\n")
    (folder / "my_lab").mkdir()
    (folder / "my_lab" / "__init__.py").touch()
    task = re.search(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    (folder / "my_lab" / "tasks.py").write_text(task)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=30, minloglevel=2
    )
    (folder / "small.model").write_bytes(model.getvalue())
    system = fsspec.filesystem("memory")
    system.put(str(folder / "texts"), "/my-bucket/dump", recursive=True)
    system.put_file(str(folder / "tokenizer.json"), "/my-bucket/tokenizer.json")
    yield folder
    system.rm("/my-bucket", recursive=True)


@pytest.fixture
def prepare_of(files, monkeypatch):
    """The study's Prepare with that snippet in place of the quickstart's own lines."""
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(str(files))

    def load(snippet):
        text = f"include 'quickstart.gin'\n{snippet}".replace("gs://", "memory://")
        (files / "study.gin").write_text(text)
        return config.load([files / "study.gin"])[0].prepare

    return load


def texts(snippet, prepare_of):
    return [text for _, text in all_documents(prepare_of(snippet).source)]


def test_files(prepare_of):
    assert texts(SNIPPETS[0], prepare_of) == LINES + CODE


def test_records(prepare_of):
    assert texts(SNIPPETS[1], prepare_of) == LINES


def test_tfds(prepare_of):
    assert sorted(texts(SNIPPETS[2], prepare_of)) == sorted(LINES)


def test_seqio(prepare_of, tmp_path):
    corpus = prepare(prepare_of(SNIPPETS[3]), tmp_path / "corpus", progress=False)
    ids = np.concatenate([np.fromfile(p, "<u2") for p in corpus.folder.glob("*.bin")])
    pieces = np.split(ids, np.flatnonzero(ids == corpus.eos_id) + 1)[:-1]
    assert sorted(corpus.tokenizer.decode(piece[:-1]) for piece in pieces) == sorted(LINES)


def test_mixture_and_pool(prepare_of):
    mixture, pool = (prepare_of(snippet).source for snippet in SNIPPETS[4:6])
    assert isinstance(mixture, Mixture) and isinstance(pool, Pool)
    found = [text for _, text in all_documents(mixture)]
    assert found[:3] == [LINES[0], CODE[0], LINES[1]] and LINES[-1] == found[-1]
    pooled = [text for _, text in all_documents(pool)]
    assert {pooled.count(text) for text in CODE} == {2, 3}
    assert {pooled.count(text) for text in LINES} == {0, 1}


def test_a_sentencepiece_model(prepare_of, files):
    tokenizer = prepare_of(SNIPPETS[6]).tokenizer
    tokenizer.check()
    assert tokenizer.load(files / "small.model").decode([2]) == "⟨eos⟩"


def test_a_bucket(prepare_of, files):
    loaded = prepare_of(SNIPPETS[7])
    assert [text for _, text in all_documents(loaded.source)] == LINES
    assert loaded.tokenizer.make(()) == (files / "tokenizer.json").read_bytes()


def test_no_snippet_is_left_untested():
    assert len(SNIPPETS) == 8
