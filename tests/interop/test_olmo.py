"""Against what OLMo's own code made: golden/make_olmo.py."""

import base64
import os
import pathlib
import pickle
import shutil
import sys
import tracemalloc
import types

import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from ttoaa.interop.huggingface.config import Card
from ttoaa.interop.olmo import weights
from ttoaa.interop.olmo.weights import (
    decode_tensor_name,
    fused_shapes,
    load_moments,
    load_params,
    read_config,
)
from ttoaa.interop.safetensors_io import write
from ttoaa.model.decoder import DecoderConfig, abstract_params, apply

GOLDEN = pathlib.Path(__file__).parent / "golden" / "olmo"
CONFIG = DecoderConfig(32, 2, 16, 4, 24, 2, 500_000.0, 1e-6)


def encoded(*keys, pickled=False):
    return base64.urlsafe_b64encode(pickle.dumps((keys, pickled))).decode()


@pytest.fixture
def folder(tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN, tmp_path / "olmo"))


def edit_tensors(path, change):
    held = {decode_tensor_name(name): array for name, array in load_file(path).items()}
    held.pop("param_groups")  # a pickle's name that is readable is not one of ours
    change(held)
    save_file(held, path)


def edit_config(folder, **changes):
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    model = {k: v for k, v in (content["model"] | changes).items() if v != "gone"}
    path.write_text(yaml.safe_dump({"model": model}))


def assert_equal_trees(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_config_is_read():
    assert read_config(GOLDEN) == (CONFIG, Card(32, 0, None, 1))


def test_the_public_1b_model_has_its_sizes(tmp_path):
    """Of configs/official-0425/OLMo2-1B-stage1.yaml, where YAML reads the eps as a text."""
    (tmp_path / "config.yaml").write_text(
        "run_name: a\nmodel: {d_model: 2048, n_heads: 16, n_layers: 16, mlp_ratio: 8,\n"
        " weight_tying: false, rope: true, rope_theta: 500000, include_bias: false,\n"
        " block_type: sequential, layer_norm_type: rms, layer_norm_eps: 1e-6,\n"
        " attention_layer_norm: true, norm_after: true, activation_type: swiglu,\n"
        " max_sequence_length: 4096, vocab_size: 100278, embedding_size: 100352,\n"
        " eos_token_id: 100257, pad_token_id: 100277, init_std: 0.02}\n"
    )
    config, card = read_config(tmp_path)
    assert config == DecoderConfig(100_352, 16, 2048, 16, 8192, None, 500_000.0, 1e-6)
    assert card == Card(4096, 100_257, None, 100_277)


def test_logits_are_those_of_olmo():
    expected = np.load(GOLDEN / "expected.npz")
    logits = jax.jit(apply, static_argnums=0)(
        CONFIG, load_params(GOLDEN, CONFIG), expected["tokens"][0]
    )
    assert expected["logits"].std() > 3
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-5)


def test_moments_and_their_count_are_read():
    moments, count = load_moments(GOLDEN, CONFIG)
    assert count == 3
    held = {
        decode_tensor_name(name): array
        for name, array in load_file(GOLDEN / "optim.safetensors").items()
    }
    for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        fused = held[f"state/transformer.blocks.1.ff_proj.weight/{theirs}"]
        up, gate = fused[:24], fused[24:]
        mlp = moments[ours]["block_01"]["mlp"]
        np.testing.assert_array_equal(mlp["up"], up.T)
        np.testing.assert_array_equal(mlp["gate"], gate.T)
    assert jax.tree.structure(moments["nu"]) == jax.tree.structure(abstract_params(CONFIG))


def test_names_of_sharded_training_are_cleaned(folder):
    def wrap(held):
        for name in list(held):
            held[name.replace("state/", "state/_fsdp_wrapped_module.")] = held.pop(name)

    edit_tensors(folder / "optim.safetensors", wrap)
    assert_equal_trees(load_moments(folder, CONFIG), load_moments(GOLDEN, CONFIG))


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (("transformer.wte.weight",), "transformer.wte.weight"),
        (("state", "transformer.wte.weight", "step"), "state/transformer.wte.weight/step"),
        (("state", 70_000, "exp_avg"), "state/70000/exp_avg"),
        (("a", "b", "c", "d"), "a/b/c/d"),
    ],
)
def test_names_are_decoded(keys, name):
    assert (
        decode_tensor_name(encoded(*keys))
        == decode_tensor_name(encoded(*keys, pickled=True))
        == name
    )
    assert decode_tensor_name(name) == name or "/" not in name


class Evil:
    def __reduce__(self):
        return os.mkdir, (Evil.path,)


def test_a_name_is_never_executed(tmp_path):
    Evil.path = str(tmp_path / "made")
    name = base64.urlsafe_b64encode(pickle.dumps((("a", Evil()), False))).decode()
    with pytest.raises(ValueError, match="not a tensor's name as OLMo writes it: a pickle with"):
        decode_tensor_name(name)
    with pytest.raises(ValueError, match="not a tensor's name as OLMo writes it"):
        decode_tensor_name("embedding")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_after": "gone"}, "norm_after is False, not True"),
        ({"include_bias": "gone"}, "include_bias is True, not False"),
        ({"clip_qkv": 8.0}, "clip_qkv is 8.0, not None"),
        ({"weight_tying": True}, "weight_tying is True, not False"),
        ({"n_layers": "gone"}, "has no 'n_layers'"),
        ({"n_heads": 5}, "heads times an even head width"),
        ({"n_layers": 3}, "model.safetensors has 2 layers, its config says 3"),
        ({"n_layers": 1}, "model.safetensors has 2 layers, its config says 1"),
        ({"n_kv_heads": 4}, r"att_proj.weight is \[32, 16\], its config says \[48, 16\]"),
        ({"embedding_size": None}, r"\[32, 16\], its config says \[27, 16\]"),
    ],
)
def test_other_models_are_refused(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_params(folder, read_config(folder)[0])
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


STATE = "state/transformer.ln_f.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held.pop(f"{STATE}/exp_avg_sq"), f"has no tensor {STATE}/exp_avg_sq"),
        (lambda held: held.update({f"{STATE}/step": np.array(4.0)}), r"steps \[3, 4\]"),
        (lambda held: [held.pop(n) for n in list(held) if "step" in n], r"steps \[\], but"),
        (lambda held: held.update({"state/0/step": np.array(4.0)}), "numbers its tensors"),
    ],
)
def test_damaged_moments_are_named(folder, change, message):
    edit_tensors(folder / "optim.safetensors", change)
    with pytest.raises(ValueError, match=message):
        load_moments(folder, CONFIG)


def test_files_that_are_not_there(folder):
    (folder / "optim.safetensors").rename(folder / "optim.pt")
    with pytest.raises(
        ValueError, match=r"missing: convert optim.pt with ttoaa convert safetensors"
    ):
        load_moments(folder, CONFIG)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing: fetch it"):
        load_params(folder, CONFIG)
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match="has no config"):
        read_config(folder)


def test_fused_tensors_are_in_memory_one_at_a_time(tmp_path):
    config = DecoderConfig(vocab_size=64, layers=4, width=256, heads=4, hidden=1024)
    float32 = np.dtype(np.float32)
    kinds = {name: (shape, float32) for name, shape in fused_shapes(config).items()}
    write(tmp_path / "model.safetensors", kinds, lambda name: np.ones(*kinds[name]))
    largest = 4 * 2 * config.hidden * config.width
    tracemalloc.start()
    try:
        load_params(tmp_path, config, lambda _, read: read() is None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 4 * config.num_params() > 5 * largest
    assert peak < 2.1 * largest + 600_000  # the last is what tracing the shapes takes


class Tensor:
    """As much of a torch.Tensor as the converter needs."""

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def float(self):
        return self

    def numpy(self):
        return self.array


@pytest.mark.parametrize("numbered", [True, False])
def test_pt_files_are_converted(folder, tmp_path, monkeypatch, numbered):
    """torch.load stands in for itself: it is asked for weights alone, and gives tensors."""
    raw = {f: load_file(GOLDEN / f"{f}.safetensors") for f in ("model", "optim")}
    held = {
        f: {decode_tensor_name(n): Tensor(a) for n, a in tensors.items()}
        for f, tensors in raw.items()
    }
    names = sorted({name.split("/")[1] for name in held["optim"] if name.startswith("state/")})
    keys = list(range(len(names))) if numbered else names
    state = {
        key: {k: held["optim"][f"state/{name}/{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        for key, name in zip(keys, names, strict=True)
    }
    groups = [{"params": keys, "param_names": names, "lr": 1.0}]
    files = {"model.pt": held["model"], "optim.pt": {"state": state, "param_groups": groups}}

    def load(path, **options):
        assert options == {"map_location": "cpu", "mmap": True, "weights_only": True}
        return files[path.name]

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    for file in files:
        (folder / file).touch()
    assert weights.convert(folder, tmp_path) == ["model.safetensors", "optim.safetensors"]
    assert_equal_trees(load_params(tmp_path, CONFIG), load_params(GOLDEN, CONFIG))
    assert_equal_trees(load_moments(tmp_path, CONFIG), load_moments(GOLDEN, CONFIG))
    if numbered:
        groups[0].pop("param_names")
        with pytest.raises(ValueError, match="numbers its tensors and does not name them"):
            weights.convert(folder, tmp_path)


def test_without_torch_it_is_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"needs torch: pip install 'ttoaa\[hf\]'"):
        weights.convert(folder, tmp_path)
