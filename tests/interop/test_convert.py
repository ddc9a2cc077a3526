import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from ttoaa.checksums import with_checksum
from ttoaa.data.geometry import Geometry
from ttoaa.identity import identity, restore
from ttoaa.interop import convert
from ttoaa.interop.convert import export_huggingface, import_huggingface, import_olmo
from ttoaa.interop.huggingface.config import Card
from ttoaa.interop.huggingface.weights import load_params, save, tensor_paths, transpose_matrix
from ttoaa.interop.olmo import weights as olmo
from ttoaa.model.decoder import DecoderConfig, abstract_params, apply, init_params
from ttoaa.training.checkpoint_io import read_checkpoint, read_meta
from ttoaa.training.checkpoints import CheckpointWriter
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW, bind_schedule

GOLDEN = pathlib.Path(__file__).parent / "golden"
WHOLE = ("float32", 5 * 10**9)


def assert_equal_trees(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def decoder(folder):
    return restore(DecoderConfig, read_meta(folder / "checkpoints", 0)["identity"]["model"])


def tensors_of(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: array for file in files for name, array in load_file(file).items()}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """(source with a tokenizer, target) of an import of the grouped model."""
    root = tmp_path_factory.mktemp("huggingface")
    source = pathlib.Path(shutil.copytree(GOLDEN / "grouped", root / "source"))
    (source / "tokenizer.json").write_text("{}")
    line = import_huggingface(source, root / "target")
    assert line == f"10,968 parameters are in {root / 'target'}"
    return source, root / "target"


def test_an_import_is_a_checkpoint_of_parameters(imported):
    source, target = imported
    meta = read_meta(target / "checkpoints", 0)
    assert meta["step"] == 0 and meta["source"] == str(source)
    gin.clear_config()
    gin.parse_config_file(str(target / "model.gin"))
    config = DecoderConfig()
    gin.clear_config()
    assert meta["identity"] == identity(model=config)
    params = read_checkpoint(target / "checkpoints", 0, params=abstract_params(config))["params"]
    assert_equal_trees(params, load_params(source))
    assert (target / "tokenizer.json").read_text() == "{}"


def test_an_import_goes_back_as_it_came(imported, tmp_path):
    source, target = imported
    export_huggingface(target, tmp_path / "back", None, "float32", 12_000)
    ours, theirs = tensors_of(tmp_path / "back"), tensors_of(source)
    assert ours.keys() == theirs.keys() and len(list((tmp_path / "back").glob("*.index.json"))) == 1
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    written, wanted = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path / "back", source)
    )
    for name in wanted.keys() - {"transformers_version"}:
        assert written[name] == wanted[name]
    assert (tmp_path / "back" / "tokenizer.json").read_text() == "{}"
    assert "are those of the import" in (tmp_path / "back" / "README.md").read_text()


def test_an_import_that_is_there_stays(imported, tmp_path):
    source, target = imported
    before = {p: p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file()}
    assert import_huggingface(source, target) == f"{target} is there already"
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file()} == before
    other = pathlib.Path(shutil.copytree(source, tmp_path / "other"))
    with pytest.raises(ValueError, match=r"holds checkpoints of .*source: use another --target"):
        import_huggingface(other, target)


def test_a_bad_folder_leaves_nothing_behind(imported, tmp_path):
    source = pathlib.Path(shutil.copytree(imported[0], tmp_path / "source"))
    (source / "model-00002-of-00005.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing"):
        import_huggingface(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_fails_half_way_leaves_nothing_behind(imported, tmp_path, monkeypatch):
    """A full disk, say."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.CheckpointWriter, "save", full)
    with pytest.raises(OSError, match="No space"):
        import_huggingface(imported[0], tmp_path / "in")
    monkeypatch.setattr(convert.weights, "save", full)
    with pytest.raises(OSError, match="No space"):
        export_huggingface(imported[1], tmp_path / "out", None, *WHOLE)
    assert not list(tmp_path.iterdir())


def test_one_at_a_time_writes_a_target(imported, tmp_path, monkeypatch):
    """A second import waits for nobody and deletes nothing; what a kill left is begun anew."""
    source, target = imported[0], tmp_path / "target"
    left = tmp_path / "target.tmp-elsewhere-1"
    left.mkdir(parents=True)
    (left / "rest").touch()
    write = convert._write_import

    def twice(*told, **more):
        with pytest.raises(ValueError, match=r"target is being written by .*: wait for it"):
            import_huggingface(source, target)
        write(*told, **more)

    monkeypatch.setattr(convert, "_write_import", twice)
    import_huggingface(source, target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert not (target / "rest").exists()
    assert_equal_trees(
        *(
            read_checkpoint(t / "checkpoints", 0, params=abstract_params(decoder(t)))["params"]
            for t in (target, imported[1])
        )
    )


CONFIG = DecoderConfig(vocab_size=330, layers=1, width=16, heads=2, hidden=24)


@pytest.fixture(scope="module")
def run(make_workdir):
    """A run's folder with checkpoints of steps 3 and 7, whose weights differ."""
    workdir = make_workdir()
    made_of = identity(model=CONFIG, geometry=Geometry(32, 8, 40))
    writer = CheckpointWriter(workdir.run("run") / "checkpoints")
    for step in (3, 7):
        params = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(step))
        writer.save(step, params, {"m": jnp.zeros(3)}, {"step": step, "identity": made_of})
    writer.finish()
    return workdir.run("run")


@pytest.mark.parametrize(("asked", "step"), [(None, 7), (7, 7), (3, 3)])
def test_a_run_is_exported_with_its_tokenizer(run, corpus, tmp_path, asked, step):
    target = tmp_path / "hf"
    line = export_huggingface(run, target, asked, *WHOLE)
    assert line == f"step {step} of {run} is in {target}"
    wanted = jax.jit(init_params, static_argnums=0)(CONFIG, jax.random.key(step))
    assert_equal_trees(load_params(target), jax.tree.map(np.asarray, wanted))
    content = json.loads((target / "config.json").read_text())
    assert content["eos_token_id"] == corpus.eos_id and content["max_position_embeddings"] == 32
    assert content["pad_token_id"] is None and content["bos_token_id"] == corpus.eos_id
    generation = json.loads((target / "generation_config.json").read_text())
    assert generation == {name: content[name] for name in generation} and len(generation) == 3
    theirs = (corpus.folder / "tokenizer.json").read_bytes()
    assert (target / "tokenizer.json").read_bytes() == theirs
    assert "sets `split_special_tokens`" in (target / "README.md").read_text()
    assert not list(tmp_path.glob("hf.*"))


def test_an_export_again_is_done_already(run, tmp_path):
    """As after a signal that came when the folder was complete."""
    target = tmp_path / "hf"
    line = export_huggingface(run, target, 3, *WHOLE)
    before = {path: path.stat().st_ino for path in target.iterdir()}
    assert export_huggingface(run, target, 3, *WHOLE) == line
    assert {path: path.stat().st_ino for path in target.iterdir()} == before
    for other in ((7, *WHOLE), (3, "bfloat16", WHOLE[1])):
        with pytest.raises(ValueError, match="hf exists: use another --target"):
            export_huggingface(run, target, *other)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def no_meta(path):
    path.write_text("{}")


def another_head(path):
    """As if the head on disk, of which others were written before, were not what was saved."""
    meta = json.loads(path.read_text())
    meta["fingerprints"]["params"]["['head']"][1] ^= 1
    path.write_text(json.dumps(with_checksum({k: v for k, v in meta.items() if k != "sha256"})))


@pytest.mark.parametrize("spoil", [no_meta, another_head])
def test_a_damaged_checkpoint_is_passed_over(run, tmp_path, caplog, spoil):
    copy = pathlib.Path(shutil.copytree(run.parent, tmp_path / "study")) / run.name
    spoil(copy / "checkpoints" / "7" / "meta" / "metadata")
    assert export_huggingface(copy, tmp_path / "a", None, *WHOLE).startswith("step 3 of")
    export_huggingface(run, tmp_path / "whole", 3, *WHOLE)
    assert_equal_trees(load_params(tmp_path / "a"), load_params(tmp_path / "whole"))
    assert "checkpoint 7" in caplog.text and "an older one is taken" in caplog.text
    with pytest.raises(ValueError, match=r"checkpoint 7 in .* is damaged"):
        export_huggingface(copy, tmp_path / "b", 7, *WHOLE)
    spoil(copy / "checkpoints" / "3" / "meta" / "metadata")
    with pytest.raises(ValueError, match=r"checkpoint 3 in .* is damaged"):
        export_huggingface(copy, tmp_path / "c", None, *WHOLE)
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


def test_what_cannot_be_exported_is_named(run, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists: use another --target"):
        export_huggingface(run, tmp_path / "there", None, *WHOLE)
    with pytest.raises(ValueError, match=r"has no checkpoint 5, only \[3, 7\]"):
        export_huggingface(run, tmp_path / "a", 5, *WHOLE)
    with pytest.raises(ValueError, match=r"has no checkpoint: name a folder of a run"):
        export_huggingface(tmp_path, tmp_path / "a", None, *WHOLE)
    alone = pathlib.Path(shutil.copytree(run, tmp_path / "study" / "run"))
    with pytest.raises(ValueError, match="corpus is missing: it has the tokenizer"):
        export_huggingface(alone, tmp_path / "a", None, *WHOLE)


def test_a_public_run_goes_on_as_olmo_itself_does(tmp_path):
    """Two updates after the checkpoint."""
    source, target = GOLDEN / "olmo", tmp_path / "olmo"
    line = import_olmo(source, target, optimizer=True)
    assert line == f"4,992 parameters with the moments of 3 updates are in {target}"
    config = DecoderConfig(32, 2, 16, 4, 24, 2, 500_000.0, 1e-6)
    optimizer = bind_schedule(AdamW(ConstantLinear(peak=1e-3, warmup=0, decay=0.1)), 1000)
    shapes = abstract_params(config)
    found = read_checkpoint(
        target / "checkpoints", 3, params=shapes, opt=jax.eval_shape(optimizer.init, shapes)
    )
    params, opt = start, _ = found["params"], found["opt"]
    expected = np.load(source / "expected.npz")

    def loss(params, tokens):
        log_p = jax.nn.log_softmax(apply(config, params, tokens)[:, :-1])
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()

    @jax.jit
    def update(params, opt, tokens, step):
        updates, opt = optimizer.update(jax.grad(loss)(params, tokens), opt, params, step=step)
        return optax.apply_updates(params, updates), opt

    for step, tokens in enumerate(expected["tokens"]):
        params, opt = update(params, opt, tokens, step)

    after = {name.removeprefix("after/"): a for name, a in expected.items() if name[:6] == "after/"}
    moved = 0.0
    for name, parts in olmo.layout(config).items():
        for path, rows in parts:
            wanted = transpose_matrix(path, after[name][rows])
            leaf, before = params, start
            for key in path:
                leaf, before = leaf[key], before[key]
            np.testing.assert_allclose(leaf, wanted, rtol=0, atol=2e-6, err_msg=name)
            moved = max(moved, np.abs(wanted - before).max())
    assert moved > 1e-3


def test_a_public_run_is_exported(tmp_path):
    import_olmo(GOLDEN / "olmo", tmp_path / "olmo", optimizer=False)
    with pytest.raises(ValueError, match="holds parameters without moments"):
        import_olmo(GOLDEN / "olmo", tmp_path / "olmo", optimizer=True)
    export_huggingface(tmp_path / "olmo", tmp_path / "hf", 0, *WHOLE)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["pad_token_id"] == 1
    config = DecoderConfig(32, 2, 16, 4, 24, 2, 500_000.0, 1e-6)
    assert_equal_trees(load_params(tmp_path / "hf"), olmo.load_params(GOLDEN / "olmo", config))
    assert set(tensors_of(tmp_path / "hf")) == set(tensor_paths(config))


PEAKS = """
import json, pathlib, re, sys
from ttoaa.interop.convert import export_huggingface, import_huggingface

def held(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(field + r":\\s+(\\d+)", text).group(1))

def peak(action, *args):
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = held("VmRSS")
    action(*args)
    return held("VmHWM") - before

small, large, folder = map(pathlib.Path, sys.argv[1:])
for source in (small, large):  # the first brings in all libraries
    imported, exported = folder / f"{source.name}-in", folder / f"{source.name}-out"
    peaks = [
        peak(import_huggingface, source, imported),
        peak(export_huggingface, imported, exported, None, "float32", 10**7),
    ]
print(json.dumps(peaks))
"""


def test_a_model_passes_through_memory_and_is_never_whole_in_it(tmp_path):
    config = DecoderConfig(vocab_size=512, layers=2, width=1024, heads=8, hidden=1024)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.standard_normal(a.shape, np.float32), abstract_params(config)
    )
    (tmp_path / "large").mkdir()
    save(tmp_path / "large", config, Card(64), params)
    command = [sys.executable, "-c", PEAKS, GOLDEN / "plain", tmp_path / "large", tmp_path]
    # Every array in pages of its own: what is freed goes back at once, and does not count.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = 4 * config.num_params()
    assert whole > 60 * 10**6
    assert max(json.loads(done.stdout.splitlines()[-1])) < 0.7 * whole, done.stdout
    assert_equal_trees(load_params(tmp_path / "large-out"), params)


def test_an_import_recognises_the_kind_of_a_folder(tmp_path):
    line = convert.import_folder(GOLDEN / "plain", tmp_path / "plain", None)
    assert line == f"21,600 parameters are in {tmp_path / 'plain'}"
    with pytest.raises(ValueError, match="/plain is a Hugging Face folder, "):
        convert.import_folder(GOLDEN / "plain", tmp_path / "a", True)
    with pytest.raises(ValueError, match=r"/golden has no config\.json and no config\.yaml: "):
        convert.import_folder(GOLDEN, tmp_path / "b", None)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["import"], 0, "convert: 4,992 parameters with the moments of 3 updates .*"),
        (["safetensors", "--nooptimizer"], 1, "convert: --optimizer is a flag of import:.*"),
        (["export", "import"], 1, "convert: the task must be .*, not export import"),
    ],
)
def test_the_command_says_what_it_did_or_what_is_wrong(arguments, code, line, tmp_path):
    command = [sys.executable, "-m", "ttoaa.interop", *arguments]
    command += [f"--source={GOLDEN / 'olmo'}", f"--target={tmp_path / 'target'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert re.fullmatch(line, (done.stderr if code else done.stdout).splitlines()[-1])
    assert (tmp_path / "target").exists() == (not code)
