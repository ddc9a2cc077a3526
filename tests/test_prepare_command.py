"""`ttoaa prepare`, once in a process of its own: its flags, and what it says."""

import contextlib
import importlib.resources
import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
import studies

from ttoaa import prepare
from ttoaa.data.corpus import Corpus

TESTS = pathlib.Path(__file__).parent
GIN = """
import fakes

Study.name = 'tiny'
Study.prepare = @Prepare()
Study.geometry = @Geometry()
Study.model = @DecoderConfig()
Study.training = @Training()
Study.experiments = [@Planted()]
Prepare.source = @Mixture()
Prepare.tokenizer = @TrainBPE()
Prepare.reserve_fraction = 0.3
Mixture.sources = [@a/TextFiles(), @b/TextFiles()]
Mixture.weights = [1, 2]
Mixture.when_one_ends = 'go on'
a/TextFiles.paths = ['{folder}/a.jsonl']
b/TextFiles.paths = ['{folder}/b.parquet']
TrainBPE.vocab_size = 320
TrainBPE.reserved = 32
Geometry.length = 32
Geometry.batch = 8
Geometry.steps = 40
DecoderConfig.vocab_size = 320
DecoderConfig.layers = 1
DecoderConfig.width = 8
DecoderConfig.heads = 1
DecoderConfig.hidden = 8
Training.optimizer = @AdamW()
AdamW.schedule = @Cosine()
Cosine.peak = 0.01
Cosine.warmup = 2
Planted.name = 'planted'
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["the", "cat", "sat", "mat"], 40)) for _ in range(120)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[:60])
    (folder / "a.jsonl").write_text(lines)
    pq.write_table(pa.table({"text": texts[60:]}), folder / "b.parquet")
    pq.write_table(pa.table({"body": texts}), folder / "c.parquet")
    (folder / "study.gin").write_text(GIN.format(folder=folder))
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=14, minloglevel=2
    )
    (folder / "small.model").write_bytes(file.getvalue())
    return folder


def run(root, *flags):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "ttoaa.prepare", f"--workdir={root}", *map(str, flags)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1:]


def call(root, *flags):
    """As `run`, in this process, which saves the start."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        left = studies.main(prepare, root, *map(str, flags))
    return int(bool(left)), out.getvalue(), [left] if left else []


def test_a_corpus_is_made_published_and_fetched_by_another(folder, tmp_path):
    gin, url = f"--gin_file={folder}/study.gin", f"file://{tmp_path}/bucket/corpus"
    code, said, error = run(tmp_path / "one", gin, f"--to={url}")
    assert code == 0, error
    assert (
        "is ready: " in said and "prepare: train " in said and f"{url} has the corpus now" in said
    )
    drawn = [line for line in said.splitlines() if "characters of 60 documents of text of" in line]
    assert [line.rsplit(".", 1)[1] for line in drawn] == ["jsonl", "parquet"]

    code, _, error = call(
        tmp_path / "two", gin, f"--from={url}", "--gin_bindings=TrainBPE.reserved=9"
    )
    assert code == 1 and not (tmp_path / "two" / "corpus").exists()
    assert error[0].endswith(
        "/corpus was made with tokenizer.reserved 32, now it would be 9: use another --from, or "
        "change the config"
    )

    code, said, error = call(tmp_path / "three", gin, f"--from={url}", f"--to={url}")
    assert code == 0, error
    assert "is ready" in said and "had the corpus already" in said and "tokenizing" not in said
    one, three = (Corpus.open(tmp_path / name / "corpus") for name in ("one", "three"))
    assert one.fingerprint == three.fingerprint


def test_input_of_any_kind_and_a_sentencepiece_model(folder, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "c.parquet").symlink_to(folder / "c.parquet")
    (tmp_path / "in" / "c.csv").touch()
    flags = [f"--gin_file={folder}/study.gin", f"--input={tmp_path}/in", "--field=body"]
    code, said, error = call(tmp_path, *flags, f"--tokenizer={folder}/small.model")
    assert code == 0, error
    assert f"skips 1 files of other types, such as {tmp_path}/in/c.csv" in said
    corpus = Corpus.open(tmp_path / "corpus")
    assert sum(corpus.manifest.documents.values()) == 120
    assert corpus.eos_id == 2 and corpus.tokenizer.decode([corpus.eos_id]) == "⟨eos⟩"
    config = (tmp_path / "config.gin").read_text()
    assert "TextFiles.field = 'body'" in config and "small.model" in config


def test_input_may_be_a_folder_of_tfds(folder, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    class Few(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"body": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate({"body": f"the cat no {number}"} for number in range(70))

    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    Few(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    flags = [f"--gin_file={folder}/study.gin", f"--input={tmp_path}/few/1.0.0", "--field=body"]
    code, said, error = call(tmp_path / "study", *flags)
    assert code == 0, error
    assert f"'body' of train of {tmp_path}/few/1.0.0" in said
    assert sum(Corpus.open(tmp_path / "study" / "corpus").manifest.documents.values()) == 70


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--field=body"], "prepare: --field needs --input: give both, or bind it in the config"),
        (["--eos=</s>"], "prepare: --eos needs --tokenizer: give both, or bind it in the config"),
        (["--input={}/c.parquet"], "has no column 'text': set TextFiles.field (--field) to one of"),
    ],
)
def test_bad_flags_are_one_line(folder, tmp_path, flags, message):
    flags = [flag.format(folder) for flag in flags]
    code, _, error = call(tmp_path, f"--gin_file={folder}/study.gin", *flags)
    assert code == 1 and message in error[0]
