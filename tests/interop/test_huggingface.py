"""Against what torch and transformers made: golden/make.py."""

import dataclasses
import json
import pathlib
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from ttoaa.interop.huggingface import config as tokenizer
from ttoaa.interop.huggingface.config import Card, read_config
from ttoaa.interop.huggingface.weights import (
    get_leaf,
    load_params,
    save,
    tensor_paths,
    transpose_matrix,
)
from ttoaa.model.decoder import DecoderConfig, abstract_params, apply

GOLDEN = pathlib.Path(__file__).parent / "golden"
MODELS = {
    "plain": DecoderConfig(61, 2, 32, 4, 48, 4, 500_000.0, 1e-6),
    "grouped": DecoderConfig(37, 3, 24, 6, 20, 2, 10_000.0, 1e-5),
    "one-kv-head-bfloat16": DecoderConfig(101, 1, 16, 4, 40, 1, 100.0, 1e-3, dtype="bfloat16"),
    "tied": DecoderConfig(53, 2, 12, 2, 8, 2, 10_000.0, 1e-5),
}
LONGEST = {"grouped": 64}
IRRELEVANT = {
    "config.json": {"transformers_version", "rope_theta"},  # the latter is for older versions
    "generation_config.json": {
        *("transformers_version", "_from_model_config", "use_cache", "output_attentions"),
        *("output_hidden_states", "bos_token_id", "pad_token_id"),
    },
}


def tensors_of(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: array for file in files for name, array in load_file(file).items()}


def copy_of(name, tmp_path):
    return pathlib.Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (content | changes).items() if v != "gone"}))


def assert_equal_trees(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", MODELS)
def test_the_config_is_read(name):
    config, card, tied = read_config(GOLDEN / name)
    assert config == MODELS[name]
    ids = (0, 1, 2) if name == "tied" else (0, None, None)
    assert card == Card(LONGEST.get(name, 2048), *ids)
    assert tied == (name == "tied")


@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients_are_those_of_transformers(name):
    config = dataclasses.replace(MODELS[name], dtype="float32")
    params, expected = load_params(GOLDEN / name), np.load(GOLDEN / name / "expected.npz")
    tokens = expected["tokens"]

    def loss(params):
        logits = apply(config, params, tokens)
        log_p = jax.nn.log_softmax(logits[:, :-1])
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean(), logits

    (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert expected["logits"].std() > 2.5
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(value, expected["loss"], rtol=1e-6)
    if name == "tied":  # there one matrix gets both
        gradients["embedding"] += gradients["head"].T
    for theirs, path in tensor_paths(config).items():
        if name == "tied" and theirs == "lm_head.weight":
            continue
        wanted = expected[f"gradient/{theirs}"]
        atol = 2e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(
            transpose_matrix(path, get_leaf(gradients, path)), wanted, 0, atol, theirs
        )


@pytest.mark.parametrize(("name", "dtype"), [("plain", "float32"), ("grouped", "float32"),
                                             ("one-kv-head-bfloat16", "bfloat16")])  # fmt: skip
def test_an_export_is_bit_for_bit_what_transformers_wrote(name, dtype, tmp_path):
    config, card, _ = read_config(GOLDEN / name)
    save(tmp_path, config, card, load_params(GOLDEN / name), dtype, shard_bytes=12_000)
    ours, theirs = tensors_of(tmp_path), tensors_of(GOLDEN / name)
    assert ours.keys() == theirs.keys()
    for tensor, array in theirs.items():
        assert ours[tensor].dtype == array.dtype
        np.testing.assert_array_equal(ours[tensor], array)
    for file in ("config.json", "generation_config.json"):
        wanted = json.loads((GOLDEN / name / file).read_text())
        written = json.loads((tmp_path / file).read_text())
        for key in {*written, *wanted} - IRRELEVANT[file]:
            assert written[key] == wanted[key], key
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == config.rope_theta


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shard_bytes", [1, 12_000, 5 * 10**9])
def test_import_export_import_keeps_every_bit(name, shard_bytes, tmp_path):
    config, card, _ = read_config(GOLDEN / name)
    params = load_params(GOLDEN / name)
    save(
        tmp_path, dataclasses.replace(config, dtype="float32"), card, params, "float32", shard_bytes
    )
    assert_equal_trees(load_params(tmp_path), params)
    again, same_card, tied = read_config(tmp_path)
    assert (again, same_card, tied) == (dataclasses.replace(config, dtype="float32"), card, False)
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes < 10**6)
    for file in tmp_path.glob("model-*.safetensors"):
        sizes = [array.nbytes for array in load_file(file).values()]
        assert len(sizes) == 1 or 0 < sum(sizes) <= shard_bytes


def test_bfloat16_goes_out_rounded_once_and_comes_back(tmp_path):
    config, card, _ = read_config(GOLDEN / "plain")
    params = load_params(GOLDEN / "plain")
    save(tmp_path / "half", config, card, params, "bfloat16")
    half = load_params(tmp_path / "half")
    rounded = jax.tree.map(lambda a: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32), params)
    assert_equal_trees(half, rounded)
    assert not np.array_equal(half["head"], params["head"])
    assert read_config(tmp_path / "half")[0].dtype == "bfloat16"
    save(tmp_path / "again", config, card, half, "bfloat16")
    ours, theirs = tensors_of(tmp_path / "again"), tensors_of(tmp_path / "half")
    for tensor, array in theirs.items():
        np.testing.assert_array_equal(ours[tensor].view(np.uint16), array.view(np.uint16))


def test_one_tensor_and_its_transpose_are_in_memory_and_no_more(tmp_path):
    config = DecoderConfig(vocab_size=6000, layers=3, width=256, heads=4, hidden=2048)
    params = jax.tree.map(lambda a: np.ones(a.shape, np.float32), abstract_params(config))
    whole, largest, block = 4 * config.num_params(), 4 * 6000 * 256, 4 * 2048 * 256
    assert whole > 5 * largest > 10 * block

    def peak(action, *args):
        tracemalloc.start()
        try:
            action(*args)
            return tracemalloc.get_traced_memory()[1] - 600_000  # what tracing the shapes takes
        finally:
            tracemalloc.stop()

    assert peak(save, tmp_path, config, Card(64), params) < 1.1 * largest
    # The bytes that are read, and the array in the other order that is made of them.
    assert peak(load_params, tmp_path, lambda _, read: read() is None) < 2.1 * largest
    # The largest come first, so that what is on top of the whole are a block's.
    assert peak(load_params, tmp_path) < whole + 2.1 * block


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "the model is LlamaForCausalLM, llama",
        ),
        ({"architectures": ["Olmo2ForSequenceClassification"]}, "not Olmo2ForCausalLM"),
        ({"model_type": "olmo3"}, "not Olmo2ForCausalLM"),
        ({"attention_bias": True}, "attention_bias is True, only False is read"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu' is read"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"head_dim": 16}, "head_dim is 16"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "only plain RoPE is read"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5}}, "only plain RoPE is read"),
        ({"rope_theta": 10_000}, "rope_theta is both 10000.0 and 500000.0"),
        ({"num_hidden_layers": "gone"}, "has no 'num_hidden_layers'"),
        ({"num_hidden_layers": "2"}, 'must hold an integer in num_hidden_layers, not "2"'),
        ({"hidden_size": 30}, "heads times an even head width"),
        ({"hidden_size": None}, "must hold an integer in hidden_size, not null"),
        ({"rms_norm_eps": "small"}, 'must hold a finite number in rms_norm_eps, not "small"'),
        ({"rms_norm_eps": np.nan}, "must hold a finite number in rms_norm_eps, not NaN"),
        ({"rms_norm_eps": 1e39}, "rms_norm_eps must be a positive number within float32, not 1e"),
        ({"rope_theta": np.inf}, "a finite number or null in rope_theta, not Infinity"),
        ({"rope_parameters": {"rope_theta": np.nan}}, "rope_parameters must hold a finite number"),
        ({"vocab_size": 10**30}, "vocab_size must be a positive integer below"),
        ({"eos_token_id": 61}, "eos_token_id is 61, outside the vocabulary of 61"),
        ({"eos_token_id": []}, r"eos_token_id is \[\], outside"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be positive, not 0"),
        ({"logit_scale": 2.0}, "'logit_scale' is not a known field and may change the model"),
        ({"sliding_window": 4096}, "sliding_window is 4096, only None is read"),
        ({"num_hidden_layers": 10_000}, "has 2 layers, its config says 10000"),
        ({"num_hidden_layers": 3}, "model.safetensors has 2 layers, its config says 3"),
        ({"num_hidden_layers": 1}, "model.safetensors has 2 layers, its config says 1"),
        ({"vocab_size": 62}, r"embed_tokens.weight is \[61, 32\], its config says \[62, 32\]"),
        ({"tie_word_embeddings": True}, "has a tensor lm_head.weight"),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(changes, message, tmp_path):
    folder = copy_of("plain", tmp_path)
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_params(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (
            lambda f: (f / "config.json").write_text("[]"),
            r"config.json must hold an object, not \[\]",
        ),
        (lambda f: [p.unlink() for p in f.glob("*.index.json")], "has no model.safetensors"),
        (lambda f: (f / "model-00003-of-00005.safetensors").unlink(), "00003.* is missing"),
        (lambda f: cut(f / "model-00003-of-00005.safetensors"), "00003.* is damaged"),
        (lambda f: reindex(f, "model-00001-of-00005.safetensors"), "lists lm_head.weight in"),
        (lambda f: reindex(f, "../model.safetensors"), "not a weight file in its folder"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text("{}"),
            "has no 'weight_map': download it again",
        ),
        (lambda f: retype(f), "lm_head.weight is I32, not"),
        (lambda f: retype(f, np.float32, np.nan), "lm_head.weight in .* not finite, such as NaN"),
        (lambda f: set_index(f, {}), "lists no tensor in its weight_map"),
        (lambda f: set_index(f, {"a": 7}), "must hold a text in weight_map.a, not 7"),
        (lambda f: (f / "config.json").write_bytes(b'{"a": "\xff"}'), "not UTF-8 at byte 7"),
        (
            lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'),
            "the key 'a' occurs twice",
        ),
        (
            lambda f: shutil.copy(GOLDEN / "plain" / "model.safetensors", f),
            "has model.safetensors in addition to the weights of model.safetensors.index.json",
        ),
    ],
)
def test_damaged_folders_are_named(spoil, message, tmp_path):
    folder = copy_of("grouped", tmp_path)
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        load_params(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def reindex(folder, file):
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    content["weight_map"]["lm_head.weight"] = file
    path.write_text(json.dumps(content))


def set_index(folder, weight_map):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def retype(folder, kind=np.int32, value=0):
    path = folder / "model-00005-of-00005.safetensors"
    held = load_file(path)
    held["lm_head.weight"] = held["lm_head.weight"].astype(kind)
    held["lm_head.weight"][2, 1] = value
    save_file(held, path)


def test_both_spellings_of_rope_and_their_absence(tmp_path):
    folder = copy_of("plain", tmp_path)
    for changes, theta in (
        ({"rope_theta": 5e5, "rope_parameters": "gone"}, 5e5),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_theta": "gone", "rope_parameters": "gone"}, 1e4),
        ({"rope_theta": 7, "rope_parameters": None, "rope_scaling": None}, 7.0),
    ):
        edit(folder, **changes)
        assert read_config(folder)[0].rope_theta == theta


@pytest.mark.parametrize("text", ["a<|endoftext|>b", "<|endoftext|>", "<|endoftext", "the river"])
def test_the_exported_tokenizer_encodes_as_training_does(corpus, tmp_path, text):
    """transformers hands `split_special_tokens` to `tokenizers` under this name."""
    tokenizer.write(corpus.tokenizer.path, corpus.eos_id, 32, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    exported = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    exported.encode_special_tokens = settings["split_special_tokens"]
    ids = exported.encode(text).ids
    assert ids == corpus.tokenizer.encode(text).tolist() and corpus.eos_id not in ids


def test_a_tokenizer_of_ours_gets_its_settings(corpus, tmp_path):
    tokenizer.write(corpus.folder / "tokenizer.json", corpus.eos_id, 32, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|endoftext|>" and settings["model_max_length"] == 32
    assert settings["bos_token"] == settings["eos_token"] and settings["pad_token"] is None
    theirs = (corpus.folder / "tokenizer.json").read_bytes()
    assert (tmp_path / "tokenizer.json").read_bytes() == theirs
    assert tokenizer.copy(tmp_path, tmp_path / "copy") == [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    ]
    with pytest.raises(ValueError, match="has no token 5000"):
        tokenizer.write(corpus.folder / "tokenizer.json", 5000, 32, tmp_path)
    (tmp_path / "model").write_bytes(b"\n\x0b a SentencePiece model")
    with pytest.raises(ValueError, match="model is not a `tokenizers` JSON file"):
        tokenizer.write(tmp_path / "model", 0, 32, tmp_path)
