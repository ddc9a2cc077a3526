import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ttoaa.data.geometry import Geometry
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.identity import identity
from ttoaa.interop.convert import import_huggingface, open_model
from ttoaa.interop.huggingface import config as tokenizer_files
from ttoaa.interop.huggingface.config import Card
from ttoaa.interop.huggingface.weights import save
from ttoaa.model.decoder import DecoderConfig, abstract_params
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.training.checkpoint_io import DamagedCheckpoint
from ttoaa.training.checkpoints import CheckpointWriter

CONFIG = DecoderConfig(
    vocab_size=330, layers=1, width=16, heads=2, hidden=24, kv_heads=1, document_separator=0
)
PLAIN = dataclasses.replace(CONFIG, document_separator=None, norm_eps=1e-5)


def params_of(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_params(CONFIG)
    )


@pytest.fixture(scope="module")
def run(make_workdir):
    """A run's folder with checkpoints of steps 3 and 7, whose weights are of these seeds."""
    folder = make_workdir().run("run")
    made_of = identity(model=CONFIG, geometry=Geometry(48, 8, 7))
    writer = CheckpointWriter(folder / "checkpoints")
    for step in (3, 7):
        writer.save(step, params_of(step), None, {"step": step, "identity": made_of})
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def huggingface(corpus, tmp_path_factory):
    """An Olmo2ForCausalLM whose texts begin with token 5."""
    folder = tmp_path_factory.mktemp("huggingface")
    tokenizer_files.write(corpus.tokenizer.path, corpus.eos_id, 64, folder)
    save(folder, PLAIN, Card(64, [corpus.eos_id, 9], bos_token_id=5), params_of(1))
    return folder


def assert_same(params, wanted):
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


def assert_same_tokenizer(tokenizer, corpus):
    wanted = Tokenizer(corpus.tokenizer.path, CONFIG.vocab_size, corpus.eos_id)
    assert tokenizer.fingerprint == wanted.fingerprint
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (wanted.vocab_size, wanted.eos_id)


@pytest.mark.parametrize(("asked", "step"), [(None, 7), (7, 7), (3, 3)])
def test_a_run_opens_at_its_newest_checkpoint_or_the_one_asked_for(run, corpus, asked, step):
    model = open_model(run, asked)
    assert model.name == f"step {step} of {run}"
    assert (model.config, model.length, model.prefix_id) == (CONFIG, 48, corpus.eos_id)
    assert_same(model.params, params_of(step))
    assert_same_tokenizer(model.tokenizer, corpus)
    pins = run / "checkpoints" / "pins"
    assert pins.is_dir() and not list(pins.iterdir())


def test_a_hugging_face_folder_and_its_import_are_the_same_model(huggingface, corpus, tmp_path):
    import_huggingface(huggingface, tmp_path / "imported")
    for folder in (huggingface, tmp_path / "imported"):
        model = open_model(folder)
        assert (model.config, model.length, model.prefix_id) == (PLAIN, 64, 5)
        assert_same(model.params, params_of(1))
        assert_same_tokenizer(model.tokenizer, corpus)


def test_parameters_are_laid_out_over_the_mesh(run, huggingface):
    mesh = make_mesh(Layout())
    for folder in (run, huggingface):
        params = open_model(folder, mesh=mesh).params
        assert {leaf.sharding.mesh for leaf in jax.tree.leaves(params)} == {mesh}
        assert params["head"].sharding.spec == P("fsdp", "tensor")


def test_what_is_not_there_is_said(run, huggingface, tmp_path):
    with pytest.raises(ValueError, match=r"has no checkpoint 4, only \[3, 7\]"):
        open_model(run, 4)
    with pytest.raises(ValueError, match=r"has no checkpoint: name a folder of a run or an"):
        open_model(tmp_path)
    with pytest.raises(ValueError, match="without steps: leave step out"):
        open_model(huggingface, 3)
    bare = pathlib.Path(shutil.copytree(huggingface, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"cannot read the tokenizer .*tokenizer\.json: No such"):
        open_model(bare)


def test_a_damaged_checkpoint_is_not_opened(run, corpus, tmp_path):
    study = pathlib.Path(shutil.copytree(run.parent, tmp_path / "study"))
    meta = study / "run" / "checkpoints" / "7" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["identity"]["model"]["layers"] = 2
    meta.write_text(json.dumps(content))
    with pytest.raises(DamagedCheckpoint, match="is damaged: its meta"):
        open_model(study / "run")
    assert_same(open_model(study / "run", 3).params, params_of(3))
